"""Conversions from shards to shards, and from shards to annotation files."""
