"""What calibration data say of a network: batches, statistics, ablation, racing."""
