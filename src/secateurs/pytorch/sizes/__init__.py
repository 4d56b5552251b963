"""Sizes that a model keeps as integers, in its layers and in its code."""
