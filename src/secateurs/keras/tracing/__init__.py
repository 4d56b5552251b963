"""Trace a model's graph in one walk, with one rule for each layer or operation."""
