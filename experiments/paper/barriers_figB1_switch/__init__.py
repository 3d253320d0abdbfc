"""Bit flipping: switching from SGD to continual backprop in the middle of a run (arXiv 2510.00304, Figure B.1)."""
