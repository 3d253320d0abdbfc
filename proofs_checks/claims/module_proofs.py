r"""Symbolic proofs for the claims on modular cloning, replayed by SymPy, for all sizes."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import MatrixSymbol

from proofs_checks.claim import Certificate, Scope, Strength, require


def _rewrite(expression: Any, *rules: tuple[Any, Any]) -> Any:
    for left, right in rules:
        expression = expression.expand().subs(left, right).doit()
    return expression


def prove_linear() -> str:
    """W' = B W D⁻¹ Aᵀ copies the base; from W'A = B V and BᵀW' = U Aᵀ a step W' + B G Aᵀ keeps both forms."""
    wide_in, wide_out, narrow_in, narrow_out = sympy.symbols("n' m' n m", integer=True, positive=True)
    a, b = MatrixSymbol("A", wide_in, narrow_in), MatrixSymbol("B", wide_out, narrow_out)
    d, e = MatrixSymbol("D", narrow_in, narrow_in), MatrixSymbol("E", narrow_out, narrow_out)
    w, x = MatrixSymbol("W", narrow_out, narrow_in), MatrixSymbol("x", narrow_in, 1)
    tiled = b * w * d.I * a.T
    require(_rewrite(tiled * a * x, (a.T * a, d)) == b * w * x, "W'A x = B W x")
    require(_rewrite(b.T * tiled, (b.T * b, e)) == e * w * d.I * a.T, "BᵀW' = U Aᵀ: row sums are equal")
    wide = MatrixSymbol("W'", wide_out, wide_in)
    v, u = MatrixSymbol("V", narrow_out, narrow_in), MatrixSymbol("U", narrow_out, narrow_in)
    g = MatrixSymbol("G", narrow_out, narrow_in)  # gradient δ'hᵀ of block-constant δ' = B δ and h = A x
    columns = _rewrite((wide + b * g * a.T) * a, (wide * a, b * v), (a.T * a, d))
    require(columns == b * v + b * g * d, "column sums after a step")
    rows = _rewrite(b.T * (wide + b * g * a.T), (b.T * wide, u * a.T), (b.T * b, e))
    require(rows == u * a.T + e * g * a.T, "row sums after a step")
    return (
        "with AᵀA = D, BᵀB = E: W' = B W D⁻¹Aᵀ maps A x to B W x, has equal row and column sums, and W' + B G Aᵀ has them "
        "whenever W' has; for all sizes and partitions (a kernel: the same for each tap, since z' = Σ_t W'_t h'(p + t))"
    )


def prove_statistics() -> str:
    """k copies of n numbers have the mean and the biased variance of the numbers; copies k_1 … k_n in general do not."""
    n, k, i = sympy.symbols("n k i", integer=True, positive=True)
    x = sympy.IndexedBase("x")
    s1, s2 = sympy.Sum(x[i], (i, 1, n)), sympy.Sum(x[i] ** 2, (i, 1, n))
    require(sympy.simplify(k * s1 / (k * n) - s1 / n) == 0, "mean")
    require(sympy.simplify(k * s2 / (k * n) - (k * s1 / (k * n)) ** 2 - (s2 / n - (s1 / n) ** 2)) == 0, "variance")
    p, q = sympy.symbols("p q", positive=True)
    a, b = sympy.symbols("a b")
    difference = sympy.factor((p * a + q * b) / (p + q) - (a + b) / 2)
    require(sympy.simplify(difference - (p - q) * (a - b) / (2 * (p + q))) == 0, "unequal copies move the mean")
    return (
        "k copies of each of n features: mean and biased variance are those of the n features, for all n and k; with p and q "
        "copies of two features the mean moves by (p − q)(a − b)/(2(p + q)), so equal sizes are needed"
    )


def prove_head_dim() -> str:
    """Σ over copies of c² q k / √d' = q k / √d iff c = (d'/d)^{1/4}/√m; f copies of everything: c = f^{-1/4}."""
    d, f, m, total, qk = sympy.symbols("d f m D qk", positive=True)
    c = (total / d) ** sympy.Rational(1, 4) / sympy.sqrt(m)
    require(sympy.simplify(m * c**2 * qk / sympy.sqrt(total) - qk / sympy.sqrt(d)) == 0, "logits with the factor")
    require(sympy.simplify(c.subs({total: f * d, m: f}) - f ** sympy.Rational(-1, 4)) == 0, "the factor for f copies")
    ratio = (f * qk / sympy.sqrt(f * d)) / (qk / sympy.sqrt(d))
    require(sympy.simplify(ratio - sympy.sqrt(f)) == 0, "logits without the factor")
    return "logits of the expanded head: √f times those of the base without the factor, equal with f^{-1/4} on q and k"


def prove_aggregate() -> str:
    """2 L ones and the entry L/(2 L) = 1/2 have the mean (2 L + 1/2)/(2 L + 1) < 1."""
    layers = sympy.Symbol("L", integer=True, positive=True)
    logged = (2 * layers + layers / (2 * layers)) / (2 * layers + 1)
    gap = sympy.simplify(1 - logged - sympy.Rational(1, 2) / (2 * layers + 1))
    require(gap == 0, "the logged number is 1 − 1/(4 L + 2)")
    return "the published aggregate of a perfect clone with L layers is 1 − 1/(4 L + 2) < 1"


LINEAR = Certificate(
    "linear map", "tiling and one step, symbolic matrices of any size", Strength.SYMBOLIC, Scope.CLASS, prove_linear
)
STATISTICS = Certificate("statistics", "mean and variance of copies", Strength.SYMBOLIC, Scope.CLASS, prove_statistics)
HEAD_DIM = Certificate("head_dim", "logits of an expanded head", Strength.SYMBOLIC, Scope.CLASS, prove_head_dim)
AGGREGATE = Certificate("aggregate", "what a perfect clone logs", Strength.SYMBOLIC, Scope.ALL, prove_aggregate)
