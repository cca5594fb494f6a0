"""What recipes are made of: one function an operation, found by name in `registry`."""
