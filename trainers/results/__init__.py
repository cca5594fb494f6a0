"""What a run shows: metrics, curves, pictures, reports."""
