"""The abstract syntax of the standard: types, modules and the instruction table."""
