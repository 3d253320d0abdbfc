r"""Effective ranks exp(−Σ p ln p) of what units compute on the batch: algebraic spectra, enclosed by balls.

With H_l [N, n_l] the values of the units of layer l on the samples and G = Σ_l H_lᵀH_l, the weights are p ∝ λ^(power/2)
over the positive eigenvalues λ of G: ``power`` 1 is the effective rank of H (singular values), 2 that of the second
moments G. The eigenvalues are roots of the characteristic polynomial of an integer matrix, isolated rigorously. A spectrum
with a single positive value, of multiplicity r, has the effective rank r exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import Any

from proofs_checks.recheck_core.network import check_int, check_list, parse_units
from proofs_checks.recheck_core.numbers import Number, Undecided, WitnessError

BITS = 192
"""Working precision of the logarithms; roots are isolated at this precision or above."""


def gram(rows: Sequence[Sequence[Fraction]]) -> list[list[int]]:
    """c HᵀH for the rows of H, with the smallest positive integer c that makes H whole, squared.

    >>> gram([[Fraction(1, 2), Fraction(0)], [Fraction(1), Fraction(1)]])
    [[5, 4], [4, 4]]
    """
    scale = lcm(*(Fraction(v).denominator for row in rows for v in row))
    whole = [[int(v * scale) for v in row] for row in rows]
    size = range(len(whole[0]))
    return [[sum(row[i] * row[j] for row in whole) for j in size] for i in size]


def entropy_rank(matrix: Sequence[Sequence[int]], power: int) -> Number:
    """exp(−Σ p ln p) with p ∝ λ^(power/2) over the positive eigenvalues λ of a positive semidefinite integer matrix.

    >>> entropy_rank([[4, 0], [0, 4]], 1)
    2
    >>> bool(1 < entropy_rank([[4, 0], [0, 1]], 2) < entropy_rank([[4, 0], [0, 1]], 1) < 2)
    True
    """
    import flint

    with flint.ctx.workprec(BITS):
        roots: list[Any] = flint.fmpz_mat([list(row) for row in matrix]).charpoly().complex_roots()
        positive = [(root.real, count) for root, count in roots if root != 0]
        if not positive:
            raise Undecided("the effective rank of a zero matrix is undefined")
        if len(positive) == 1:
            return int(positive[0][1])
        weights = [(root if power == 2 else root.sqrt(), count) for root, count in positive]
        total = sum((count * w for w, count in weights), flint.arb(0))
        return (-sum((count * w / total * (w / total).log() for w, count in weights), flint.arb(0))).exp()


def _effective_rank(point: Any, args: Mapping[str, Any], place: str) -> Number:
    network = point.network
    if not network.is_rational:
        raise WitnessError(place, "effective_rank", "needs a rational network", "use piecewise-linear activations")
    power = check_int(args["power"], f"{place}.power", 1, 2)
    raw = check_list(args["layers"], f"{place}.layers")
    layers = [parse_units(units, f"{place}.layers[{k}]", range(network.num_units)) for k, units in enumerate(raw)]
    if len({len(units) for units in layers}) != 1:
        raise WitnessError(
            f"{place}.layers", raw, "matrices of different sizes have no sum", "give layers of one width"
        )
    if power == 1 and len(layers) != 1:
        raise WitnessError(f"{place}.layers", raw, "singular values are those of one layer", "give one, or use power 2")
    h = point.trace().h
    rows = [[Fraction(h[unit][n].value) for unit in units] for units in layers for n in range(len(network.x))]
    return entropy_rank(gram(rows), power)


EFFECTIVE_RANK_QUANTITIES: dict[str, tuple[tuple[str, ...], Callable[[Any, Mapping[str, Any], str], Number]]] = {
    "effective_rank": (("layers", "power"), _effective_rank)
}
"""``layers``: lists of units, all of one length; ``power``: 1 or 2 (a JSON integer)."""
