"""What is left of a network made to answer as the dense one did: solvers and judges, in NumPy."""
