"""What neurons answer to, measured from their responses to a battery of stimuli."""
