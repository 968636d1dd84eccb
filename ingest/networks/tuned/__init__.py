"""A planted network of which every neuron's tuning is known, and the torch filter banks that it hears with."""
