"""Measuring a model: its speed and its size on disk."""
