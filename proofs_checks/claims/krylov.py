r"""Exact Lanczos on the rational Hessian of a network, and the small networks that are probed.

Lanczos runs without square roots: monic orthogonal polynomials p_k of the spectral measure of a probe v, with coefficients
α_k and β_k² > 0, p_k+1 = (t − α_k+1) p_k − β_k² p_k−1. Ritz values are the zeros θ_j of p_m; their weights are
w_j = β_1² ⋯ β_m−1² / (p_m′(θ_j) p_m−1(θ_j)). A Gram net is linear regression on integer rows R with the Hessian H = RᵀR; with
R = diag(a)(|w|² I − 2 w wᵀ) its eigenvalues are the integers (|w|² a_i)².
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from flint import fmpq, fmpq_mat, fmpq_poly, fmpz_poly
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.dag import Dag
from lop_theory.exact import exact_hessian
from proofs_checks.instances import Instance, network_document, quantity

Vector = tuple[fmpq, ...]


@dataclass(frozen=True)
class Krylov:
    """At most m steps from v: ``alphas``, ``betas2`` (β_1² … of the steps taken), and whether the Krylov space is exhausted."""

    alphas: Vector
    betas2: Vector
    exhausted: bool

    @cached_property
    def polynomials(self) -> tuple[fmpq_poly, fmpq_poly]:
        """p_m−1 and p_m."""
        before, now = fmpq_poly(0), fmpq_poly([1])
        for k, alpha in enumerate(self.alphas):
            before, now = now, fmpq_poly([-alpha, 1]) * now - (self.betas2[k - 1] if k else fmpq(0)) * before
        return before, now

    @cached_property
    def quadrature(self) -> list[tuple[fmpq, fmpq]] | None:
        """(θ_j, w_j), or ``None`` if some θ_j is irrational."""
        before, last = self.polynomials
        roots = rational_roots(last)
        if len(roots) < last.degree():
            return None
        scale = prod(self.betas2, start=fmpq(1))
        return [(t, scale / (last.derivative()(t) * before(t))) for t in roots]


def krylov(H: fmpq_mat, v: Vector, steps: int) -> Krylov:
    """Exact Lanczos: u ↦ H u − α u − β² u_before, until u = 0 (exhausted) or ``steps`` steps are done."""
    size = len(v)
    u, before = fmpq_mat(size, 1, list(v)), fmpq_mat(size, 1)
    alphas: list[fmpq] = []
    betas2: list[fmpq] = []
    norm2, beta2 = dot(u, u), fmpq(0)
    while True:
        image = H * u
        alphas.append(dot(u, image) / norm2)
        u, before = image - u * alphas[-1] - before * beta2, u
        next2 = dot(u, u)
        if next2 == 0 or len(alphas) == steps:
            return Krylov(tuple(alphas), tuple(betas2), next2 == 0)
        beta2 = next2 / norm2
        betas2.append(beta2)
        norm2 = next2


def dot(u: fmpq_mat, v: fmpq_mat) -> fmpq:
    """The inner product of two columns."""
    return (u.transpose() * v)[0, 0]


def rational_roots(p: fmpq_poly) -> list[fmpq]:
    """The rational zeros of p, each once, ascending."""
    _, factors = fmpz_poly(list(p.numer())).factor()
    return sorted(fmpq(-f[0], f[1]) for f, _ in factors if f.degree() == 1)


def beyond(H: fmpq_mat, eps: fmpq) -> int:
    """#{i : |λ_i| > ε} for ε ≥ 0: sign changes of det(t + ε ∓ H), all of whose roots are real (Descartes)."""
    p = H.charpoly()
    count = 0
    for mirrored in (p, p(fmpq_poly([0, -1]))):
        signs = [c > 0 for c in mirrored(fmpq_poly([eps, 1])).coeffs() if c != 0]
        count += sum(a != b for a, b in pairwise(signs))
    return count


@dataclass(frozen=True, eq=False)
class Probed:
    """A network at a point, probe vectors (rational), a number of Lanczos steps and a level ε > 0."""

    instance: Instance
    probes: tuple[Vector, ...]
    steps: int
    eps: fmpq

    def __repr__(self) -> str:
        probes = [[str(c) for c in v] for v in self.probes]
        return f"Probed(H={self.hessian.tolist()}, probes={probes}, steps={self.steps}, eps={self.eps})"

    @cached_property
    def hessian(self) -> fmpq_mat:
        i = self.instance
        return exact_hessian(i.dag, i.theta, i.x, i.y, i.kind)

    @cached_property
    def runs(self) -> list[Krylov]:
        return [krylov(self.hessian, v, self.steps) for v in self.probes]

    @property
    def size(self) -> int:
        return int(self.hessian.nrows())

    @cached_property
    def epsilon_rank(self) -> int:
        return beyond(self.hessian, self.eps)

    def network(self) -> dict[str, Any]:
        return network_document(self.instance)

    def counted(self) -> dict[str, Any]:
        return quantity("epsilon_rank", level=str(self.eps))


def gram_network(rows: np.ndarray) -> Instance:
    """Linear regression without bias on integer ``rows`` [m, P] at θ = 0: its Hessian is RᵀR."""
    inputs = rows.shape[1]
    unit = np.arange(inputs)
    dag = Dag(inputs, False, ("identity",), unit, np.full(inputs, inputs), unit, np.array([inputs]))
    return Instance(dag, np.zeros(inputs), rows.astype(np.float64), np.zeros((len(rows), 1)))


def saddle_network(c: int) -> Instance:
    """½ (u v − c)² at u = v = 0: the Hessian is [[0, −c], [−c, 0]]."""
    dag = Dag(1, False, ("identity",) * 2, np.array([0, 1]), np.array([1, 2]), np.array([0, 1]), np.array([2]))
    return Instance(dag, np.zeros(2), np.ones((1, 1)), np.array([[float(c)]]))


def reflection(w: np.ndarray) -> np.ndarray:
    """|w|² I − 2 w wᵀ: a symmetric integer matrix, |w|² times an orthogonal one. The identity for w = 0."""
    return (w @ w) * np.eye(len(w), dtype=np.int64) - 2 * np.outer(w, w) if w.any() else np.eye(len(w), dtype=np.int64)


def vectors(draw: DrawFn, size: int, low: int = -1, high: int = 1) -> np.ndarray:
    """Integers in [low, high], [size]."""
    return np.array(draw(st.lists(st.integers(low, high), min_size=size, max_size=size)), dtype=np.int64)


def level(draw: DrawFn) -> fmpq:
    """Halves: no eigenvalue, which are integers."""
    return fmpq(2 * draw(st.integers(0, 40)) + 1, 2)


def random_gram(draw: DrawFn, size: int, scales: np.ndarray | None = None) -> Instance:
    """A Gram net of P = size parameters; ``scales`` a [size] fixes its spectrum."""
    a = vectors(draw, size, 0, 3) if scales is None else scales
    return gram_network(np.diag(a) @ reflection(vectors(draw, size)))


def rational_vector(v: np.ndarray) -> Vector:
    """An integer vector as rationals."""
    return tuple(fmpq(int(c)) for c in v)
