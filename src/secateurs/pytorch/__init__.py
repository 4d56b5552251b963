"""Secateurs for PyTorch models."""
