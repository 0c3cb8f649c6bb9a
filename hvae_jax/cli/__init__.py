"""The command lines: `hvae`, and `script.main` of an experiment file."""
