"""From a source to shards: every record accounted for."""
