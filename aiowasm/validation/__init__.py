"""Validation: the typing rules of the standard."""
