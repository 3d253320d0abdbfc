"""The spectral measure of a small dense matrix by a full eigendecomposition, and the published estimator as plain loops."""

import math
from itertools import pairwise

import numpy as np


def spectral_measure(matrix, vector):
    """(eigenvalues, |v_i · q|²/|q|²) of a dense symmetric matrix: what the vector sees of the spectrum."""
    values, vectors = np.linalg.eigh(matrix)
    weights = (vectors.T @ vector) ** 2
    return values, weights / weights.sum()


def share_beyond(values, weights, level):
    return sum(w for t, w in zip(values, weights, strict=True) if abs(t) > level)


def published_by_loops(nodes, weights, eps, points=10_000):
    """Ghorbani's density on a grid, then one trapezoidal rule over the points beyond ±eps, written out."""
    low, high = min(nodes) - 0.01, max(nodes) + 0.01
    variance = 1e-5 * max(1.0, high - low)
    grid = [low + (high - low) * i / (points - 1) for i in range(points)]
    density = [
        sum(w * math.exp(-((x - t) ** 2) / (2 * variance)) for t, w in zip(nodes, weights, strict=True)) for x in grid
    ]

    def trapezoids(pairs):
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(pairs))

    pairs = list(zip(grid, density, strict=True))
    return trapezoids([p for p in pairs if abs(p[0]) > eps]) / trapezoids(pairs)
