"""Sounds: readers of data sets, decoding, measurements, synthesis."""
