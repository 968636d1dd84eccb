"""The papers' mathematics: arrays in, arrays out."""
