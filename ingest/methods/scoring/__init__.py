"""Scores of descriptions that are hard to please."""
