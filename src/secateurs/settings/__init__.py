"""What a study is told: training, pruning, when to stop; validated and versioned."""
