"""The portable engine: an interpreter."""
