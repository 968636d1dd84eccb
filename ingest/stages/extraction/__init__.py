"""What stage activations is made of: recording outputs, segments of clips, types of the stored values, tables of a layer."""
