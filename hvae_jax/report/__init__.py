"""Reports on a model for people: diagnoses in words, charts, pictures, one page."""
