"""Slowly-changing regression: continual backprop and L2 against backprop, over their parameters (arXiv 2306.13812)."""
