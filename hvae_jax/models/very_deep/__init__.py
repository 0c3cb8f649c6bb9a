"""The very deep VAEs: one graph, and the models that are its parts."""
