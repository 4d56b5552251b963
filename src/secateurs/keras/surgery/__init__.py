"""Rebuild layers with other sizes, slice their weights, and edit whole layers."""
