"""A run from its settings to its folder: build, train, continue, log."""
