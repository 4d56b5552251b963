"""A PyTorch model's example inputs, named tensors and caches."""
