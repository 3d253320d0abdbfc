"""What is recorded of S online learners on a probe batch: ranks, dead and duplicate units, weights. Pure functions of arrays.

z and h are [N, H, S] (probe inputs, units, replicas); the definitions are those of :mod:`lop_theory.metrics`, which has replicas
first. A replica with a number that is not finite gets NaN.

The published code of bit flipping (2510.00304) hooks a layer in front of a functional ReLU, so that its "effective rank"
and "duplicates" are those of the *pre-activations*; here both are recorded, under different names.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lop_theory import metrics
from lop_theory.metrics import DEAD_SHARE, DUPLICATE_COSINE

__all__ = ["DEAD_SHARE", "DUPLICATE_COSINE", "effective_ranks", "dead_fraction", "duplicate_fraction", "measure"]

Floats = NDArray[np.floating]
FloatArray = NDArray[np.float64]


def effective_ranks(a: Floats) -> FloatArray:
    """Effective rank [S] of each slice a[:, :, s], uncentred; 0, as published, where Σσ ≤ 1e-9.

    >>> effective_ranks(np.stack([np.eye(3), np.ones((3, 3))], axis=-1)).round(6).tolist()
    [3.0, 1.0]
    """
    return metrics.effective_ranks(metrics.singular_values(_replicas_first(a)), of_zero=0.0, floor=1e-9)


def dead_fraction(h: Floats) -> FloatArray:
    """Share [S] of units that are silent on more than ``DEAD_SHARE`` of the probe.

    >>> dead_fraction(np.array([[[0.0], [1.0]], [[0.0], [0.0]]])).tolist()
    [0.5]
    """
    return metrics.dead_fraction(_replicas_first(h))


def duplicate_fraction(a: Floats) -> FloatArray:
    """Share [S] of units j for which some unit k > j has cosine(a_j, a_k) > ``DUPLICATE_COSINE``; zero units never count.

    >>> duplicate_fraction(np.array([[[1.0], [2.0], [0.0]], [[1.0], [2.0], [0.0]]])).round(6).tolist()
    [0.333333]
    """
    return metrics.duplicate_fraction(_replicas_first(a))


def measure(z: Floats, h: Floats, w1: Floats, w2: Floats) -> dict[str, FloatArray]:
    """All measurements [S] of learners with weights w1 [H, I, S] and w2 [H, S].

    >>> z = np.array([[[1.0], [-2.0]], [[3.0], [-1.0]]])
    >>> recorded = measure(z, np.maximum(z, 0), np.ones((2, 20, 1)), np.ones((2, 1)))
    >>> {name: recorded[name].tolist() for name in ("effective_rank_h", "dead_fraction", "mean_abs_w1")}
    {'effective_rank_h': [1.0], 'dead_fraction': [0.5], 'mean_abs_w1': [1.0]}
    """
    return {
        "effective_rank_z": effective_ranks(z),
        "effective_rank_h": effective_ranks(h),
        "dead_fraction": dead_fraction(h),
        "duplicate_fraction_z": duplicate_fraction(z),
        "duplicate_fraction_h": duplicate_fraction(h),
        "mean_abs_w1": np.abs(w1).astype(np.float64).mean(axis=(0, 1)),
        "mean_abs_w2": np.abs(w2).astype(np.float64).mean(axis=0),
    }


def _replicas_first(a: Floats) -> Floats:
    """[S, N, H]."""
    return np.moveaxis(a, -1, 0)
