"""Sizes that a model's layers keep as integers."""
