"""Bit flipping: effective rank, duplicate units and loss over the width (arXiv 2510.00304, Figure B.2)."""
