"""Whether an experiment fits a chip, and how fast it can be at best: compiled for it, or estimated from shapes."""
