"""Which clips are of which classes, and neurons as detectors of them."""
