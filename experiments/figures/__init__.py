"""Figures: what one is (record), how it is built and kept (build), judged (table) and drawn in one style (style)."""

SCALES = ("smoke", "teach", "paper")  # seconds; minutes on two cores; the published protocol
