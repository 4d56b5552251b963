"""A study: the loop of pruning rounds, its history, its checkpoints, its directory."""
