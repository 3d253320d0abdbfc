"""Slowly-changing regression: error by activation and step size (Nature 632:768, Extended Data Figure 2b)."""
