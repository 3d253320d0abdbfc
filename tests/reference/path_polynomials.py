"""Slow oracle for gate bounds: the outputs as polynomials in θ, and all constant directions in which they do not move.

Near θ every sample runs through fixed linear pieces, so each output is a polynomial in θ. A vector a ∈ Q^P leaves f_n
unchanged near θ iff the polynomial Σ_p a_p ∂f_n/∂θ_p is zero, coefficient by coefficient: a linear system for a. This
shares no idea with ``lop_theory.bounds`` (no open or static units, no path argument).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction
from typing import Any

import sympy

from lop_theory.activations import get_activation
from lop_theory.dag import Dag

Monomial = tuple[int, ...]  # parameter numbers, sorted, repeated as often as their exponent
Polynomial = dict[Monomial, Fraction]


def _value(polynomial: Polynomial, theta: list[Fraction]) -> Fraction:
    total = Fraction(0)
    for monomial, coefficient in polynomial.items():
        for p in monomial:
            coefficient *= theta[p]
        total += coefficient
    return total


def _times(a: Polynomial, b: Polynomial) -> Polynomial:
    out: Polynomial = defaultdict(Fraction)
    for m, c in a.items():
        for k, d in b.items():
            out[tuple(sorted(m + k))] += c * d
    return {m: c for m, c in out.items() if c}


def _plus(a: Polynomial, b: Polynomial) -> Polynomial:
    return {m: c for m in {*a, *b} if (c := a.get(m, Fraction(0)) + b.get(m, Fraction(0)))}


def output_polynomials(dag: Dag, theta: list[int], x: list[int]) -> list[Polynomial]:
    """The outputs on one sample, near θ, for piecewise linear and polynomial activations."""
    point = [Fraction(t) for t in theta]
    h: list[Polynomial] = [{(): Fraction(v)} if v else {} for v in x]
    h += [{(): Fraction(1)}] if dag.has_constant else []
    for v in range(dag.first_computed, dag.num_units):
        z: Polynomial = {}
        for e in dag.incoming(v):
            p = int(dag.param[e])
            weight = {(p,): Fraction(1)} if p >= 0 else {(): Fraction(dag.fixed[int(e)])}
            z = _plus(z, _times(weight, h[dag.source[e]]))
        h.append(_apply(dag.activation(v), z, _value(z, point)))
    return [h[o] for o in dag.outputs]


def _apply(name: str, z: Polynomial, at: Fraction) -> Polynomial:
    activation = get_activation(name)
    if activation.is_piecewise_linear:
        k = sum(at > b for b in activation.breakpoints)
        coefficients = (activation.intercepts[k], activation.slopes[k])
    else:
        coefficients = activation.coefficients
    out: Polynomial = {}
    power: Polynomial = {(): Fraction(1)}
    for c in coefficients:
        out = _plus(out, {m: c * d for m, d in power.items() if c})
        power = _times(power, z)
    return out


def invariant_dimension(dag: Dag, theta: list[int], x: list[list[int]], up_to_shift: bool) -> int:
    """dim {a : a moves no output near θ}, or, ``up_to_shift``, dim {a : a moves all outputs of a sample alike}."""
    rows: dict[Any, dict[int, Fraction]] = defaultdict(dict)
    for n, sample in enumerate(x):
        outputs = output_polynomials(dag, theta, sample)
        for o, polynomial in enumerate(outputs):
            if up_to_shift:
                polynomial = _plus(polynomial, {m: -c for m, c in outputs[-1].items()})
            for monomial, c in polynomial.items():
                for p, exponent in Counter(monomial).items():
                    rest = list(monomial)
                    rest.remove(p)
                    row = rows[n, o, tuple(rest)]
                    row[p] = row.get(p, Fraction(0)) + c * exponent
    matrix = sympy.zeros(len(rows), dag.num_params)
    for r, row in enumerate(rows.values()):
        for p, c in row.items():
            matrix[r, p] = sympy.Rational(c.numerator, c.denominator)
    return dag.num_params - int(sympy.polys.matrices.DomainMatrix.from_Matrix(matrix).to_field().rank() if rows else 0)
