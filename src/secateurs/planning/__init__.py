"""Choice of the channels to remove, from scores or error curves and a budget."""
