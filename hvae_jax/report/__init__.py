"""What a person sees of a model: diagnoses in words, charts, pictures, one page."""
