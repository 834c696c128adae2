"""What applications offer to guests: host functions and WASI."""
