"""The pages of the overview, networks, layers, neurons, data sets, classes and clips: a frame each, which topics fill."""
