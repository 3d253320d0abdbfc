"""Processors and threads: every process computes on one thread, so that sums do not depend on the machine."""

from __future__ import annotations

import os

__all__ = ["VARIABLES", "one_thread", "processors"]

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What linear algebra reads when it is loaded."""


def one_thread() -> None:
    """Linear algebra of this process on one thread, unless its environment asks for more; call it before torch is loaded.

    A sum in another order is another sum, and matrices as small as those of the runs gain nothing from threads.
    """
    for variable in VARIABLES:
        os.environ.setdefault(variable, "1")


def processors() -> int:
    """Processors that this process may use, at most 8: a worker of ``lop verify`` needs half a gigabyte.

    >>> 1 <= processors() <= 8
    True
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, usable)
