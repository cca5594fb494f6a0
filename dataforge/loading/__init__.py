"""Loading: from shards to batches."""
