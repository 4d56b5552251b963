"""One study: the loop of rounds, its history, its checkpoints, its directory."""
