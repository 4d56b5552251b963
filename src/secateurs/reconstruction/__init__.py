"""Repair of cut models towards the dense model's outputs: solvers and judges, in NumPy."""
