"""Slow, independent second computations of what `lop_theory` computes fast. Nothing here imports the code it checks."""
