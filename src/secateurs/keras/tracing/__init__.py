"""One walk through a model's graph, and the rules of what each layer does."""
