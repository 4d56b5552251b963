"""The algebra of channels. NumPy and SciPy only; knows no framework."""
