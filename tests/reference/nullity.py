"""Slow oracle for the nullity book: dim (ker K ∩ ker R) from the outputs as polynomials in θ.

K is the Gauss–Newton part of a squared loss, R = Σ_n r_n ∂²f_n the residual part; the targets of the book are generic, so
this is the nullity of K + R. A vector u lies in both kernels iff it moves no output to first order and Σ r_n ∂²f_n u = 0.
Nothing is shared with ``lop_theory.nullity``: no gates, no groups, no error signals.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from lop_theory.dag import Dag
from tests.reference.path_polynomials import Polynomial, output_polynomials
from tests.reference.ranks import rank_over_q


def _derivative(polynomial: Polynomial, p: int) -> Polynomial:
    out: Polynomial = {}
    for monomial, c in polynomial.items():
        exponent = Counter(monomial)[p]
        if exponent:
            rest = list(monomial)
            rest.remove(p)
            out[tuple(rest)] = out.get(tuple(rest), Fraction(0)) + c * exponent
    return out


def _value(polynomial: Polynomial, theta: list[Fraction]) -> Fraction:
    total = Fraction(0)
    for monomial, c in polynomial.items():
        for p in monomial:
            c *= theta[p]
        total += c
    return total


def generic_nullity(dag: Dag, theta: list[int], x: list[list[int]], y: list[list[int]]) -> int:
    """dim (ker K ∩ ker R) at integers θ, x, y."""
    point, size = [Fraction(t) for t in theta], dag.num_params
    jacobian: list[list[Fraction]] = []
    residual_part = [[Fraction(0)] * size for _ in range(size)]
    for sample, target in zip(x, y, strict=True):
        for polynomial, wanted in zip(output_polynomials(dag, theta, sample), target, strict=True):
            slopes = [_derivative(polynomial, p) for p in range(size)]
            jacobian.append([_value(slope, point) for slope in slopes])
            residual = _value(polynomial, point) - Fraction(wanted)
            for p, slope in enumerate(slopes):
                for q in range(size):
                    residual_part[p][q] += residual * _value(_derivative(slope, q), point)
    return size - rank_over_q(jacobian + residual_part)
