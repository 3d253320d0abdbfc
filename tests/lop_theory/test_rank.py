"""lop_theory.rank against slow oracles, its bounds from both sides, and what it refuses."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import flint
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import lapack

import lop_theory.rank as rank_module
from lop_theory.rank import (
    RANK_GAP,
    effective_rank,
    eigenvalues,
    epsilon_rank,
    exact_rank,
    inertia,
    modular_rank,
    numerical_rank,
    participation_ratio,
    rank_is_decided,
    srank,
    stable_rank,
)
from tests.reference import ranks as reference

PRIME = 2**61 - 1
CHAIN = {"stable_rank": stable_rank, "participation_ratio": participation_ratio, "effective_rank": effective_rank}


# -------------------------------------------------------------------------------------------------------- strategies


@st.composite
def matrices_of_known_rank(draw: st.DrawFn, min_rank: int = 0) -> tuple[np.ndarray, int]:
    """An integer matrix [m, n] of rank r by construction: unit lower times unit upper trapezoid, rows permuted.

    Both factors have an r × r triangle with unit diagonal, hence rank r, and so has their product. r ≤ 3 keeps the
    smallest singular value away from zero. Shrinks towards a 1 × 1 matrix of rank ``min_rank``.
    """
    m, n = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    r = draw(st.integers(min_rank, min(m, n, 3)))
    entries = st.integers(-3, 3)
    left = np.tril(draw(hnp.arrays(np.int64, (m, r), elements=entries)), -1) + np.eye(m, r, dtype=np.int64)
    right = np.triu(draw(hnp.arrays(np.int64, (r, n), elements=entries)), 1) + np.eye(r, n, dtype=np.int64)
    order = draw(st.permutations(range(m)))
    return (left @ right)[list(order)], r


@st.composite
def symmetric_integer_matrices(draw: st.DrawFn, hollow: bool = False) -> np.ndarray:
    """Symmetric integer [n, n], n ≤ 5, |entries| ≤ 4, often singular; ``hollow`` has a zero diagonal (2 × 2 pivots)."""
    n = draw(st.integers(1, 5))
    upper = np.triu(draw(hnp.arrays(np.int64, (n, n), elements=st.integers(-4, 4))), 1)
    diagonal = np.zeros(n, dtype=np.int64) if hollow else draw(hnp.arrays(np.int64, n, elements=st.integers(-4, 4)))
    return upper + upper.T + np.diag(diagonal)


fractions = st.fractions(-3, 3, max_denominator=6)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 4))
rational_rows = shapes.flatmap(
    lambda mn: st.lists(st.lists(fractions, min_size=mn[1], max_size=mn[1]), min_size=mn[0], max_size=mn[0])
)
spectra = st.lists(st.integers(1, 1000), min_size=1, max_size=8)


def orthogonal(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def symmetric_with(spectrum: Any, seed: int = 0) -> np.ndarray:
    Q = orthogonal(len(spectrum), seed)
    H = Q @ np.diag(np.asarray(spectrum, dtype=np.float64)) @ Q.T
    return (H + H.T) / 2


# ------------------------------------------------------------------------------------------- exact_rank, modular_rank


@given(matrices_of_known_rank())
def test_exact_rank_of_a_product_of_factors(case: tuple[np.ndarray, int]) -> None:
    matrix, r = case
    assert exact_rank(matrix) == r == reference.rank_over_q(matrix.tolist())


@given(rational_rows)
def test_exact_rank_agrees_with_two_oracles_in_every_representation(rows: list[list[Fraction]]) -> None:
    expected = reference.rank_over_q(rows)
    assert reference.rank_by_sympy(rows) == expected
    as_flint = [[flint.fmpq(f.numerator, f.denominator) for f in row] for row in rows]
    as_sympy = sympy.Matrix([[sympy.Rational(f.numerator, f.denominator) for f in row] for row in rows])
    for matrix in (rows, np.array(rows, dtype=object), as_flint, flint.fmpq_mat(as_flint), as_sympy):
        assert exact_rank(matrix) == expected


@given(rational_rows, st.sampled_from([7, 11, PRIME]))
def test_modular_rank_is_the_rank_over_f_p_and_a_lower_bound(rows: list[list[Fraction]], p: int) -> None:
    """Denominators are at most 6, so none is divisible by these primes."""
    assert modular_rank(rows, p) == reference.rank_modulo(rows, p) <= exact_rank(rows)
    as_flint = flint.fmpq_mat([[flint.fmpq(f.numerator, f.denominator) for f in row] for row in rows])
    assert modular_rank(as_flint, p) == modular_rank(rows, p)


def test_modular_rank_is_strictly_smaller_exactly_at_primes_dividing_the_minors() -> None:
    matrix = np.diag([1, 6, 35])
    assert exact_rank(matrix) == 3
    assert [modular_rank(matrix, p) for p in (2, 3, 5, 7, 11, 2**64 - 59)] == [2, 2, 2, 2, 3, 3]
    assert modular_rank(flint.nmod_mat(2, 2, [1, 2, 3, 6], 7), 7) == 1


@pytest.mark.parametrize(
    "matrix",
    [
        np.array([[1, 2], [2, 4]], dtype=np.int8),
        np.array([[2**63, 2**63], [1, 1]], dtype=np.uint64),
        np.array([[True, True], [True, True]]),
        torch.tensor([[1, 2], [2, 4]]),
        [torch.tensor([1, 2]), torch.tensor([2, 4])],
        flint.fmpz_mat([[1, 2], [2, 4]]),
        [[flint.fmpz(1), 10**40], [2, 2 * 10**40]],
        [[np.int32(1), Fraction(1, 2)], [sympy.Integer(2), flint.fmpq(1)]],
    ],
    ids=lambda matrix: type(matrix).__name__,
)
def test_exact_ranks_accept_every_exact_type(matrix: Any) -> None:
    assert exact_rank(matrix) == 1
    assert modular_rank(matrix, PRIME) == 1


def test_exact_rank_sees_what_float64_cannot() -> None:
    nearly_singular = [[10**30, 1], [10**60, 10**30 + 1]]
    assert exact_rank(nearly_singular) == 2
    assert np.linalg.matrix_rank(np.array(nearly_singular, dtype=np.float64)) == 1


@pytest.mark.parametrize(
    "empty", [[], [[]], np.zeros((0, 4), dtype=int), np.zeros((4, 0), dtype=int), flint.fmpz_mat(0, 3)]
)
def test_an_empty_matrix_has_rank_zero(empty: Any) -> None:
    assert exact_rank(empty) == 0 == modular_rank(empty, 5)


@pytest.mark.parametrize(
    "rank", [exact_rank, lambda matrix: modular_rank(matrix, 7)], ids=["exact_rank", "modular_rank"]
)
@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(2),
        np.eye(2, dtype=np.complex128),
        torch.eye(2),
        torch.eye(2, dtype=torch.float16),
        [[1, 2.0], [3, 4]],
        np.array([[1, 2.0], [3, 4]], dtype=object),
        [np.eye(2)[0], np.eye(2)[1]],
        sympy.Matrix([[1, sympy.Float(2)], [3, 4]]),
        sympy.Matrix([[sympy.sqrt(2), 1], [1, 1]]),
        flint.arb_mat([[1, 2], [3, 4]]),
        [["1", "2"]],
    ],
    ids=lambda matrix: type(matrix).__name__,
)
def test_inexact_entries_are_refused(rank: Any, matrix: Any) -> None:
    with pytest.raises(TypeError, match="use lop_theory.exact_hessian or Fraction"):
        rank(matrix)


def test_the_refusal_names_the_entry() -> None:
    with pytest.raises(TypeError, match=r"entry \[1, 0\] = 0\.5 of type float"):
        exact_rank([[1, 2], [0.5, 3]])


@pytest.mark.parametrize("matrix", [[1, 2, 3], np.arange(3), torch.arange(3), [[1, 2], [3]], 5])
def test_exact_rank_refuses_what_is_no_matrix(matrix: Any) -> None:
    with pytest.raises(ValueError, match="matrix"):
        exact_rank(matrix)


@pytest.mark.parametrize("p", [-7, 0, 1, 4, 561, 2**64 + 13])
def test_modular_rank_refuses_what_is_no_word_sized_prime(p: int) -> None:
    with pytest.raises(ValueError, match=f"p = {p}: the modulus must be a prime below"):
        modular_rank([[1]], p)


def test_modular_rank_refuses_other_moduli_and_denominators() -> None:
    with pytest.raises(TypeError, match="the modulus is an int"):
        modular_rank([[1]], 7.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has modulus 5, not p = 7"):
        modular_rank(flint.nmod_mat(1, 1, [1], 5), 7)
    for matrix in ([[Fraction(1, 14), 2]], flint.fmpq_mat([[flint.fmpq(1, 14), 2]])):
        with pytest.raises(ValueError, match="p = 7 divides a denominator"):
            modular_rank(matrix, 7)
    assert modular_rank([[Fraction(7, 14), 2]], 7) == 1  # 1/2 in lowest terms


# ---------------------------------------------------------------------------------------- numerical_rank, eigenvalues


@given(matrices_of_known_rank(), st.sampled_from([1.0, 1e200, 1e-200]))
def test_numerical_rank_of_small_integer_matrices_is_exact_and_decided(
    case: tuple[np.ndarray, int], scale: float
) -> None:
    """|entries| ≤ 27, so σ_1 ≤ 135, and Π σ_i² = Σ (r × r minors)² ≥ 1 gives σ_r / σ_1 ≥ 135⁻³ = 4e-7: above the level
    1e-9 and far above rounding. The largest gap is provably the one at r."""
    matrix, r = case
    result = numerical_rank(scale * matrix)
    assert result.rank == r
    assert rank_is_decided(result)


def test_numerical_rank_gap_is_the_ratio_of_singular_values() -> None:
    result = numerical_rank(symmetric_with([4.0, -3.0, 2.0, 5e-11, -1e-11]))
    assert result.rank == 3
    assert result.gap == pytest.approx(2.0 / 5e-11, rel=1e-4)


def test_a_gap_above_the_level_is_no_rank_gap() -> None:
    outlier = np.diag([1e8, 1.0, 0.9, 0.8])  # its widest gap, 1e8, is the first: below it 0.8 / (4 · 2⁻⁵² · 1e8) = 9e6
    assert numerical_rank(outlier).rank == 4
    assert numerical_rank(np.diag([1e12, 1.0, 0.9, 0.8])).rank == 1  # now the rest could be the error of the first


def test_numerical_rank_is_undecided_without_a_gap() -> None:
    assert not rank_is_decided(numerical_rank(10.0 ** -np.diag(np.arange(0.0, 16, 2)) * np.eye(8)))
    float32 = numerical_rank(symmetric_with(np.logspace(0, -6, 30)).astype(np.float32))
    assert not rank_is_decided(float32)  # float32 rounding reaches the small eigenvalues
    assert rank_is_decided(numerical_rank(symmetric_with(np.logspace(0, -6, 30))))
    assert RANK_GAP == 1e3


def test_numerical_rank_of_zero_is_decided() -> None:
    assert numerical_rank(torch.zeros(3, 2)) == (0, math.inf)


@pytest.mark.parametrize("start_of_torch", [1, 10**9])
def test_eigenvalues_by_either_library(monkeypatch: pytest.MonkeyPatch, start_of_torch: int) -> None:
    monkeypatch.setattr(rank_module, "TORCH_EIGVALSH_FROM", start_of_torch)
    spectrum = np.array([-5.0, -1e-3, 0.0, 2.0, 2.0])
    result = eigenvalues(torch.from_numpy(symmetric_with(spectrum)))
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, spectrum, atol=1e-14)


# ---------------------------------------------------------------------------------------------- inertia, epsilon_rank


@given(st.one_of(symmetric_integer_matrices(), symmetric_integer_matrices(hollow=True)))
def test_inertia_equals_descartes_rule(H: np.ndarray) -> None:
    """Non-zero eigenvalues multiply to a non-zero integer, so each is at least 20⁻⁴ in size: far above rounding."""
    assert inertia(H) == reference.exact_inertia(H.tolist())


@given(st.one_of(symmetric_integer_matrices(), symmetric_integer_matrices(hollow=True)), st.integers(0, 12))
def test_epsilon_rank_equals_an_exact_count(H: np.ndarray, k: int) -> None:
    """eps = k + 1/2 is no algebraic integer and 2ⁿ |det(H ∓ eps I)| ≥ 1: every eigenvalue is at least 2⁻⁵ / 33⁴ = 3e-8
    away from ±eps, so that float64 has to get the count right."""
    eps = k + 0.5
    expected = reference.exact_epsilon_rank(H.tolist(), Fraction(2 * k + 1, 2))
    assert epsilon_rank(H, eps) == expected == reference.epsilon_rank_by_eigenvalues(H, eps)


@pytest.mark.parametrize("seed", range(5))
def test_epsilon_rank_with_two_by_two_pivots_in_blocked_code(seed: int) -> None:
    n = 150  # larger than LAPACK's block size of 64
    H = np.random.default_rng(seed).standard_normal((n, n))
    H = H + H.T
    np.fill_diagonal(H, 0.0)
    _, pivots, _ = lapack.dsytrf(H, lower=1)
    assert (pivots < 0).sum() >= 2  # the case under test does occur
    for eps in (1e-9, 0.3, 3.0, 15.0, 40.0):
        assert epsilon_rank(H, eps) == reference.epsilon_rank_by_eigenvalues(H, eps)
    positive, negative, zero = inertia(H)
    assert (positive, negative, zero) == ((eigenvalues(H) > 0).sum(), (eigenvalues(H) < 0).sum(), 0)


def test_epsilon_rank_of_a_repeated_and_graded_spectrum() -> None:
    spectrum = [3.0] * 20 + [-3.0] * 10 + [1e-3] * 7 + [-1e-6] * 5 + [1e-9] * 3 + [0.0] * 15
    H = symmetric_with(spectrum)
    assert [epsilon_rank(H, eps) for eps in (3.1, 2.9, 1e-2, 1e-4, 1e-7, 1e-10)] == [0, 30, 30, 37, 42, 45]
    assert inertia(H, 1e-4) == (27, 10, 23)
    assert inertia(H) == (30, 15, 15)


def test_epsilon_rank_is_strict_where_the_shift_is_exact() -> None:
    H = np.diag([1.0, 1.0, -1.0, 0.5, 2.0])
    assert epsilon_rank(H, 1.0) == 1
    assert epsilon_rank(H, math.nextafter(1.0, 0.0)) == 4


@pytest.mark.parametrize("scale", [2.0**-1030, 1e-300, 1e300])
def test_epsilon_rank_scales_with_the_matrix(scale: float) -> None:
    H = np.array([[0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.25]])
    assert [epsilon_rank(scale * H, scale * eps) for eps in (0.125, 0.5, 3.0)] == [3, 2, 0]
    assert epsilon_rank(1e-300 * H, 1e300) == 0


def test_epsilon_rank_promotes_and_does_not_touch_its_argument() -> None:
    spectrum = [2.0, 1e-3, -1e-3, 0.0]
    H = torch.from_numpy(symmetric_with(spectrum))
    for given_matrix in (H.float(), H.requires_grad_(), np.asfortranarray(H.detach().numpy()), H.tolist()):
        assert epsilon_rank(given_matrix, 1e-5) == 3
    before = H.detach().numpy().copy(order="F")
    kept = before.copy()
    epsilon_rank(before, 0.1)
    np.testing.assert_array_equal(before, kept)


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan, math.inf])
def test_epsilon_rank_refuses_levels(eps: float) -> None:
    with pytest.raises(ValueError, match="finite level > 0"):
        epsilon_rank(np.eye(2), eps)
    if eps != 0.0:
        with pytest.raises(ValueError, match="finite and not negative"):
            inertia(np.eye(2), eps)


@pytest.mark.parametrize("function", [eigenvalues, inertia, lambda H: epsilon_rank(H, 0.1)])
@pytest.mark.parametrize(
    ("H", "message"),
    [
        (np.ones((2, 3)), "square"),
        (np.array([[1.0, 2.0], [2.0 + 2.0**-30, 1.0]]), r"\[1, 0\] = 2\.0000000009\d* and \[0, 1\] = 2\.0 differ"),
        (np.array([[1.0, math.nan], [math.nan, 1.0]]), r"entry \[0, 1\] = nan"),
        (torch.tensor([[math.inf]]), r"entry \[0, 0\] = inf"),
        (np.zeros((0, 0)), "m, n ≥ 1"),
        ([1.0, 2.0], "shape"),
    ],
)
def test_symmetric_functions_refuse(function: Any, H: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(H)


def test_asymmetry_of_the_size_of_rounding_is_accepted() -> None:
    H = symmetric_with([3.0, 2.0, 1.0])
    H[0, 1] = np.nextafter(H[0, 1], 9.0)
    assert epsilon_rank(H, 1.5) == 2


# ------------------------------------------------------------------------------------------ entropic ranks, the chain


@given(spectra, st.integers(0, 3), st.integers(0, 100))
def test_entropic_ranks_equal_plain_sums(sigma: list[int], extra: int, seed: int) -> None:
    n = len(sigma)
    middle = np.zeros((n, n + extra))
    middle[:, :n] = np.diag(np.array(sigma, dtype=np.float64))
    matrix = orthogonal(n, seed) @ middle @ orthogonal(n + extra, seed + 1)
    expected = reference.entropic_ranks([float(s) for s in sigma])
    for name, function in CHAIN.items():
        for argument in (matrix, matrix.T, 1e250 * matrix, torch.from_numpy(1e-250 * matrix)):
            assert function(argument) == pytest.approx(expected[name], rel=1e-10)


@given(matrices_of_known_rank(min_rank=1))
def test_the_chain(case: tuple[np.ndarray, int]) -> None:
    matrix, r = case
    values = [1.0, stable_rank(matrix), participation_ratio(matrix), effective_rank(matrix), exact_rank(matrix)]
    assert values[-1] == r
    for smaller, larger in pairwise(values):
        assert smaller <= larger * (1 + 1e-12)
    assert (1 - 0.01) * stable_rank(matrix) <= srank(matrix) * (1 + 1e-12)
    assert srank(matrix) <= r


@pytest.mark.parametrize("r", [1, 2, 5, 16])
def test_a_flat_spectrum_attains_the_whole_chain(r: int) -> None:
    matrix = np.zeros((16, 20))
    matrix[:, :16] = orthogonal(16, seed=r)
    matrix = matrix * (np.arange(16) < r)[:, None] * 7.0
    for function in CHAIN.values():
        assert function(matrix) == pytest.approx(r, rel=1e-13)


def test_the_chain_is_strict_off_the_flat_spectrum() -> None:
    """σ = (2, 1): 5/4 < 25/17 < 3 / 2^{2/3} < 2, each computed by hand."""
    matrix = symmetric_with([2.0, -1.0])
    assert stable_rank(matrix) == pytest.approx(5 / 4, rel=1e-14)
    assert participation_ratio(matrix) == pytest.approx(25 / 17, rel=1e-14)
    assert effective_rank(matrix) == pytest.approx(3 / 2 ** (2 / 3), rel=1e-14)


@given(spectra, st.sampled_from([Fraction(1, 100), Fraction(1, 10), Fraction(1, 2)]), st.integers(0, 100))
def test_srank_equals_counting(sigma: list[int], delta: Fraction, seed: int) -> None:
    """Integers: a share that is not reached is missed by more than 1/(100 · 8000), far above rounding; ties count."""
    expected = reference.srank_by_counting([Fraction(s) for s in sigma], delta)
    assert srank(np.diag(np.array(sigma, dtype=np.float64)), float(delta)) == expected
    scaled = symmetric_with(sigma, seed)
    assert srank(scaled, float(delta) * (1 + 1e-9)) == expected


def test_srank_is_not_ordered_against_the_others() -> None:
    spike = np.diag([1000.0] + [10.0] * 99)
    assert srank(spike) > 80 > 40 > effective_rank(spike)
    flat = np.eye(100)
    assert srank(flat) == 99 < stable_rank(flat)


@pytest.mark.parametrize("seed", range(5))
def test_srank_counts_a_tie_as_reached_in_spite_of_rounding(seed: int) -> None:
    assert srank(orthogonal(100, seed)) == 99
    assert srank(symmetric_with([7.0, 1.0, 1.0, 1.0], seed), delta=0.3) == 1


@pytest.mark.parametrize("function", [*CHAIN.values(), srank])
def test_entropic_ranks_refuse(function: Any) -> None:
    with pytest.raises(ValueError, match="undefined, because the matrix is zero"):
        function(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"entry \[1, 0\] = nan"):
        function([[1.0, 2.0], [math.nan, 3.0]])
    with pytest.raises(ValueError, match="shape"):
        function([1.0, 2.0])
    with pytest.raises(ValueError, match="shape"):
        function(np.zeros((3, 0)))
    with pytest.raises(TypeError, match="only real matrices"):
        function(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(TypeError, match="not a real matrix"):
        function([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, math.nan])
def test_srank_refuses_delta(delta: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        srank(np.eye(2), delta)
