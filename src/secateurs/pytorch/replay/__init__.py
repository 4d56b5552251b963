"""A forward pass on tape, played again. PyTorch only: a Keras model is a graph already."""
