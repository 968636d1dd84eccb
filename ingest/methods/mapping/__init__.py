"""Neurons as points of a plane, near where they answer alike."""
