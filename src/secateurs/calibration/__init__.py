"""Calibration data: batches, statistics, ablation, racing."""
