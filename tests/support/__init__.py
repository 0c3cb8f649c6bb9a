"""Helpers of the tests: rows of the contract, small models, closed forms, and functions that make files."""
