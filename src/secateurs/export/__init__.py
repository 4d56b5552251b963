"""Models written for the runtimes that they will run in."""
