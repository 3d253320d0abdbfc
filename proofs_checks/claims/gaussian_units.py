"""Instances of the rank-gain claims: an activation φ and a correlation matrix of its Gaussian pre-activations.

φ is a polynomial (integer coefficients, constant term first; everything is then rational) or the name of an activation (balls).
Correlation matrices are Gram matrices of rational unit vectors of R³, or [[1, r], [r, 1]]. What the theorems leave out is an
instance too: ``centred=False`` measures second moments, ``points`` is a law that is not Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import factorial, isqrt
from typing import Any

import numpy as np
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.arithmetic import to_fmpq
from lop_theory.gaussian_kernel import GaussianKernel, at_bits, gaussian_kernel
from lop_theory.hermite import hermite_polynomial
from lop_theory.rank_gain import correlation_matrix, is_positive_semidefinite, kernel_matrix
from proofs_checks.claim import Assumption, Evidence, Verdict
from proofs_checks.instances import assertion, number, quantity, witness
from proofs_checks.recheck_core.gaussian import second_moment

BARRIERS = "2510.00304"
Phi = str | tuple[int, ...]
Points = tuple[tuple[Fraction, Fraction], ...]


@dataclass(frozen=True, eq=False)
class Units:
    """d units with activation φ whose pre-activations have the correlation matrix C [d, d] of ``fmpq``.

    ``points``: the pair of pre-activations is uniform on them instead of Gaussian. ``other``: a second φ to compare with.
    """

    phi: Phi
    C: np.ndarray
    centred: bool = True
    points: Points | None = None
    other: Phi | None = None

    def __repr__(self) -> str:
        rows = "[" + ", ".join("[" + ", ".join(str(v) for v in row) + "]" for row in self.C) + "]"
        extra = f", compared with {show(self.other)}" if self.other is not None else ""
        extra += "" if self.centred else ", not centred"
        extra += "" if self.points is None else f", uniform on {[tuple(map(str, p)) for p in self.points]}"
        return f"φ = {show(self.phi)}, C = {rows}{extra}"

    @property
    def kernel(self) -> GaussianKernel:
        return gaussian_kernel(self.phi)

    @cached_property
    def image(self) -> np.ndarray:
        """The matrix that is measured after φ, [d, d]: K(C) where the theorem's assumptions hold."""
        if self.points is not None:
            return pair_matrix(_law_correlation(self.phi, self.points))
        K = kernel_matrix(self.kernel, self.C)
        if self.centred:
            return K
        share = self.kernel.mean_share
        share = to_fmpq(share) if isinstance(share, Fraction) else share
        return at_bits(lambda: share + (1 - share) * K)

    @property
    def r(self) -> fmpq:
        """The correlation of the first two units."""
        return self.C[0, 1]

    @property
    def k(self) -> Any:
        return self.image[0, 1]

    @property
    def pairs(self) -> list[tuple[fmpq, Any]]:
        """(C_ij, K_ij) for i < j."""
        size = len(self.C)
        return [(self.C[i, j], self.image[i, j]) for i in range(size) for j in range(i + 1, size)]


def show(phi: Phi | None) -> str:
    """Text of an activation.

    >>> show((0, 1, -2)), show("relu")
    ('z - 2 z^2', 'relu')
    """
    if phi is None or isinstance(phi, str):
        return str(phi)
    terms = []
    for n, c in enumerate(phi):
        if c:
            power = "" if n == 0 else "z" if n == 1 else f"z^{n}"
            size = "" if abs(c) == 1 and n else str(abs(c))
            terms.append(("- " if c < 0 else "+ ") + " ".join(filter(None, (size, power))))
    text = " ".join(terms) or "0"
    return text.removeprefix("+ ").replace("- ", "-", 1) if text.startswith("-") else text.removeprefix("+ ")


def pair_matrix(r: Any) -> np.ndarray:
    """[[1, r], [r, 1]] as an object array."""
    out = np.full((2, 2), fmpq(1), dtype=object)
    out[0, 1] = out[1, 0] = to_fmpq(r) if isinstance(r, int | Fraction) else r
    return out


def _law_correlation(phi: Phi, points: Points) -> fmpq:
    """Corr(φ(X), φ(Y)) on equally likely points of a law that is symmetric in X and Y; ``phi`` is a polynomial."""
    values = [[sum((c * z**n for n, c in enumerate(phi)), Fraction(0)) for z in point] for point in points]
    mean = sum((u for u, _ in values), Fraction(0)) / len(values)
    variance = sum(((u - mean) ** 2 for u, _ in values), Fraction(0)) / len(values)
    cross = sum(((u - mean) * (v - mean) for u, v in values), Fraction(0)) / len(values)
    return to_fmpq(cross / variance)


def slope_of(phi: Phi) -> Any:
    """α = K'(0) as a rational or a ball."""
    alpha = gaussian_kernel(phi).slope_at_zero
    return to_fmpq(alpha) if isinstance(alpha, Fraction) else alpha


# -- exact or ball comparisons -------------------------------------------------------------------------------------------


def sign(value: Any) -> int | None:
    """The sign of a rational or a ball; ``None`` where the ball contains 0 and more."""
    return 1 if value > 0 else -1 if value < 0 else 0 if value == 0 else None


def decided(at_least: Any, strict: bool = False, **evidence: Any) -> Evidence:
    """HOLDS if ``at_least`` ≥ 0 (> 0 if strict), FAILS if not, UNDECIDED if the ball does not say; margin = its value."""
    answer = sign(at_least)
    if answer is None:
        return Evidence(Verdict.UNDECIDED, **evidence)
    margin = 0 if answer == 0 else at_least
    verdict = Verdict.HOLDS if answer > 0 or (answer == 0 and not strict) else Verdict.FAILS
    return Evidence(verdict, margin=margin, **evidence)


def square_sum(matrix: np.ndarray) -> Any:
    """‖·‖_F²."""
    return at_bits(lambda: (matrix * matrix).sum())


def renyi2(matrix: np.ndarray) -> Any:
    """er_2 = (tr M)² / tr M², by the matrix product."""
    return at_bits(lambda: matrix.trace() ** 2 / (matrix @ matrix).trace())


# -- assumptions ---------------------------------------------------------------------------------------------------------

NONLINEAR = Assumption("nonlinear", "φ is not affine: a_k ≠ 0 for some k ≥ 2", lambda u: not u.kernel.is_linear)
GAUSSIAN = Assumption("gaussian", "the pre-activations are jointly Gaussian", lambda u: u.points is None)
CENTRED = Assumption("centred", "φ is centred (correlations, not second moments, are measured)", lambda u: u.centred)


def is_correlation(u: Units) -> bool:
    """Unit diagonal and positive semidefinite, decided exactly."""
    return all(v == 1 for v in u.C.diagonal()) and is_positive_semidefinite(u.C)


CORRELATION = Assumption(
    "correlation", "C is a correlation matrix: unit diagonal, positive semidefinite", is_correlation
)


# -- strategies ----------------------------------------------------------------------------------------------------------

NAMES = ("relu", "abs", "sign", "erf", "sin", "gelu", "leaky_relu:1/8")  # closed forms: cheap balls


@st.composite
def polynomials(draw: DrawFn, degree: tuple[int, int] = (2, 4)) -> tuple[int, ...]:
    """Integer polynomials of at least that degree; shrinks towards z²."""
    highest = draw(st.integers(*degree))
    low = [draw(st.sampled_from((0, 1, -1, 2, 3))) for _ in range(highest)]
    return (*low, draw(st.integers(1, 3)))


def activations() -> SearchStrategy[Phi]:
    """Nonlinear polynomials first, then activations with closed kernels."""
    return st.one_of(polynomials(), st.sampled_from(NAMES))


_VECTORS = (
    (0, 0, 1), (1, 0, 0), (0, 0, -1), (0, 3, 4), (1, 2, 2), (2, 1, -2), (3, 0, 4), (0, 1, 0), (-4, 0, 3), (2, 3, 6), (-6, 2, 3),
)  # fmt: skip


def gram(vectors: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Correlation matrix of integer vectors of integer length."""
    lengths = [isqrt(sum(v * v for v in u)) for u in vectors]
    return correlation_matrix(
        [
            [
                Fraction(sum(a * b for a, b in zip(u, v, strict=True)), n * m)
                for v, m in zip(vectors, lengths, strict=True)
            ]
            for u, n in zip(vectors, lengths, strict=True)
        ]
    )


@st.composite
def correlations(draw: DrawFn, size: tuple[int, int] = (2, 4)) -> np.ndarray:
    """Gram matrices of unit vectors of R³ (repeated and opposite ones too); shrinks towards 2 × 2."""
    chosen = draw(st.lists(st.integers(0, len(_VECTORS) - 1), min_size=size[0], max_size=size[1]))
    return gram([_VECTORS[k] for k in chosen])


@st.composite
def inner_correlations(draw: DrawFn, zero: bool = False) -> Fraction:
    """0 < |r| < 1 (|r| < 1 if ``zero``); shrinks towards 1/2 (0)."""
    if zero and draw(st.booleans()):
        return Fraction(0)
    bottom = draw(st.sampled_from((2, 3, 5, 10, 1000)))
    top = draw(st.sampled_from((1, bottom - 1, max(1, bottom // 2), max(1, bottom // 3))))
    return Fraction(top, bottom) * draw(st.sampled_from((1, -1)))


@st.composite
def pairs_of_units(
    draw: DrawFn, r: SearchStrategy[Fraction] | None = None, phi: SearchStrategy[Phi] | None = None
) -> Units:
    """Two units of correlation r."""
    correlation = draw(r if r is not None else inner_correlations())
    return Units(draw(phi if phi is not None else activations()), pair_matrix(correlation))


@st.composite
def units(
    draw: DrawFn,
    matrices: SearchStrategy[np.ndarray] | None = None,
    phi: SearchStrategy[Phi] | None = None,
    centred: bool = True,
) -> Units:
    """Several units; the matrix shrinks first."""
    C = draw(matrices if matrices is not None else correlations())
    return Units(draw(phi if phi is not None else activations()), C, centred)


@st.composite
def radial(draw: DrawFn) -> Units:
    """X = ±R, Y = ±R with independent signs and a common random size R ∈ {a, b}, a² + b² = 2: uncorrelated, not Gaussian."""
    a, b = draw(st.sampled_from(((Fraction(1, 5), Fraction(7, 5)), (Fraction(7, 13), Fraction(17, 13)))))
    points = tuple((s * size, t * size) for size in (a, b) for s in (1, -1) for t in (1, -1))
    return Units(draw(polynomials()), pair_matrix(0), points=points)


def affine() -> SearchStrategy[Phi]:
    """Affine φ: K(r) = r."""
    return st.sampled_from(((0, 1), (1, -2)))


@st.composite
def mixtures(draw: DrawFn, top: int = 6) -> tuple[int, ...]:
    """He_n + m z with m ≈ (t/4) √n!: K(r) = w r + (1 − w) rⁿ with w ≈ t²/(16 + t²); shrinks towards He_2."""
    n, t = draw(st.integers(2, top)), draw(st.integers(0, 8))
    he = list(hermite_polynomial(n))
    he[1] += isqrt(t * t * factorial(n) // 16)
    return tuple(he)


# -- witnesses -----------------------------------------------------------------------------------------------------------

_PREACTIVATION = {
    "num_inputs": 1, "has_constant": False, "activation": ["identity"], "outputs": [1], "edges": [[0, 1, 0]],
    "theta": ["1"], "x": [["0"]], "y": [["0"]], "loss": "mse_sum",
}  # fmt: skip


def document(statement: str, assertions: list[dict[str, Any]]) -> dict[str, Any]:
    """A witness about φ and C alone; its network is the pre-activation z itself and plays no part."""
    return witness(statement, {"net": _PREACTIVATION}, assertions)


def corr(phi: Phi, r: Any) -> dict[str, Any]:
    """K(r), for the checker, which uses Stein's identity instead of Hermite polynomials."""
    return quantity("gaussian_correlation", coefficients=[number(c) for c in phi], r=number(r))


def entry(u: Units, i: int, j: int, phi: Phi | None = None) -> Any:
    """The measured entry (i, j), for the checker; :func:`context` asserts the numbers that it is divided by."""
    chosen = u.phi if phi is None else phi
    if i == j:
        return "1"
    coefficients = [number(c) for c in chosen]
    if u.points is not None:
        cross = quantity("law_covariance", coefficients=coefficients, points=_texts(u.points))
        return times(number(1 / _law_variance(u)), cross)
    if not u.centred:
        moment = quantity("gaussian_moment", coefficients=coefficients, r=number(u.C[i, j]))
        return times(number(1 / _mean_square(chosen)), moment)
    return corr(chosen, u.C[i, j])


def context(u: Units) -> list[dict[str, Any]]:
    """What a witness asserts about the instance itself: scales, the law, and that two units have a correlation."""
    coefficients = [number(c) for c in u.phi]
    if u.points is not None:
        diagonal = [(x, x) for x, _ in u.points]
        z = ["0", "1"]
        return [
            assertion(
                quantity("law_covariance", coefficients=coefficients, points=_texts(diagonal)), "==", _law_variance(u)
            ),
            assertion(quantity("law_covariance", coefficients=z, points=_texts(diagonal)), "==", 1),
            assertion(quantity("law_covariance", coefficients=z, points=_texts(u.points)), "==", u.r),
        ]
    if not u.centred:
        return [assertion(quantity("gaussian_moment", coefficients=coefficients, r="1"), "==", _mean_square(u.phi))]
    return [assertion(times(u.r, u.r), "<=", 1)] if len(u.C) == 2 else []


def _texts(points: Sequence[tuple[Fraction, Fraction]]) -> list[list[str]]:
    return [[str(x), str(y)] for x, y in points]


def _law_variance(u: Units) -> Fraction:
    assert u.points is not None
    values = [sum((Fraction(c) * x**n for n, c in enumerate(u.phi)), Fraction(0)) for x, _ in u.points]
    mean = sum(values, Fraction(0)) / len(values)
    return sum(((v - mean) ** 2 for v in values), Fraction(0)) / len(values)


def _mean_square(phi: Phi) -> Fraction:
    return second_moment([Fraction(c) for c in phi], Fraction(1))


def times(*factors: Any) -> dict[str, Any]:
    """A product, for the checker."""
    return {"product": [f if isinstance(f, dict | str) else number(f) for f in factors]}


def plus(*terms: Any) -> dict[str, Any]:
    """A sum, for the checker."""
    return {"sum": [t if isinstance(t, dict | str) else number(t) for t in terms]}


def squares(u: Units, phi: Phi | None = None) -> dict[str, Any]:
    """‖image‖_F², for the checker."""
    size = range(len(u.C))
    entries = [entry(u, i, j, phi) for i in size for j in size]
    return plus(*(times(e, e) for e in entries))


def has_witness(u: Units, *more: Phi | None) -> bool:
    """The checker knows polynomials only."""
    return not any(isinstance(phi, str) for phi in (u.phi, *more))


def refuted(u: Units, evidence: Evidence, statement: str, assertions: Callable[[], list[dict[str, Any]]]) -> Evidence:
    """The evidence, with a witness if it fails and the checker can follow."""
    if evidence.verdict is not Verdict.FAILS or not has_witness(u, u.other):
        return evidence
    return replace(evidence, witness=lambda: document(f"{u!r}: {statement}", [*context(u), *assertions()]))
