"""Slicing a model's tensors and its optimizer's state."""
