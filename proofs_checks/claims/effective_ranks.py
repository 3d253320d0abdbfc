"""Effective ranks of the features of integer networks, enclosed; shared by the claims on L2-ER.

Effective ranks are exponentials of entropies of algebraic numbers: they are enclosed by balls around isolated roots, and
exact where the spectrum is flat. Features are hidden activations of integer networks, so every matrix is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Any

import numpy as np
from flint import arb, ctx, fmpz_mat

from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.dag import Dag
from lop_theory.forward import run_forward
from proofs_checks.instances import Instance, assertion, network_document, quantity, witness
from proofs_checks.strategies import hidden_values, layer_units

BITS = 320

Rows = np.ndarray  # object array [m, n] of fmpq


def effective(rows: Rows, power: int = 1) -> int | arb:
    """exp H(p), p ∝ σ^power, of a non-zero rational matrix: an integer if its spectrum is flat, else a ball.

    >>> effective(rational_array([[2, 0], [0, 2]])), bool(effective(rational_array([[2, 0], [0, 1]])) < 2)
    (2, True)
    """
    before, ctx.prec = ctx.prec, BITS
    try:
        roots: list[Any] = _integer_gram(rows).charpoly().complex_roots()
        positive = [(root.real, count) for root, count in roots if root != 0]
        if len(positive) == 1:
            return int(positive[0][1])
        weights = [(root if power == 2 else root.sqrt(), count) for root, count in positive]
        total = sum((count * w for w, count in weights), arb(0))
        return (-sum((count * w / total * (w / total).log() for w, count in weights), arb(0))).exp()
    finally:
        ctx.prec = before


def _integer_gram(rows: Rows) -> fmpz_mat:
    """The smaller Gram matrix, times the square of a common denominator."""
    scale = lcm(*(int(value.q) for value in rows.flat))
    matrix = fmpz_mat([[int((scale * value).p) for value in row] for row in rows])
    other = matrix.transpose()
    return matrix * other if matrix.nrows() <= matrix.ncols() else other * matrix


def order(left: Any, right: Any) -> int | None:
    """Sign of left − right, ``None`` where balls overlap; exact numbers are compared exactly."""
    if not isinstance(left, arb) and not isinstance(right, arb):
        return (left > right) - (left < right)
    left, right = arb(left), arb(right)
    return 1 if left > right else -1 if left < right else None


def features(instance: Instance, theta: np.ndarray | None = None) -> list[Rows]:
    """Exact activations [N, n_l] of the hidden layers of a layered net."""
    theta = rational_array(instance.theta if theta is None else theta)
    run = run_forward(RATIONALS, instance.dag, theta, rational_array(instance.x))
    return [run.h[block] for block in range(2, len(instance.dag.blocks) - 1)]


def layer_of(instance: Instance, index: int) -> list[int]:
    """Units of hidden layer 0, 1, …"""
    units: list[int] = layer_units(instance.dag, index + 1).tolist()
    return units


def rank_quantity(layers: Sequence[Sequence[int]], power: int, net: str = "net", **training: Any) -> dict[str, Any]:
    """The effective rank of the values of some units, as the independent checker computes it."""
    return quantity("effective_rank", net, layers=[list(units) for units in layers], power=power, **training)


def comparison(value: int) -> str:
    """The operator that a sign ±1 stands for."""
    return ">" if value > 0 else "<"


def show(value: Any) -> str:
    """Six digits of a ball, all of an exact number."""
    return value.str(6, radius=False) if isinstance(value, arb) else str(value)


def changed_features(instance: Instance, theta: np.ndarray, layer: int, sign: int, note: str) -> dict[str, Any]:
    """Witness: the effective rank of a layer before and after a change of θ, ``sign`` of the difference."""
    units = [layer_of(instance, layer)]
    networks = {"net": network_document(instance), "changed": network_document(instance, theta)}
    line = assertion(rank_quantity(units, 1), comparison(sign), rank_quantity(units, 1, "changed"))
    return witness(note, networks, [line])


def alive(dag: Dag, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Raise the bias of the first unit of every hidden layer until it fires on all samples: no layer is zero."""
    theta = theta.copy()
    for layer in range(1, len(dag.blocks) - 2):
        unit = layer_units(dag, layer)[0]
        lowest = hidden_values(dag, theta, x)[:, unit].min()
        if lowest < 1:
            theta[dag.param[(dag.target == unit) & (dag.source == dag.num_inputs)]] += 2 * np.ceil((2 - lowest) / 2)
    return theta
