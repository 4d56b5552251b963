"""Collect criteria's statistics in one pass of calibration data through a model."""
