"""Remove channels one at a time, at less than the cost of a forward pass each."""
