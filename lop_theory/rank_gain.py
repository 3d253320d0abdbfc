r"""Rank gain: what an activation does to the correlation matrix of Gaussian pre-activations (*Barriers*, Theorem 3.1).

Let Z ~ N(0, C) with a correlation matrix C [d, d], and K = K_φ of :mod:`lop_theory.gaussian_kernel`. The correlation matrix of
φ(Z) is K(C), elementwise. With er_2(M) = (tr M)² / ‖M‖_F², the Rényi-2 rank,

    er_2(K(C)) / er_2(C) = (d + Σ_(i≠j) C_ij²) / (d + Σ_(i≠j) K(C_ij)²).                                             (1)

*When it is 1.* Entry by entry K(r)² ≤ r², and equality means r ∈ {0, 1}, or r = −1 and K(−1)² = 1. So for nonlinear φ the gain
is 1 iff every off-diagonal entry is 0 or 1, or is −1 while φ − Eφ is odd or even. (Printed, v1: strict whenever some
|C_ij| < 1, which C = I refutes; the converse of the main text is refuted by ReLU at C_12 = −1, where the gain is 1.642.)

*Lower bounds.* Let α = K'(0) and x = |r|. As w ↦ Σ w_k x^k is largest with all weight beyond w_1 on k = 2,
|K(r)| ≤ Q(x) = αx + (1 − α)x². Two identities, polynomial in x and α, then bound the gap x² − K² ≥ x² − Q²:

    x² − Q² = γ x²(1 − x²) + α(1 − α) x²(1 − x)(2 + α(1 − x)) / (1 + α),   γ = (1 − α)/(1 + α)      (v2, Lemma A.1)     (2)
    x² − Q² = (1 − α) x²(1 − x²) + α(1 − α) x²(1 − x)²                                           (the best constant)    (3)

With Ψ(C) = Σ_(i≠j) C_ij²(1 − C_ij²), (2) gives gain ≥ 1 + γΨ/‖C‖² (v2, Theorem 3.1) and (3) gives gain ≥ 1/(1 − (1 − α)Ψ/‖C‖²).
1 − α cannot be improved: for K = Q the quotient (x² − Q²) / (x²(1 − x²)) = (1 − α)(1 + α(1 − x)/(1 + x)) tends to it as x → 1.

*All ranks at once.* K(C) = C ∘ R with R = Σ_k w_k C^(∘(k−1)), a correlation matrix (Schur). If R = Σ_l v_l v_lᵀ and
D_l = diag(v_l), then K(C) = Σ_l D_l C D_l and Σ_l D_l² = I. For orthonormal eigenvectors u_j of C and y_i of K(C),
S_ij = Σ_l (y_iᵀ D_l u_j)² has row and column sums 1 and λ(K(C)) = S λ(C): λ(K(C)) is **majorized** by λ(C), λ(K(C)) ≺ λ(C).
Hence every Schur-concave function grows: Rényi ranks of all orders, the Shannon effective rank, tr/λ_max, log det. ∎

*Many layers.* If pre-activations are Gaussian, centred and normalised at every layer, correlations iterate K. For nonlinear φ and
0 ≤ r < 1: K^L(r) ≤ β^L r with β = α + (1 − α) r < 1, while 1 − K(r) ≥ (1 + (1 − α) r)(1 − r): 0 attracts at the rate α = K'(0), 1
repels at the rate K'(1) = Σ k w_k > 1. Correlated units decorrelate; the nonlinearity alone makes no clones.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from flint import arb, fmpq, fmpq_mat, fmpq_poly

from lop_theory.arithmetic import to_fmpq
from lop_theory.gaussian_kernel import GaussianKernel, at_bits

__all__ = [
    "correlation_matrix",
    "is_positive_semidefinite",
    "kernel_matrix",
    "rank_gain",
    "gain_is_one",
    "decorrelation",
    "gain_bound",
    "sharp_gain_bound",
    "kappa",
    "gamma",
    "renyi_rank",
    "majorizes",
    "iterate_kernel",
    "fixed_points",
    "FixedPoint",
]


# -- correlation matrices --------------------------------------------------------------------------------------------


def correlation_matrix(entries: Any) -> np.ndarray:
    """An exact correlation matrix, as a numpy object array [d, d] of ``fmpq``.

    Symmetric, unit diagonal, positive semidefinite, all decided exactly; ValueError names what fails.

    >>> correlation_matrix([[1, Fraction(1, 2)], [Fraction(1, 2), 1]]).tolist()
    [[1, 1/2], [1/2, 1]]
    >>> correlation_matrix([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    Traceback (most recent call last):
        ...
    ValueError: the matrix has a negative eigenvalue, so it is not a correlation matrix; use a Gram matrix of unit vectors
    """
    rows = [[to_fmpq(v) for v in row] for row in entries]
    size = len(rows)
    if size == 0 or any(len(row) != size for row in rows):
        raise ValueError(f"a correlation matrix is square and not empty, got row lengths {[len(r) for r in rows]}")
    for i in range(size):
        if rows[i][i] != 1:
            raise ValueError(
                f"entry ({i}, {i}) of a correlation matrix is 1, got {rows[i][i]}; divide by the variances"
            )
        for j in range(i):
            if rows[i][j] != rows[j][i]:
                raise ValueError(
                    f"entries ({i}, {j}) = {rows[i][j]} and ({j}, {i}) = {rows[j][i]} differ; symmetrise the matrix"
                )
    if not is_positive_semidefinite(rows):
        raise ValueError(
            "the matrix has a negative eigenvalue, so it is not a correlation matrix; use a Gram matrix of unit vectors"
        )
    out = np.empty((size, size), dtype=object)
    for i, row in enumerate(rows):
        out[i, :] = row
    return out


def _checked(C: Any) -> np.ndarray:
    """C as an array [d, d]; float matrices are tested up to rounding, exact ones are made by :func:`correlation_matrix`.

    >>> _checked(np.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]]))
    Traceback (most recent call last):
        ...
    ValueError: the matrix has the eigenvalue -0.8, so it is not a correlation matrix; use a Gram matrix of unit vectors
    """
    array = np.asarray(C)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise ValueError(f"a correlation matrix is square and not empty, got shape {array.shape}; pass C [d, d]")
    if array.dtype == object:
        return array
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a correlation matrix is finite, got an entry that is not; find its origin first")
    off = float(np.abs(array.diagonal() - 1).max())
    if off > 1e-9:
        raise ValueError(
            f"the diagonal of a correlation matrix is 1, got an entry off by {off:.3g}; divide by the variances"
        )
    if not np.allclose(array, array.T, atol=1e-9, rtol=0):
        raise ValueError("a correlation matrix is symmetric, got one that is not; symmetrise the matrix")
    least = float(np.linalg.eigvalsh(array)[0])
    if least < -1e-9 * len(array):
        raise ValueError(
            f"the matrix has the eigenvalue {least:.6g}, so it is not a correlation matrix; use a Gram matrix of unit vectors"
        )
    return array


def is_positive_semidefinite(rows: Any) -> bool:
    """Exactly: det(t + A) of a symmetric rational A has only real roots, all ≤ 0 iff no coefficient is negative.

    >>> is_positive_semidefinite([[1, 1], [1, 1]]), is_positive_semidefinite([[1, 2], [2, 1]])
    (True, False)
    """
    return all(c >= 0 for c in _characteristic([[-to_fmpq(v) for v in row] for row in rows]).coeffs())


def _characteristic(rows: Any) -> fmpq_poly:
    """det(t − A)."""
    return fmpq_poly(fmpq_mat([[to_fmpq(v) for v in row] for row in rows]).charpoly())


def kernel_matrix(kernel: GaussianKernel, C: np.ndarray) -> np.ndarray:
    """K(C) [d, d] elementwise: exact or balls for an object array of rationals, float64 for a float array.

    >>> from lop_theory.gaussian_kernel import gaussian_kernel
    >>> kernel_matrix(gaussian_kernel("square"), correlation_matrix([[1, Fraction(1, 2)], [Fraction(1, 2), 1]])).tolist()
    [[1, 1/4], [1/4, 1]]
    """
    C = _checked(C)
    if C.dtype != object:
        return np.asarray(kernel(C))
    out = np.empty(C.shape, dtype=object)
    for index, r in np.ndenumerate(C):
        out[index] = kernel.enclose(r)
    return out


# -- the gain and its bounds -----------------------------------------------------------------------------------------


def _frobenius2(matrix: np.ndarray) -> Any:
    return at_bits(lambda: (matrix * matrix).sum())


def rank_gain(kernel: GaussianKernel, C: np.ndarray) -> Any:
    """er_2(K(C)) / er_2(C), the ratio (1): ``fmpq`` if C and K are rational, a ball if only C is, else float64.

    >>> from lop_theory.gaussian_kernel import gaussian_kernel
    >>> opposite = correlation_matrix([[1, -1], [-1, 1]])
    >>> rank_gain(gaussian_kernel("quadratic"), opposite)    # K(−1) = −1/3
    9/5
    >>> rank_gain(gaussian_kernel("relu"), opposite).str(6, radius=False)    # 2 / (1 + (π − 1)^−2)
    '1.64199'
    """
    image = kernel_matrix(kernel, C)
    before, after = _frobenius2(np.asarray(C)), _frobenius2(image)
    return at_bits(lambda: before / after)


def gain_is_one(kernel: GaussianKernel, C: np.ndarray) -> bool:
    """The equality criterion, decided exactly: φ affine, or every off-diagonal entry 0, 1, or −1 with parity.

    >>> from lop_theory.gaussian_kernel import gaussian_kernel
    >>> opposite = correlation_matrix([[1, -1], [-1, 1]])
    >>> [gain_is_one(gaussian_kernel(phi), opposite) for phi in ("tanh", "abs", "relu")]
    [True, True, False]
    """
    if kernel.is_linear:
        return True
    allowed = (0, 1, -1) if kernel.parity else (0, 1)
    return all(r in allowed for (i, j), r in np.ndenumerate(_checked(C)) if i != j)


def decorrelation(C: np.ndarray) -> Any:
    """Ψ(C) = Σ_(i≠j) C_ij² (1 − C_ij²): zero iff every entry is 0 or ±1; largest, d(d−1)/4, at |C_ij| = 1/√2.

    >>> decorrelation(correlation_matrix([[1, Fraction(1, 2)], [Fraction(1, 2), 1]]))
    3/8
    """
    squares = _checked(C) ** 2
    return (squares * (1 - squares)).sum()


def gamma(slope_at_zero: Any) -> Any:
    """γ = (1 − α)/(1 + α) of α = K'(0), v2 Lemma A.1; v2's appendix prints α itself under the same name.

    >>> gamma(Fraction(2, 3))
    Fraction(1, 5)
    """
    return at_bits(lambda: (1 - slope_at_zero) / (1 + slope_at_zero))


def gain_bound(slope_at_zero: Any, C: np.ndarray) -> Any:
    """1 + γΨ(C)/‖C‖_F², *Barriers* v2, Theorem 3.1.

    >>> gain_bound(Fraction(2, 3), correlation_matrix([[1, Fraction(1, 2)], [Fraction(1, 2), 1]]))
    103/100
    """
    ratio = decorrelation(C) / _frobenius2(C)
    return at_bits(lambda: 1 + _like(gamma(slope_at_zero)) * ratio)


def sharp_gain_bound(slope_at_zero: Any, C: np.ndarray) -> Any:
    """1 / (1 − (1 − α)Ψ(C)/‖C‖_F²): the bound with the best constant; an equality for φ = He_2.

    >>> sharp_gain_bound(Fraction(0), correlation_matrix([[1, Fraction(1, 2)], [Fraction(1, 2), 1]]))
    20/17
    """
    ratio = decorrelation(C) / _frobenius2(C)
    return at_bits(lambda: 1 / (1 - (1 - _like(slope_at_zero)) * ratio))


def _like(value: Any) -> Any:
    return fmpq(value.numerator, value.denominator) if isinstance(value, Fraction) else value


def kappa(kernel: GaussianKernel, cells: int = 4096) -> tuple[float, float]:
    """An interval that contains κ = max over [0, 1] of r² − K(r)² (v1, Remark A.1), up to float64 rounding.

    K increases on [0, 1], so that on a cell [a, b] the maximum is at most b² − K(a)². κ does not order gains: see the
    claim ``barriers.kappa-order``.

    >>> from lop_theory.gaussian_kernel import gaussian_kernel
    >>> low, high = kappa(gaussian_kernel("square"))    # r² − r⁴ is largest at r² = 1/2
    >>> low <= 0.25 <= high < low + 1e-3
    True
    """
    r = np.linspace(0.0, 1.0, cells + 1)
    k = kernel(r)
    return float((r**2 - k**2).max()), float((r[1:] ** 2 - k[:-1] ** 2).max())


# -- spectra ---------------------------------------------------------------------------------------------------------


def renyi_rank(C: np.ndarray, order: float) -> float:
    """exp of the Rényi entropy of λ/Σλ in float64: order 1 is the Shannon effective rank, 2 is er_2, inf is tr/λ_max.

    C: symmetric PSD float matrix [d, d] with positive trace; order ≥ 0 (order 0 counts eigenvalues above 1e-12).

    >>> [round(renyi_rank(np.array([[1.0, 0.5], [0.5, 1.0]]), order), 4) for order in (0, 1, 2, np.inf)]
    [2.0, 1.7548, 1.6, 1.3333]
    """
    if order < 0:
        raise ValueError(f"order {order} of a Rényi entropy is negative; give order >= 0")
    eigenvalues = np.clip(np.linalg.eigvalsh(np.asarray(C, dtype=np.float64)), 0.0, None)
    if not eigenvalues.sum() > 0:
        raise ValueError("the Rényi rank is undefined, because the trace is 0; give a matrix with positive trace")
    p = eigenvalues / eigenvalues.sum()
    p = p[p > 1e-12]
    if order == 1:
        return float(np.exp(-(p * np.log(p)).sum()))
    return float(1 / p.max()) if order == np.inf else float((p**order).sum() ** (1 / (1 - order)))


def majorizes(C: np.ndarray, D: np.ndarray) -> bool | None:
    """Is λ(D) ≺ λ(C)? Exact matrices [d, d] of rationals; ``None`` if the root enclosures leave it open.

    Every partial sum of the decreasing eigenvalues of C must reach that of D, and the traces agree. Eigenvalues that both
    share are removed first (they do not matter), by the gcd of the characteristic polynomials.

    >>> half = correlation_matrix([[1, Fraction(1, 2)], [Fraction(1, 2), 1]])
    >>> majorizes(half, correlation_matrix([[1, 0], [0, 1]])), majorizes(correlation_matrix([[1, 0], [0, 1]]), half)
    (True, False)
    """
    p, q = _characteristic(C), _characteristic(D)
    if p.degree() != q.degree() or sum(C.diagonal()) != sum(D.diagonal()):
        return False
    common = p.gcd(q)
    return at_bits(lambda: _partial_sums_reach(_real_roots(p / common), _real_roots(q / common)))


def _real_roots(polynomial: fmpq_poly) -> list[arb]:
    """The roots of a polynomial all of whose roots are real, decreasing, as enclosures (disjoint for distinct roots)."""
    numerator = polynomial.numer()
    found: list[Any] = numerator.complex_roots() if numerator.degree() > 0 else []  # pairs
    return sorted((root.real for root, count in found for _ in range(count)), key=lambda root: -float(root.mid()))


def _partial_sums_reach(high: list[arb], low: list[arb]) -> bool | None:
    difference, open_question = arb(0), False
    for a, b in zip(high[:-1], low[:-1], strict=True):
        difference += a - b
        if difference < 0:
            return False
        open_question |= not difference >= 0
    return None if open_question else True


# -- many layers -----------------------------------------------------------------------------------------------------


def iterate_kernel(kernel: GaussianKernel, r: Any, layers: int, centred: bool = True) -> np.ndarray:
    """r, K(r), K(K(r)), … in float64, [layers + 1, *r.shape]; uncentred: E[φφ]/E[φ²] is iterated instead.

    >>> from lop_theory.gaussian_kernel import gaussian_kernel
    >>> relu = gaussian_kernel("relu")
    >>> iterate_kernel(relu, 0.5, 2).round(4).tolist(), iterate_kernel(relu, 0.5, 2, centred=False).round(4).tolist()
    ([0.5, 0.4264, 0.3559], [0.5, 0.609, 0.6839])
    """
    step = kernel if centred else kernel.uncentred
    out = [np.asarray(r, dtype=np.float64)]
    for _ in range(layers):
        out.append(np.asarray(step(np.clip(out[-1], -1.0, 1.0))))
    return np.stack(out)


@dataclass(frozen=True)
class FixedPoint:
    """K(r) = r with multiplier K'(r): attracting if below 1 in absolute value, repelling if above, neutral if 1."""

    r: int
    multiplier: float

    @property
    def kind(self) -> str:
        if self.multiplier == 1:
            return "neutral"
        return "attracting" if abs(self.multiplier) < 1 else "repelling"


def fixed_points(kernel: GaussianKernel) -> tuple[FixedPoint, ...]:
    """All fixed points of K for nonlinear φ: 0, 1, and −1 if φ − Eφ is odd, because 0 < |K(r)| < |r| elsewhere.

    Raises ValueError for affine φ, where every r is fixed.

    >>> from lop_theory.gaussian_kernel import gaussian_kernel
    >>> [(p.r, round(p.multiplier, 4), p.kind) for p in fixed_points(gaussian_kernel("relu"))]
    [(0, 0.7335, 'attracting'), (1, 1.4669, 'repelling')]
    """
    if kernel.is_linear:
        raise ValueError(f"K(r) = r for {kernel.name}: every correlation is fixed; give a nonlinear activation")
    alpha = kernel.slope_at_zero
    points = [FixedPoint(0, float(alpha if isinstance(alpha, Fraction) else alpha.mid()))]
    points += [FixedPoint(r, kernel.slope_at_one) for r in ((1, -1) if kernel.parity < 0 else (1,))]
    return tuple(points)
