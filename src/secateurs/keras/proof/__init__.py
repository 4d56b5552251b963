"""The proof of a cut: the small model against the masked twin of the dense one."""
