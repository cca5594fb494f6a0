"""From shards to shards, and back to annotation files."""
