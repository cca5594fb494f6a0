"""Reports for people to read: statistics, differences, findings, images."""
