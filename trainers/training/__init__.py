"""Training loop shared by all detectors, and its components."""
