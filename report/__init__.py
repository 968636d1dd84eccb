"""The atlas: a static site that is a pure function of the warehouse."""
