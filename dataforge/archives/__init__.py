"""Archives that are read as folders, without being extracted."""
