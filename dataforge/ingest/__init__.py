"""Conversion of a source to shards, with a complete account of its records."""
