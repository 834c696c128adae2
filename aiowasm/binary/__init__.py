"""The binary format: decoding and encoding of modules."""
