"""Record a forward pass on a tape and replay it. PyTorch only: a Keras model is a graph already."""
