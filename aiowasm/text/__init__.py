"""The text format: parsing of modules and test scripts."""
