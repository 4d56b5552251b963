"""Models written for the runtimes that they will run in, and compared with the originals there."""
