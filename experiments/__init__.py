"""Training runs and the `lop` command: the layer that may hand a trained network to a claim."""
