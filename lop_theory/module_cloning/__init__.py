"""Parts of :mod:`lop_theory.modules`: profiles of interfaces, one rule for each kind of module, the walk through a tree."""
