"""What stage activations is made of: recording outputs, shards of clips, types of the stored values, tables of a layer."""
