"""What is recorded of S online learners on a probe batch: ranks, dead and duplicate units, weights. Pure functions of arrays.

z and h are [N, H, S] (probe inputs, units, replicas). Every function works on one replica at a time in LAPACK or by
elementwise operations, so that a replica's value does not depend on the others. A replica with a number that is not
finite gets NaN.

The published code of bit flipping (2510.00304) hooks a layer in front of a functional ReLU, so that its "effective rank"
and "duplicates" are those of the *pre-activations*; here both are recorded, under different names.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

__all__ = ["DEAD_SHARE", "DUPLICATE_COSINE", "effective_ranks", "dead_fraction", "duplicate_fraction", "measure"]

Floats = NDArray[np.floating]
FloatArray = NDArray[np.float64]

DEAD_SHARE = 0.95
"""A unit is called dead if it is silent (|h| < 1e-7) on more than this share of the probe (published threshold)."""

DUPLICATE_COSINE = 0.98
"""Units whose activity vectors have a larger cosine are called duplicates (threshold published for bit flipping)."""


def effective_ranks(a: Floats) -> FloatArray:
    """Effective rank [S] of each slice a[:, :, s]: exp of the entropy of σ / Σσ, uncentred; 0 if all entries are 0.

    >>> effective_ranks(np.stack([np.eye(3), np.ones((3, 3))], axis=-1)).round(6).tolist()
    [3.0, 1.0]
    """
    slices, finite = _slices(a)
    sigma = np.linalg.svd(slices, compute_uv=False)
    total = sigma.sum(axis=1, keepdims=True)
    share = np.divide(sigma, total, out=np.zeros_like(sigma), where=total > 1e-9)
    ranks = np.where(total[:, 0] > 1e-9, np.exp(entr(share).sum(axis=1)), 0.0)
    return np.where(finite, ranks, np.nan)


def dead_fraction(h: Floats) -> FloatArray:
    """Share [S] of units that are silent on more than ``DEAD_SHARE`` of the probe.

    >>> dead_fraction(np.array([[[0.0], [1.0]], [[0.0], [0.0]]])).tolist()
    [0.5]
    """
    dead = ((np.abs(h) < 1e-7).mean(axis=0) > DEAD_SHARE).mean(axis=0)
    return np.where(np.isfinite(h).all(axis=(0, 1)), dead, np.nan)


def duplicate_fraction(a: Floats) -> FloatArray:
    """Share [S] of units j for which some unit k > j has cosine(a_j, a_k) > ``DUPLICATE_COSINE``; zero units never count.

    >>> duplicate_fraction(np.array([[[1.0], [2.0], [0.0]], [[1.0], [2.0], [0.0]]])).round(6).tolist()
    [0.333333]
    """
    slices, finite = _slices(a)
    norms = np.linalg.norm(slices, axis=1, keepdims=True)
    unit = np.divide(slices, norms, out=np.zeros_like(slices), where=norms > 0)
    cosine = np.stack([u.T @ u for u in unit])
    later = np.triu(np.ones(cosine.shape[1:], dtype=bool), k=1)
    return np.where(finite, ((cosine > DUPLICATE_COSINE) & later).any(axis=2).mean(axis=1), np.nan)


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


def _slices(a: Floats) -> tuple[FloatArray, NDArray[np.bool_]]:
    """[S, N, H] float64, contiguous, zero where a replica is not finite; and which replicas are finite."""
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(a).all(axis=(0, 1)))
    return np.ascontiguousarray(np.moveaxis(np.where(finite, a, 0.0), -1, 0), dtype=np.float64), finite
