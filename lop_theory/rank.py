"""Ranks of a matrix: exact over Q or F_p, numerical with its gap, counted above a level, and entropic.

"Rank" means four different things in the literature on loss of plasticity, so that none is called plain *rank* here:

===================== ============================================ ============ ====================================
function              value                                        arithmetic   strength of the answer
===================== ============================================ ============ ====================================
exact_rank            rank over Q                                  integers     proved
modular_rank          rank over F_p of the same matrix             F_p          proved lower bound of exact_rank
numerical_rank        index of the largest gap of σ                float64      a report; undecided below RANK_GAP
epsilon_rank          #{i : |λ_i| > ε}                             float64      a count, by Sylvester's inertia
effective_rank        exp(−Σ p log p), p = σ/Σσ                    float64      Roy & Vetterli 2007
participation_ratio   (Σ σ²)² / Σ σ⁴                               float64      uncentred
stable_rank           Σ σ² / σ_1²                                  float64      Rudelson & Vershynin 2007
srank                 min k : Σ_{i≤k} σ_i ≥ (1 − δ) Σ σ            float64      Kumar et al. 2020 (2010.14498)
===================== ============================================ ============ ====================================

Exact functions refuse floats. Float functions take numpy arrays, torch tensors or nested lists, and promote to float64.

**The chain.** Let σ_1 ≥ … ≥ σ_r > 0 be the non-zero singular values, p_i = σ_i / Σσ and q_i = σ_i² / Σσ². Then

    1 ≤ stable_rank ≤ participation_ratio ≤ effective_rank ≤ exact_rank = r.

The first is an equality iff r = 1, each of the others iff σ_1 = … = σ_r (a flat spectrum makes all of them r). Proof.

1. stable_rank = 1 / max q ≥ 1, because q_i ≤ 1; equality iff one q_i is 1, that is r = 1.
2. participation_ratio = 1 / Σ q² and Σ q² ≤ (max q) Σ q = max q; equality iff q is constant.
3. Write H for the Shannon entropy. Jensen for the concave logarithm gives −log Σ q·q ≤ −Σ q log q, hence
   participation_ratio ≤ exp H(q), with equality iff q is constant. It remains to show H(q) ≤ H(p). Take the family
   p_β ∝ σ^β, Z(β) = Σ σ^β, so that p = p_1, q = p_2. As (log Z)′ = E_β[log σ] and (log Z)″ = Var_β[log σ],
   H(p_β) = log Z − β (log Z)′ has the derivative −β Var_β[log σ] ≤ 0: entropy falls from β = 1 to β = 2.
4. effective_rank = exp H(p) = exp Σ p log(1/p) ≤ Σ p · (1/p) = r by Jensen; equality iff p is constant.

srank_δ stands outside the chain: on a spike over a flat tail it is far above effective_rank, on a flat spectrum it is
⌈(1 − δ) r⌉, below stable_rank. It satisfies (1 − δ) stable_rank ≤ (1 − δ) Σσ/σ_1 ≤ srank_δ ≤ r, because k values sum to
at most k σ_1 and σ_i² ≤ σ_1 σ_i. The chain is about the matrix as given: centring its columns gives another matrix.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

import flint
import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import lapack
from scipy.special import entr

__all__ = [
    "RANK_GAP",
    "RANK_LEVEL",
    "Inertia",
    "NumericalRank",
    "exact_rank",
    "modular_rank",
    "eigenvalues",
    "numerical_rank",
    "rank_is_decided",
    "inertia",
    "epsilon_rank",
    "effective_rank",
    "stable_rank",
    "participation_ratio",
    "srank",
]

FloatArray = npt.NDArray[np.float64]
EPS64 = float(np.finfo(np.float64).eps)

RANK_GAP = 1e3
"""A numerical rank whose gap is smaller than this is *undecided*."""

RANK_LEVEL = 1e-9
"""Singular values above this share of σ_1 are never taken for zero (see :func:`numerical_rank`)."""

TORCH_EIGVALSH_FROM = 2000
"""From this size on torch (MKL) is the faster symmetric eigensolver, below it numpy (measured, one thread)."""


# ------------------------------------------------------------------------------------------------ exact: over Q and F_p


def exact_rank(matrix: Any) -> int:
    """Rank over Q, proved: integer elimination by FLINT after the denominators are cleared.

    ``matrix`` [m, n] is a flint ``fmpz_mat`` or ``fmpq_mat``, a sympy matrix of rationals, an integer numpy array or
    torch tensor, or a nested list or object array of ``int``, ``Fraction``, ``fmpz``, ``fmpq``. Multiplying a row by a
    non-zero integer does not change the rank, so clearing denominators is exact. The time depends on the null space:
    milliseconds per hundred rows if it has a basis of small integers (dead units, clones), up to a minute for a generic
    one at n = 1000, because its basis then has entries of thousands of digits.

    Raises ``TypeError`` for any entry that is not an exact rational, whole-number floats included (a float says nothing
    about how it was rounded), and ``ValueError`` for a ragged or not two-dimensional argument.

    >>> from fractions import Fraction
    >>> exact_rank([[Fraction(1, 3), Fraction(1, 2)], [Fraction(2, 3), 1]])
    1
    >>> exact_rank([[10**30, 1], [10**60, 10**30 + 1]])    # in float64 this matrix is singular
    2
    """
    integer_matrix, _ = _clear_denominators(matrix)
    return int(integer_matrix.rank())


def modular_rank(matrix: Any, p: int) -> int:
    """Rank over F_p, a proved lower bound of :func:`exact_rank` for every prime p that divides no denominator.

    A minor that is not 0 mod p is not 0, so the rank can only fall on reduction. ``matrix`` as in :func:`exact_rank`,
    already reduced or not; a flint ``nmod_mat`` of modulus p is taken as it is. p is a prime below 2⁶⁴.

    Raises ``ValueError`` if p is not such a prime or divides a denominator; ``TypeError`` for inexact entries.

    >>> modular_rank([[1, 2], [3, 4]], 7), modular_rank([[1, 2], [3, 4]], 2)    # the determinant is −2
    (2, 1)
    """
    p = _prime(p)
    if isinstance(matrix, flint.nmod_mat):
        if matrix.modulus() != p:
            raise ValueError(f"nmod_mat has modulus {matrix.modulus()}, not p = {p}: reduce the matrix modulo p first")
        return int(matrix.rank())
    integer_matrix, denominators = _clear_denominators(matrix)
    if denominators % p == 0:
        raise ValueError(f"p = {p} divides a denominator: the matrix has no reduction modulo p; choose another prime")
    return int(flint.nmod_mat(integer_matrix, p).rank())


def _prime(p: Any) -> int:
    if isinstance(p, bool) or not isinstance(p, numbers.Integral | flint.fmpz):
        raise TypeError(f"p = {p!r} has type {type(p).__name__}: the modulus is an int; pass a prime such as 2**61 - 1")
    prime = int(p)
    if not 2 <= prime < 2**64 or not flint.fmpz(prime).is_prime():
        raise ValueError(f"p = {prime}: the modulus must be a prime below 2**64; use for example 2**61 - 1")
    return prime


def _clear_denominators(matrix: Any) -> tuple[flint.fmpz_mat, int]:
    """An integer matrix of the same rank, and an integer divisible by exactly the primes that divide a denominator."""
    if isinstance(matrix, flint.fmpz_mat):
        return matrix, 1
    if isinstance(matrix, flint.fmpq_mat):
        numerator, denominator = matrix.numer_denom()
        return numerator, int(denominator)
    rows = _rows(matrix)
    denominators = 1
    cleared: list[list[int]] = []
    for i, row in enumerate(rows):
        if set(map(type, row)) == {int}:  # integer arrays end here: no Python-level work per entry
            cleared.append(row)
            continue
        fractions = [_numerator_denominator(entry, i, j) for j, entry in enumerate(row)]
        multiplier = math.lcm(*(denominator for _, denominator in fractions))
        cleared.append([numerator * (multiplier // denominator) for numerator, denominator in fractions])
        denominators = math.lcm(denominators, multiplier)
    columns = len(rows[0]) if rows else 0
    return flint.fmpz_mat(len(rows), columns, [entry for row in cleared for entry in row]), denominators


def _rows(matrix: Any) -> list[list[Any]]:
    """The entries as a rectangular list of rows; arrays of a float or complex dtype are refused before any copying."""
    if isinstance(matrix, np.ndarray | torch.Tensor):
        if matrix.ndim != 2:
            raise ValueError(f"shape {tuple(matrix.shape)}: a rank needs a matrix [m, n]; reshape the argument")
        inexact = matrix.dtype.kind in "fc" if isinstance(matrix, np.ndarray) else _is_inexact_tensor(matrix)
        if inexact:
            raise TypeError(_inexact_message(f"a {type(matrix).__name__} of dtype {matrix.dtype}"))
    table = matrix.tolist() if hasattr(matrix, "tolist") else matrix
    try:
        rows = [row.tolist() if hasattr(row, "tolist") else list(row) for row in table]
        widths = {len(row) for row in rows}
    except TypeError as error:
        raise ValueError(f"{type(matrix).__name__}: a rank needs a matrix; pass rows or a 2-D array") from error
    if len(widths) > 1:
        raise ValueError(f"rows of lengths {sorted(widths)}: rows of a matrix have one length; pad or drop entries")
    return rows


def _is_inexact_tensor(tensor: torch.Tensor) -> bool:
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex


def _numerator_denominator(entry: Any, i: int, j: int) -> tuple[int, int]:
    if isinstance(entry, numbers.Rational):  # int, Fraction, numpy integers, sympy Integer and Rational
        return int(entry.numerator), int(entry.denominator)
    if isinstance(entry, flint.fmpz):
        return int(entry), 1
    if isinstance(entry, flint.fmpq):
        return int(entry.p), int(entry.q)
    raise TypeError(_inexact_message(f"entry [{i}, {j}] = {entry!r} of type {type(entry).__name__}"))


def _inexact_message(what: str) -> str:
    return (
        f"{what}: an exact rank needs integers or fractions, because a float does not tell how it was rounded; "
        "use lop_theory.exact_hessian or Fraction (and numerical_rank for floats)"
    )


# ---------------------------------------------------------------------------------------- float: spectra and their gaps


class NumericalRank(NamedTuple):
    """``rank`` with the ``gap`` σ_rank / σ_{rank+1} that supports it (σ floored at rounding; inf for a zero matrix)."""

    rank: int
    gap: float


def eigenvalues(H: Any) -> FloatArray:
    """Eigenvalues [n] of a symmetric matrix H [n, n], ascending, float64 (through torch for n ≥ 2000, else numpy).

    Raises ``ValueError`` if H is not square, symmetric (to rounding) and finite, or is empty.

    >>> eigenvalues([[0.0, 2.0], [2.0, 0.0]]).tolist()
    [-2.0, 2.0]
    """
    return _eigenvalues(_symmetric_matrix(H, "eigenvalues")[0])


def _eigenvalues(H: FloatArray) -> FloatArray:
    if len(H) >= TORCH_EIGVALSH_FROM:
        return np.asarray(torch.linalg.eigvalsh(torch.from_numpy(np.ascontiguousarray(H))).numpy(), dtype=np.float64)
    return np.asarray(np.linalg.eigvalsh(H), dtype=np.float64)


def numerical_rank(H: Any) -> NumericalRank:
    """Numerical rank: the index of the largest gap in the singular values that ends below 1e-9 σ_1.

    A backward stable solver errs by at most f = max(m, n) · eps · σ_1 in each σ_i, up to a modest constant (Weyl), with
    the eps of the *given* dtype, because float32 entries have been rounded already. Below f nothing is known, hence
    τ_i = max(σ_i, f) with τ_{min(m, n)+1} = f, and

        rank = argmax { τ_r / τ_{r+1} :  τ_{r+1} ≤ max(RANK_LEVEL · σ_1, f) },   gap = τ_rank / τ_{rank+1}.

    The level is needed because spectra of Hessians have large gaps at the top (outliers) which say nothing about rank;
    1e-9 is about the radius of rigorous float64 enclosures of the eigenvalues of a Hessian at P = 3000: only what lies
    below it may be an exact zero. Full rank competes on equal terms, by its gap to the rounding floor.

    A report, not a proof: a gap below ``RANK_GAP`` = 1e3 means **undecided** (:func:`rank_is_decided`), and even a wide
    gap does not tell an exactly dead unit from a saturated one. H [m, n] is finite and not empty (else ``ValueError``);
    a zero matrix has rank 0 and gap inf.

    >>> numerical_rank([[1.0, 2.0], [2.0, 4.0]]).rank
    1
    >>> rank_is_decided(numerical_rank(np.diag(10.0 ** -np.arange(0, 16, 2))))    # 1, 1e-2, …, 1e-14: no clear gap
    False
    """
    array, unit = _float_matrix(H, "numerical_rank")
    if not array.any():
        return NumericalRank(0, math.inf)
    sigma = _relative_singular_values(array)
    floor = max(array.shape) * unit * sigma[0]
    tau = np.maximum(np.append(sigma, 0.0), floor)
    ratios = tau[:-1] / tau[1:]
    admissible = tau[1:] <= max(RANK_LEVEL * sigma[0], floor)
    best = int(np.argmax(np.where(admissible, ratios, 0.0)))
    return NumericalRank(best + 1, float(ratios[best]))


def rank_is_decided(result: NumericalRank) -> bool:
    """Whether the gap of a numerical rank is wide enough, at least ``RANK_GAP``, to say anything.

    >>> rank_is_decided(NumericalRank(3, 12.0)), rank_is_decided(NumericalRank(0, math.inf))
    (False, True)
    """
    return result.gap >= RANK_GAP


# ------------------------------------------------------------------------------------ float: counting by inertia (LDLᵀ)


class Inertia(NamedTuple):
    """How many eigenvalues are positive, negative and zero (for floats: within the stated level of zero)."""

    positive: int
    negative: int
    zero: int


def inertia(H: Any, eps: float | None = None) -> Inertia:
    """#{λ > eps}, #{λ < −eps} and the rest, for a symmetric H [n, n], without eigenvalues.

    Sylvester: H − eps I = P L D Lᵀ Pᵀ has as many positive eigenvalues as the block-diagonal D, and H + eps I as many
    negative ones. So two Bunch–Kaufman factorizations (LAPACK ``dsytrf``, n³/3 operations each, mostly matrix products)
    replace a reduction to tridiagonal form. ``eps=None`` takes the rounding level n · 2⁻⁵² · ‖H‖_F, below which the
    sign of an eigenvalue cannot be read from floats (2⁻⁵² is replaced by the eps of a coarser dtype).

    The computed D is that of a matrix within E of H ∓ eps I, ‖E‖ a modest multiple of n · 2⁻⁵² ‖H‖ in practice. By
    Weyl, all eigenvalues further than ‖E‖ from ±eps are counted rightly; those nearer may fall on either side, exact
    ties included. If that matters, count at eps (1 ± t) too, t eps > ‖E‖: the true count lies between the two.

    Raises ``ValueError`` if H is not square, symmetric (to rounding), finite and not empty, or if eps is negative,
    infinite or NaN.

    >>> inertia([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    Inertia(positive=1, negative=1, zero=1)
    """
    array, unit = _symmetric_matrix(H, "inertia")
    n = len(array)
    largest = float(max(array.max(), -array.min()))
    if largest == 0.0:
        return Inertia(0, 0, n)
    # A power of two brings the largest entry into [1/2, 1): exact, and LAPACK's products of entries cannot overflow.
    scale = math.ldexp(1.0, min(-math.frexp(largest)[1], 1000))
    if eps is None:
        shift = n * unit * float(np.linalg.norm(array * scale))
    elif eps >= 0 and math.isfinite(eps):
        shift = float(eps) * scale
    else:
        raise ValueError(f"eps = {eps}: the level must be finite and not negative; pass for example 1e-6 * largest |λ|")
    if shift >= n:  # Gershgorin: |λ| ≤ n max|H|
        return Inertia(0, 0, n)
    positive, _ = _pivot_signs(array, scale, -shift)
    _, negative = _pivot_signs(array, scale, shift)
    return Inertia(positive, negative, n - positive - negative)


def _pivot_signs(H: FloatArray, scale: float, shift: float) -> tuple[int, int]:
    """Positive and negative eigenvalues of D in scale · H + shift · I = P L D Lᵀ Pᵀ.

    dsytrf marks a 2 × 2 pivot by two negative entries of ``ipiv``. Such a pivot [[a, c], [c, b]] is chosen only when
    |a| ρ < α c² and |b| < α ρ with α = (1 + √17)/8 ≈ 0.64 and ρ ≥ |c|, so |a b| < α² c²: its determinant is negative
    with room to spare, and it holds one eigenvalue of each sign. It never has to be diagonalised.
    """
    n = len(H)
    shifted = np.multiply(H.T, scale, order="F")  # as H = Hᵀ, this is a Fortran-ordered H without a strided copy
    shifted[np.diag_indices(n)] += shift
    lwork = int(lapack.dsytrf_lwork(n, lower=1)[0])
    factor, ipiv, info = lapack.dsytrf(shifted, lower=1, lwork=lwork, overwrite_a=1)
    if info < 0:  # info > 0 reports a zero pivot, which is counted as such
        raise RuntimeError(f"LAPACK dsytrf reports an illegal argument {-info}")
    pivots = np.diagonal(factor)[ipiv > 0]
    blocks = int(np.count_nonzero(ipiv < 0)) // 2
    return int(np.count_nonzero(pivots > 0)) + blocks, int(np.count_nonzero(pivots < 0)) + blocks


def epsilon_rank(H: Any, eps: float) -> int:
    """ε-rank #{i : |λ_i| > eps} of a symmetric matrix H [n, n] (Spectral Collapse, 2509.22335), by inertia.

    See :func:`inertia` for the method and for what happens to an eigenvalue within rounding of ±eps; an eps below about
    n · 2⁻⁵² · ‖H‖ counts rounding errors. float32 entries are promoted (their own rounding, 1e-7 ‖H‖, stays). eps is in
    the units of H, finite and > 0; it is not relative to the largest eigenvalue.

    Raises ``ValueError`` for any other eps, and if H is not square, symmetric (to rounding), finite and not empty.

    >>> epsilon_rank([[0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1e-8]], eps=1e-6)
    2
    """
    if not (eps > 0 and math.isfinite(eps)):
        raise ValueError(f"eps = {eps}: an ε-rank needs a finite level > 0; for ε = 0 use exact_rank or numerical_rank")
    counts = inertia(H, eps)
    return counts.positive + counts.negative


# ------------------------------------------------------------------------------ float: entropic ranks (the chain above)


def effective_rank(M: Any) -> float:
    """Effective rank exp(−Σ p log p) with p = σ / Σσ, the singular values themselves (Roy & Vetterli 2007).

    On σ² it would be another, smaller number (step 3 of the chain). Raises ``ValueError`` if M [m, n] is zero (then it
    is undefined), empty, not finite or not two-dimensional; so do the three functions below.

    >>> round(effective_rank([[3.0, 0.0], [0.0, 3.0]]), 12)
    2.0
    """
    sigma = _relative_singular_values(_nonzero_matrix(M, "effective_rank"))
    return float(np.exp(entr(sigma / sigma.sum()).sum()))


def stable_rank(M: Any) -> float:
    """Stable rank ‖M‖_F² / ‖M‖_2² = Σσ² / σ_1² (Rudelson & Vershynin 2007).

    >>> round(stable_rank([[2.0, 0.0], [0.0, 1.0]]), 12)
    1.25
    """
    sigma = _relative_singular_values(_nonzero_matrix(M, "stable_rank"))
    return float(((sigma / sigma[0]) ** 2).sum())


def participation_ratio(M: Any) -> float:
    """Participation ratio (tr G)² / ‖G‖_F² = (Σσ²)² / Σσ⁴ of the uncentred Gram matrix G = MᵀM, without decomposition.

    MMᵀ has the same non-zero eigenvalues, so the smaller of the two is formed. Subtract the column means first to
    obtain the centred variant, which is a statement about another matrix.

    >>> round(participation_ratio([[2.0, 0.0], [0.0, 1.0]]), 12)    # 25 / 17
    1.470588235294
    """
    array = _nonzero_matrix(M, "participation_ratio")
    array = array / np.abs(array).max()
    gram = array @ array.T if array.shape[0] <= array.shape[1] else array.T @ array
    return float(np.trace(gram) ** 2 / np.sum(gram * gram))


def srank(M: Any, delta: float = 0.01) -> int:
    """Smallest k with Σ_{i≤k} σ_i ≥ (1 − δ) Σσ (Kumar et al. 2020, 2010.14498, where δ = 0.01).

    Some public codes call it "stable rank", which it is not. A tie within rounding, min(m, n) · 2⁻⁵² Σσ, counts as
    reached, so that a flat spectrum of 100 gives 99.

    >>> srank([[1.0, 0.0], [0.0, 1e-3]]), srank([[1.0, 0.0], [0.0, 1e-3]], delta=1e-4)
    (1, 2)
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta}: the neglected share lies strictly between 0 and 1; the paper takes 0.01")
    sigma = _relative_singular_values(_nonzero_matrix(M, "srank"))
    total = float(sigma.sum())
    reached = np.cumsum(sigma) >= (1 - delta - len(sigma) * EPS64) * total
    return int(np.argmax(reached)) + 1


# ------------------------------------------------------------------------------------------------ the door: float input


def _float_matrix(matrix: Any, what: str) -> tuple[FloatArray, float]:
    """A finite, non-empty float64 matrix, and the eps of the dtype in which its entries were given (at least 2⁻⁵²)."""
    if isinstance(matrix, torch.Tensor):
        unit = torch.finfo(matrix.dtype).eps if matrix.dtype.is_floating_point else EPS64
        complex_entries = matrix.dtype.is_complex
        given: Any = matrix.detach().cpu()
        given = given if complex_entries else given.to(torch.float64).numpy()
    else:
        try:
            given = np.asarray(matrix)
            complex_entries = given.dtype.kind == "c"
            unit = float(np.finfo(given.dtype).eps) if given.dtype.kind == "f" else EPS64
            given = given if complex_entries else given.astype(np.float64, copy=False)
        except (TypeError, ValueError) as error:
            message = f"{what}: a {type(matrix).__name__} is not a real matrix; pass an array or nested list of floats"
            raise TypeError(message) from error
    if complex_entries:
        raise TypeError(f"{what}: dtype {given.dtype}: only real matrices are supported; pass the real part")
    if given.ndim != 2 or given.size == 0:
        raise ValueError(f"{what}: shape {given.shape}: a matrix [m, n] with m, n ≥ 1 is needed; reshape the argument")
    if not np.isfinite(given).all():
        i, j = np.argwhere(~np.isfinite(given))[0]
        raise ValueError(f"{what}: entry [{i}, {j}] = {given[i, j]}: all entries must be finite; find its origin first")
    return given, max(unit, EPS64)


def _symmetric_matrix(H: Any, what: str) -> tuple[FloatArray, float]:
    array, unit = _float_matrix(H, what)
    n = len(array)
    if array.shape != (n, n):
        raise ValueError(f"{what}: shape {array.shape}: a symmetric matrix is square; use numerical_rank for others")
    difference = array - array.T
    largest, asymmetry = max(array.max(), -array.min()), difference.max()  # H − Hᵀ is antisymmetric: its max is max |·|
    if asymmetry > 100 * n * unit * largest:
        i, j = np.unravel_index(int(np.argmax(difference)), difference.shape)
        raise ValueError(
            f"{what}: entries [{i}, {j}] = {array[i, j]} and [{j}, {i}] = {array[j, i]} differ by more than rounding: "
            "the matrix must be symmetric; pass (H + H.T) / 2 if the difference is meant to be zero"
        )
    return array, unit


def _nonzero_matrix(M: Any, what: str) -> FloatArray:
    array, _ = _float_matrix(M, what)
    if not array.any():
        raise ValueError(f"{what}: undefined, because the matrix is zero; test for a zero matrix before calling")
    return array


def _relative_singular_values(array: FloatArray) -> FloatArray:
    """Singular values of array / max |array|, descending; scaling leaves every rank alone and prevents overflow."""
    scaled = array / np.abs(array).max()
    if scaled.shape[0] == scaled.shape[1] and np.array_equal(scaled, scaled.T):
        return np.sort(np.abs(_eigenvalues(scaled)))[::-1]
    return np.asarray(np.linalg.svd(scaled, compute_uv=False), dtype=np.float64)
