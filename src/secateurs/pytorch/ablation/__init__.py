"""Removing channels one at a time, for less than a forward pass each."""
