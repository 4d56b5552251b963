"""One forward pass, watched below Python, and the rules of what each operation does."""
