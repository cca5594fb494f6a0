"""Thin trainers over dataforge's shards. Each detector is one file, run as `python -m trainers.<name>`."""
