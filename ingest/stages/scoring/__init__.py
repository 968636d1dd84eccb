"""What stage `scores` scores by."""
