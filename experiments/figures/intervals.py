"""Intervals over seeds: Student's t of a mean, of paired differences, and the percentile bootstrap.

Replicas of different methods that share a seed share their stream of tasks (common random numbers), so a difference between
methods has a much smaller spread than either level: orderings are judged by :func:`paired_interval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

__all__ = ["Interval", "point", "mean_interval", "paired_interval", "bootstrap_interval", "blocks"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with a two-sided interval over n seeds; ``low`` and ``high`` are NaN where n is too small for one.

    >>> Interval(0.5, 0.4, 0.6, 5).overlaps(0.55, 0.9), Interval(0.5, math.nan, math.nan, 1).overlaps(0.4, 0.45)
    (True, False)
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def ends(self) -> tuple[float, float]:
        """``low`` and ``high``, or the mean twice where there is no interval."""
        return (self.mean, self.mean) if math.isnan(self.low) else (self.low, self.high)

    def overlaps(self, low: float, high: float) -> bool:
        """Whether the interval (or the mean, where there is none) meets [low, high]."""
        return self.ends[0] <= high and low <= self.ends[1]


def point(value: float, n: int = 1) -> Interval:
    """A number from n values that has no interval: an exact one, a maximum, an R².

    >>> point(0.5)
    Interval(mean=0.5, low=nan, high=nan, n=1)
    """
    return Interval(float(value), math.nan, math.nan, int(n))


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of values [R] over seeds and mean ± t_{R−1} s/√R. NaN values (replicas that diverged) are left out.

    >>> mean_interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=-0.484137711..., high=4.48413771..., n=3)
    >>> mean_interval([1.0])
    Interval(mean=1.0, low=nan, high=nan, n=1)
    """
    kept = np.asarray(values, float).ravel()
    kept = kept[~np.isnan(kept)]
    n = len(kept)
    if n == 0:
        return point(math.nan, 0)
    mean = float(kept.mean())
    if n == 1:
        return point(mean)
    half = float(stdtrit(n - 1, (1 + level) / 2) * kept.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired_interval(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Mean difference a − b, [R] each, seed by seed; pairs of which one diverged (NaN) are left out.

    >>> paired_interval([1.0, 12.0, 23.0], [0.0, 10.0, 20.0]).mean
    2.0
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape:
        raise ValueError(f"a has shape {first.shape} and b {second.shape}; pairs need one value of each per seed")
    return mean_interval(first - second, level)


def bootstrap_interval(
    values: ArrayLike, generator: np.random.Generator, level: float = 0.95, draws: int = 2000
) -> Interval:
    """Mean of values [R] and the percentile interval of the means of ``draws`` resamples of the seeds.

    >>> made = bootstrap_interval(np.arange(100.0), np.random.default_rng(0))
    >>> 40 < made.low < made.mean < made.high < 60
    True
    """
    kept = np.asarray(values, float).ravel()
    kept = kept[~np.isnan(kept)]
    if len(kept) < 2:
        return mean_interval(kept, level)
    means = kept[generator.integers(len(kept), size=(draws, len(kept)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(kept.mean()), float(low), float(high), len(kept))


def blocks(values: FloatArray, size: int) -> FloatArray:
    """Means over successive blocks of ``size`` rows, [T // size, ...]; an incomplete last block is left out.

    >>> blocks(np.arange(5.0), 2).tolist()
    [0.5, 2.5]
    """
    if not 1 <= size <= len(values):
        raise ValueError(f"size = {size}; give 1 to {len(values)}, the number of rows")
    whole = values[: len(values) // size * size]
    mean: FloatArray = whole.reshape(len(whole) // size, size, *values.shape[1:]).mean(axis=1)
    return mean
