"""Removing channels one at a time."""
