"""Figures: what one is (record), how it is built and kept (build), judged (table) and drawn in one style (style)."""
