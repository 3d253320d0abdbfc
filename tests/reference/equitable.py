"""Slow, independent routes for partitions and clones: networks as dictionaries of edges, in Python Fractions.

Everything follows the definitions of *Barriers* (arXiv 2510.00304) §2 edge by edge, with its post-activation adjoint
δ(v) = ∂L/∂h(v), so it shares no formula with ``lop_theory.forward``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import sympy

from lop_theory.dag import Dag

ACTIVATIONS = {
    "identity": (lambda z: z, lambda z: Fraction(1)),
    "square": (lambda z: z * z, lambda z: 2 * z),
    "quadratic": (lambda z: z + z * z / 2, lambda z: 1 + z),
    "cube": (lambda z: z**3, lambda z: 3 * z * z),
    "relu": (lambda z: max(z, Fraction(0)), lambda z: Fraction(int(z > 0))),
    "hard_tanh": (lambda z: min(max(z, Fraction(-1)), Fraction(1)), lambda z: Fraction(int(-1 < z < 1))),
}


def fraction(value: Any) -> Fraction:
    """A Fraction from an int, Fraction, float or flint fmpq."""
    return Fraction(int(value.p), int(value.q)) if hasattr(value, "p") else Fraction(value)


def edge_weights(dag: Dag, theta: Sequence[Any]) -> dict[tuple[int, int], Fraction]:
    """{(u, v): weight of u → v}."""
    edges = zip(dag.source.tolist(), dag.target.tolist(), dag.param.tolist())
    return {(u, v): fraction(theta[p]) for u, v, p in edges}


def forward(dag: Dag, theta: Sequence[Any], sample: Sequence[Any]) -> tuple[dict[int, Fraction], dict[int, Fraction]]:
    """(z, h) of every unit on one sample."""
    weights = edge_weights(dag, theta)
    z = {i: fraction(sample[i]) for i in range(dag.num_inputs)}
    if dag.constant is not None:
        z[dag.constant] = Fraction(1)
    h = dict(z)
    for v in range(dag.first_computed, dag.num_units):
        z[v] = sum((w * h[u] for (u, t), w in weights.items() if t == v), Fraction(0))
        h[v] = ACTIVATIONS[dag.activation(v)][0](z[v])
    return z, h


def edge_gradients(
    dag: Dag, theta: Sequence[Any], sample: Sequence[Any], target: Sequence[Any]
) -> tuple[dict[int, Fraction], dict[tuple[int, int], Fraction]]:
    """(δ(v) = ∂L/∂h(v), ∂L/∂w(u,v) = δ(v) f'(z(v)) h(u)) of L = ½ ‖f − y‖² on one sample."""
    weights, (z, h) = edge_weights(dag, theta), forward(dag, theta, sample)
    slope = {v: ACTIVATIONS[dag.activation(v)][1](z[v]) for v in range(dag.first_computed, dag.num_units)}
    delta: dict[int, Fraction] = {}
    for v in range(dag.num_units - 1, dag.first_computed - 1, -1):
        own = [h[v] - fraction(target[k]) for k, o in enumerate(dag.outputs.tolist()) if o == v]
        delta[v] = sum(own, Fraction(0)) + sum(
            (w * slope[t] * delta[t] for (u, t), w in weights.items() if u == v), Fraction(0)
        )
    return delta, {(u, v): delta[v] * slope[v] * h[u] for u, v in weights}


def spread(values: Iterable[Fraction]) -> Fraction:
    found = list(values)
    return max(found) - min(found) if found else Fraction(0)


def equitable_residuals(
    dag: Dag, theta: Sequence[Any], blocks: Sequence[Sequence[int]]
) -> tuple[Fraction, Fraction, Fraction]:
    """Largest spreads of row sums, column sums and weights over all ordered pairs of blocks with an edge."""
    weights = edge_weights(dag, theta)
    row, column, constant = [Fraction(0)], [Fraction(0)], [Fraction(0)]
    for first in blocks:
        for second in blocks:
            inside = {(u, v): w for (u, v), w in weights.items() if u in first and v in second}
            row.append(spread(sum(w for (a, _), w in inside.items() if a == u) for u in first if inside))
            column.append(spread(sum(w for (_, b), w in inside.items() if b == v) for v in second if inside))
            constant.append(spread(inside.values()))
    return max(row), max(column), max(constant)


def is_biregular(dag: Dag, blocks: Sequence[Sequence[int]]) -> bool:
    """Every ordered pair of blocks: equal out-degrees of the sources, equal in-degrees of the targets (0 if no edge)."""
    edges = set(zip(dag.source.tolist(), dag.target.tolist()))
    for first in blocks:
        for second in blocks:
            out_degrees = {sum((u, v) in edges for v in second) for u in first}
            in_degrees = {sum((u, v) in edges for u in first) for v in second}
            if len(out_degrees) > 1 or len(in_degrees) > 1:
                return False
    return True


def nearest_point(equations: Sequence[tuple[dict[int, Any], Any]], theta: Sequence[Any]) -> list[Fraction]:
    """argmin ‖p − θ‖² subject to A p = c, from the Lagrange conditions p = θ − Aᵀ μ, A Aᵀ μ = A θ − c, by sympy."""

    def rational(value: Any) -> sympy.Rational:
        f = fraction(value)
        return sympy.Rational(f.numerator, f.denominator)

    a = sympy.zeros(len(equations), len(theta))
    for i, (row, _) in enumerate(equations):
        for k, value in row.items():
            a[i, k] = rational(value)
    c = sympy.Matrix([rational(rhs) for _, rhs in equations])
    point = sympy.Matrix([rational(t) for t in theta])
    # A Aᵀ is singular if equations are redundant; every solution μ gives the same Aᵀ μ
    multipliers, free = (a * a.T).gauss_jordan_solve(a * point - c)
    solution = point - a.T * multipliers.subs(dict.fromkeys(free, 0))
    return [Fraction(int(v.p), int(v.q)) for v in solution]
