"""Functions from `Source` to `Source`: chosen, joined, repaired."""
