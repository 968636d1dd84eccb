"""The map of all neurons."""
