"""Sparse autoencoders: the layouts in which they are published, their latents as layers of a network, and training."""
