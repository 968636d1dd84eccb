"""Cheap, repeatable tables derived from the warehouse, which they only read."""
