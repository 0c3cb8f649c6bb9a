"""Very deep VAEs: one graph, and the models that fill it with their parts."""
