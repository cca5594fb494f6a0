"""Results of a run: metrics, curves, pictures, reports."""
