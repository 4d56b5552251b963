"""Trace a forward pass at the dispatcher, with one rule for each operation."""
