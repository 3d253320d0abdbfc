"""Decorrelation and frozen units by the gain of tanh and the bias of ReLU (arXiv 2510.00304 v2, Figure A.2)."""
