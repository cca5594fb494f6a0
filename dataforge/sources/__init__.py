"""Functions from `Source` to `Source`: selection, joining, repair."""
