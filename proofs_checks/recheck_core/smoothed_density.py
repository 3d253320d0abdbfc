r"""The "normalized ε-rank" of a smoothed spectral density, as published code computes it, in balls.

A grid of n points covers [λ_min − 1/100, λ_max + 1/100]; the density on it is Σ_i N(λ_i, s²) with s² = 10⁻⁵ max(1, length of
the grid); the value is the trapezoidal integral over the grid points with |x| > level, divided by that over all. One rule
runs over all these points, across the hole around 0; with ``sides`` there is one on either side of it.

The eigenvalues are given as rationals and verified first: tr Hᵏ = Σ λ_iᵏ for k = 1 … P determines them (Newton).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from proofs_checks.recheck_core.network import check_int, check_list
from proofs_checks.recheck_core.numbers import Number, WitnessError, lift, parse_rational

_BITS = 128
_VARIANCE, _MARGIN = Fraction(1, 10**5), Fraction(1, 100)


def is_spectrum(entries: Mapping[tuple[int, int], Number], size: int, eigenvalues: Sequence[Fraction]) -> bool:
    """Are these the eigenvalues, with multiplicities, of the symmetric matrix [size, size] with these upper entries?

    >>> is_spectrum({(0, 1): 2}, 3, [Fraction(2), Fraction(-2), Fraction(0)])
    True
    >>> is_spectrum({(0, 1): 2}, 3, [Fraction(2), Fraction(2), Fraction(0)])
    False
    """
    rows = [[Fraction(entries.get((min(i, j), max(i, j)), 0)) for j in range(size)] for i in range(size)]
    power = rows
    for k in range(1, size + 1):
        if sum(power[i][i] for i in range(size)) != sum(value**k for value in eigenvalues):
            return False
        power = [
            [sum((a * b for a, b in zip(row, column, strict=True)), Fraction(0)) for column in rows] for row in power
        ]
    return len(eigenvalues) == size


def smoothed_share(eigenvalues: Sequence[Fraction], level: Fraction, points: int, sides: bool) -> Number:
    """The published value for these eigenvalues, a ball.

    >>> value = smoothed_share([Fraction(0)] * 18 + [Fraction(50), Fraction(-50)], Fraction(1, 100), 10_000, False)
    >>> bool(value > lift(Fraction(9, 10)))    # the share beyond the level is 2/20
    True
    """
    import flint

    low, high = min(eigenvalues) - _MARGIN, max(eigenvalues) + _MARGIN
    grid = [low + (high - low) * k / (points - 1) for k in range(points)]
    scale = -1 / (2 * _VARIANCE * max(Fraction(1), high - low))
    atoms = Counter(eigenvalues)
    with flint.ctx.workprec(_BITS):
        density = [sum((count * lift((x - t) ** 2 * scale).exp() for t, count in atoms.items()), lift(0)) for x in grid]
        beyond = [k for k in range(points) if abs(grid[k]) > level]
        # The grid is even: a step of n points has the width n, in units of the grid.
        steps = [(i, k) for i, k in pairwise(beyond) if not (sides and grid[i] < 0 < grid[k])]
        outside = sum(((density[i] + density[k]) * (k - i) for i, k in steps), lift(0))
        return outside / sum((density[k] + density[k + 1] for k in range(points - 1)), lift(0))


def smoothed_epsilon_rank(point: Any, args: Mapping[str, Any], place: str) -> Number:
    """The quantity: ``eigenvalues``, ``level`` > 0, ``points`` of the grid, and ``sides`` (0: one rule, 1: two)."""
    raw = check_list(args["eigenvalues"], f"{place}.eigenvalues")
    eigenvalues = [parse_rational(value, f"{place}.eigenvalues[{k}]") for k, value in enumerate(raw)]
    level = parse_rational(args["level"], f"{place}.level")
    if level <= 0:
        raise WitnessError(f"{place}.level", args["level"], "a level is positive", "give a rational > 0")
    points, sides = (check_int(args[key], f"{place}.{key}", low, high) for key, low, high in _WHOLE)
    if not point.network.is_rational or not is_spectrum(point.loss(2).hessian, len(point.theta), eigenvalues):
        rule = "these are not proved to be the eigenvalues of the Hessian of a rational network"
        raise WitnessError(f"{place}.eigenvalues", args["eigenvalues"], rule, "list all P, as rationals")
    return smoothed_share(eigenvalues, level, points, bool(sides))


_WHOLE = (("points", 2, 10**5), ("sides", 0, 1))

SMOOTHED_QUANTITIES = {
    "smoothed_epsilon_rank": (("eigenvalues", "level", "points", "sides"), smoothed_epsilon_rank),
}
