"""A Keras model's example inputs and named tensors."""
