"""Measurement of a model's speed and size on disk."""
