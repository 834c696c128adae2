"""Ordinary bodies validated and recorded by machine code; what is not ordinary, or wrong, is left to the validator."""
