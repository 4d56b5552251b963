"""Building layers anew in other sizes, slicing their weights, editing whole layers."""
