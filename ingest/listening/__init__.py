"""Listening: which neurons of a warehouse's network these sounds move, against what the clips of a data set do. Reads; writes nothing."""
