"""One pass of calibration data through a model, for all that criteria ask of it."""
