"""Channels, the equations between them, cuts and costs. Uses NumPy and SciPy, no framework."""
