"""Secateurs makes trained neural networks smaller and faster, and proves each cut."""
