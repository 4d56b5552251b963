"""Settings of a study: training, pruning, when to stop; validated and versioned."""
