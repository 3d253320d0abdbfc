"""The hard rank of features after an activation (draft of arXiv 2510.00304, June 2025)."""
