"""Export of models to the runtimes that they will run in, with a comparison of the outputs."""
