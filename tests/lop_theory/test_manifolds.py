"""Affine subspaces: projections against Lagrange conditions, identities of projectors, dimensions, random points."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from flint import fmpq
from hypothesis import given
from hypothesis import strategies as st

from lop_theory.arithmetic import rational_array
from lop_theory.manifolds import AffineSubspace, as_vector
from tests.reference import equitable as reference
from tests.reference.equitable import fraction
from tests.reference.ranks import rank_over_q

P = 5


@st.composite
def subspaces(draw: st.DrawFn) -> tuple[AffineSubspace, list[tuple[dict[int, int], int]]]:
    """Up to four sparse integer equations in five unknowns through a common integer point, redundant ones included.

    Shrinks towards no equations.
    """
    point = draw(st.lists(st.integers(-2, 2), min_size=P, max_size=P))
    rows = draw(
        st.lists(st.dictionaries(st.integers(0, P - 1), st.integers(-2, 2), min_size=1, max_size=3), max_size=4)
    )
    equations = [(row, sum(value * point[k] for k, value in row.items())) for row in rows]
    return AffineSubspace.from_equations(P, equations), equations


vectors = st.lists(st.fractions(-3, 3, max_denominator=4), min_size=P, max_size=P)


def dense(equations: list[tuple[dict[int, int], int]]) -> list[list[int]]:
    return [[row.get(k, 0) for k in range(P)] for row, _ in equations]


@given(subspaces(), vectors)
def test_projection_is_the_nearest_point(case: tuple[AffineSubspace, Any], theta: list[Fraction]) -> None:
    subspace, equations = case
    found = subspace.project(theta)
    expected = reference.nearest_point(equations, theta) if equations else theta
    assert [fraction(v) for v in found] == expected
    assert subspace.contains(found) and subspace.dim == P - rank_over_q(dense(equations) or [[0] * P])
    assert subspace.contains(theta) == (rational_array(expected) == rational_array(theta)).all()


@given(subspaces(), vectors, vectors)
def test_parts_are_complementary_self_adjoint_projections(case: Any, v: list[Fraction], w: list[Fraction]) -> None:
    subspace, equations = case
    normal, tangent, exact = subspace.normal_part(v), subspace.tangent_part(v), rational_array(v)
    assert (normal + tangent == exact).all() and normal @ tangent == 0
    assert (subspace.normal_part(normal) == normal).all()
    assert normal @ rational_array(w) == exact @ subspace.normal_part(w)
    assert all(sum((fmpq(c) * tangent[k] for k, c in row.items()), fmpq(0)) == 0 for row, _ in equations)


@given(subspaces(), vectors)
def test_floats_follow_the_rationals(case: Any, theta: list[Fraction]) -> None:
    subspace, _ = case
    floats = torch.tensor([float(t) for t in theta], dtype=torch.float64)
    exact = rational_array([float(t) for t in theta])
    for method in (subspace.project, subspace.normal_part, subspace.tangent_part):
        expected = method(exact).astype(np.float64)
        np.testing.assert_allclose(method(floats).numpy(), expected, atol=1e-13)
        np.testing.assert_allclose(method(floats.numpy()), expected, atol=1e-13)
        pair = torch.stack([floats, 2 * floats], 1)
        np.testing.assert_allclose(method(pair)[:, 0].numpy(), expected, atol=1e-13)
    assert subspace.contains(subspace.project(floats), tolerance=1e-12)


@given(subspaces())
def test_bases_span_the_two_spaces(case: Any) -> None:
    subspace, equations = case
    normal, tangent = subspace.normal_basis(exact=True), subspace.tangent_basis(exact=True)
    assert normal.shape == (P, subspace.codim) and tangent.shape == (P, subspace.dim)
    both = np.concatenate([normal, tangent], axis=1)
    assert rank_over_q([[fraction(v) for v in row] for row in both]) == P
    if normal.size and tangent.size:
        assert (normal.T @ tangent == 0).all()
    q = np.concatenate([subspace.normal_basis(), subspace.tangent_basis()], axis=1)
    np.testing.assert_allclose(q.T @ q, np.eye(P), atol=1e-14)
    np.testing.assert_allclose(np.array(dense(equations)).reshape(-1, P) @ subspace.tangent_basis(), 0, atol=1e-13)


@given(subspaces(), st.integers(0, 1000))
def test_random_points_lie_on_the_subspace(case: Any, seed: int) -> None:
    subspace, _ = case
    for generator in (np.random.default_rng(seed), torch.Generator().manual_seed(seed)):
        assert subspace.contains(subspace.random_point(generator, exact=True))
        point = subspace.random_point(generator)
        assert isinstance(point, torch.Tensor) and subspace.contains(point, tolerance=1e-12)


def test_random_points_fill_every_tangent_direction(generator: torch.Generator) -> None:
    plane = AffineSubspace.from_equations(4, [({0: 1, 1: 2, 2: -1}, 3)])
    points = [plane.random_point(generator, exact=True) for _ in range(10)]
    assert rank_over_q([[fraction(v) for v in p - points[0]] for p in points]) == plane.dim == 3


def test_contains_is_exact_without_a_tolerance_and_a_distance_with_one() -> None:
    line = AffineSubspace.from_equations(2, [({0: 3, 1: 4}, 0)])
    assert not line.contains(torch.tensor([0.1, -0.075], dtype=torch.float64))  # neither decimal is a dyadic rational
    assert line.contains([Fraction(1, 10), Fraction(-3, 40)])
    assert line.contains([3, 4], tolerance=5) and not line.contains([3, 4], tolerance=4.999)  # (3, 4) is normal
    with pytest.raises(ValueError, match="tolerance -1"):
        line.contains([0, 0], tolerance=-1)
    with pytest.raises(ValueError, match="one point"):
        line.contains([[0, 1], [0, 1]])


def test_contradictions_and_bad_indices_are_refused() -> None:
    with pytest.raises(ValueError, match="contradict"):
        AffineSubspace.from_equations(3, [({0: 1, 1: 1}, 1), ({1: 1, 2: 1}, 1), ({0: 1, 2: -1}, 1)])
    with pytest.raises(ValueError, match="0 = 2 has no solution"):
        AffineSubspace.from_equations(3, [({0: 0}, 2)])
    with pytest.raises(ValueError, match="indices 0 … 2"):
        AffineSubspace.from_equations(3, [({3: 1}, 2)])
    with pytest.raises(ValueError, match="2 indices but 1 values"):
        AffineSubspace.from_fixed_coordinates(3, [0, 1], [1])
    with pytest.raises(ValueError, match="must have P = 3"):
        AffineSubspace.from_fixed_coordinates(3, [0], [1]).project([1, 2])
    with pytest.raises(ValueError, match=r"shape \(\)"):
        as_vector(3, 1)
    with pytest.raises(ValueError, match="infinity"):
        as_vector(np.array([np.inf]), 1)


def test_the_whole_space_and_a_point() -> None:
    everything = AffineSubspace.from_equations(2, [])
    assert everything.dim == 2 and everything.normal_part([1, 2]).tolist() == [0, 0]
    point = AffineSubspace.from_fixed_coordinates(2, [1, 0], [7, 5])
    assert point.dim == 0 and point.project([0, 0]).tolist() == [5, 7]
    assert point.tangent_basis().shape == (2, 0) and point.random_point(np.random.default_rng(0)).tolist() == [5, 7]
