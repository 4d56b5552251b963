"""From scores and a budget to a cut."""
