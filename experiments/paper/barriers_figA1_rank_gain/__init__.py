"""The gap x² − K(x)² and the gain of rank, against their bounds (arXiv 2510.00304 v2, Figure A.1)."""
