"""Building blocks of detectors."""
