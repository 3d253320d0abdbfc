"""Normal Hessians of loss-of-plasticity manifolds: the decoupling identity, and that clones are never definite."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from flint import fmpq
from hypothesis import example, given
from hypothesis import strategies as st

from lop_theory.architectures import init_params, mlp
from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.cloned import clone, cloned_leaf, cloned_manifold
from lop_theory.exact import exact_hessian
from lop_theory.forward import gradient
from lop_theory.frozen import dead_units, frozen_manifold
from lop_theory.hessian import hessian
from lop_theory.manifolds import AffineSubspace
from lop_theory.stability import StabilityKind, classify_stability, exact_inertia, normal_hessian_blocks
from tests.lop_theory.equitable_strategies import ClonedPoint, cloned_points
from tests.reference.equitable import fraction
from tests.reference.ranks import exact_inertia as inertia_by_descartes


@given(cloned_points())
def test_normal_perturbations_of_clones_decouple_and_are_never_definite(point: ClonedPoint) -> None:
    """H_NT = 0 on the manifold and on the leaf, over Q, off block-constant and at no critical point in particular."""
    h = exact_hessian(point.dag, point.theta, point.x, point.y)
    manifold = cloned_manifold(point.dag, point.partition)
    for subspace in (manifold, cloned_leaf(point.dag, point.theta, point.partition)):
        hnn, hnt = normal_hessian_blocks(subspace, h)
        assert hnn.shape == (subspace.codim, subspace.codim) and hnt.shape == (subspace.codim, subspace.dim)
        assert (hnt == 0).all()
        if subspace.codim:
            definite = (StabilityKind.POSITIVE_DEFINITE, StabilityKind.NEGATIVE_DEFINITE)
            assert classify_stability(hnn).kind not in definite


@given(cloned_points(("quadratic",)))
def test_outgoing_differences_are_flat_directions(point: ClonedPoint) -> None:
    """Moving weight from one clone's edge to another's (same target) keeps the function: a zero block in H_NN."""
    h = exact_hessian(point.dag, point.theta, point.x, point.y)
    for v in point.dag.outputs.tolist():
        for block in point.partition.blocks:
            into = [int(e) for e in point.dag.incoming(v) if int(point.dag.source[e]) in block]
            for e, f in pairwise(into):
                i, j = int(point.dag.param[e]), int(point.dag.param[f])
                assert h[i, i] - h[i, j] - h[j, i] + h[j, j] == 0


def test_clones_can_be_a_saddle() -> None:
    """1-1-1 with f(z) = z², w = 1, v = 1, x = 1, y = 0, cloned twice (v/2): f = 1, δ_out = 1.

    Normals n_in = (1, −1), n_out = (1, −1). At w1 = 1 + s, w2 = 1 − s, v1 = ½ + t, v2 = ½ − t:
    f = (½ + t)(1 + s)² + (½ − t)(1 − s)² = 1 + s² + 4 s t, so L = ½ f² has the normal Hessian [[2, 4], [4, 0]]: a saddle.
    """
    wide, theta, blocks = clone(mlp([1, 1, 1], "square", bias=False), [1, 1], 2)
    hnn, _ = normal_hessian_blocks(cloned_manifold(wide, blocks), exact_hessian(wide, theta, [[1]], [[0]]))
    assert sorted(hnn.ravel().tolist()) == [0, 2, 4, 4]
    assert classify_stability(hnn) == (StabilityKind.SADDLE, 1, 1, 0)


def test_off_the_manifold_the_identity_fails() -> None:
    """H_NT = 0 is a property of points on M: it is not a consequence of the shape of M."""
    wide, theta, blocks = clone(mlp([1, 1, 1], "square", bias=False), [1, 1], 2)
    theta = theta + rational_array([1, 0, 0, 0])
    _, hnt = normal_hessian_blocks(cloned_manifold(wide, blocks), exact_hessian(wide, theta, [[1]], [[0]]))
    assert (hnt != 0).any()


def test_frozen_units_are_flat() -> None:
    """All rows of the frozen coordinates are zero: H_NN = 0, H_NT = 0."""
    net = mlp([2, 3, 1])
    theta = [2, 2, 2, 4, 2, -2, -15, 1, 1, 2, 4, -2, 1]
    x, y = [[1, 0], [2, 1], [1, 3]], [[0], [1], [5]]
    assert dead_units(net, theta, x) == (3,)
    hnn, hnt = normal_hessian_blocks(frozen_manifold(net, theta, [3]), exact_hessian(net, theta, x, y))
    assert hnn.shape == (3, 3) and (hnn == 0).all() and (hnt == 0).all()
    assert classify_stability(hnn) == (StabilityKind.FLAT, 0, 0, 3)
    alive, _ = normal_hessian_blocks(frozen_manifold(net, theta, [4]), exact_hessian(net, theta, x, y))
    assert (alive != 0).any()


def test_tensors_give_orthonormal_blocks(generator: torch.Generator) -> None:
    wide, theta, blocks = clone(mlp([2, 2, 1], "tanh"), init_params(mlp([2, 2, 1], "tanh"), generator), 2)
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    h = hessian(wide, theta, x, torch.ones(5, 1, dtype=torch.float64), "mse")
    subspace = cloned_manifold(wide, blocks)
    hnn, hnt = normal_hessian_blocks(subspace, h)
    assert float(hnt.norm()) < 1e-13 * float(h.norm())
    projected = subspace.normal_part(subspace.normal_part(h).T.contiguous())
    spectrum = np.sort(np.abs(np.linalg.eigvalsh(projected.numpy())))[-subspace.codim :]
    np.testing.assert_allclose(spectrum, np.sort(np.abs(np.linalg.eigvalsh(hnn.numpy()))), atol=1e-13)
    assert classify_stability(hnn).kind is StabilityKind.SADDLE


def test_normal_displacements_evolve_by_the_normal_hessian() -> None:
    """ṅ = −H_NN n, as finite differences over Q: Nᵀ∇L(θ + εn) = ε H_NN n + O(ε²)."""
    wide, theta, blocks = clone(mlp([1, 1, 1], "quadratic"), [1, 1, 2, 0], 2)
    subspace = cloned_manifold(wide, blocks)
    hnn, _ = normal_hessian_blocks(subspace, exact_hessian(wide, theta, [[1]], [[3]]))
    basis = subspace.normal_basis(exact=True)
    x, y = rational_array([[1]]), rational_array([[3]])
    for k in range(subspace.codim):
        errors = []
        for scale in (1, 10):
            step = fmpq(1, 1000 * scale)
            pushed = gradient(wide, theta + basis[:, k] * step, x, y, "mse_sum", RATIONALS)
            errors.append(max(abs(v) for v in basis.T @ pushed / step - hnn[:, k]))
        assert errors[1] * 9 <= errors[0]  # linear in ε


# -- signs -------------------------------------------------------------------------------------------------------------


@st.composite
def symmetric_matrices(draw: st.DrawFn) -> list[list[int]]:
    """Small integers, often with a zero diagonal, so that both kinds of pivots occur; shrinks towards zero."""
    n = draw(st.integers(1, 5))
    entries = draw(st.lists(st.integers(-2, 2), min_size=n * n, max_size=n * n))
    hollow = draw(st.booleans())
    return [[0 if hollow and i == j else entries[min(i, j) * n + max(i, j)] for j in range(n)] for i in range(n)]


@given(symmetric_matrices())
@example([[2, 2], [2, 3]])  # a pivot that is not 1
@example([[0, 1, 1], [1, 0, 1], [1, 1, 0]])  # no diagonal pivot: eigenvalues 2, −1, −1
def test_exact_inertia_is_that_of_the_characteristic_polynomial(rows: list[list[int]]) -> None:
    assert tuple(exact_inertia(rows)) == inertia_by_descartes([[fraction(v) for v in row] for row in rows])


@pytest.mark.parametrize(
    ("diagonal", "kind"),
    [
        ([1, 2], StabilityKind.POSITIVE_DEFINITE),
        ([-1, -2], StabilityKind.NEGATIVE_DEFINITE),
        ([1, 0], StabilityKind.POSITIVE_SEMIDEFINITE),
        ([0, -1], StabilityKind.NEGATIVE_SEMIDEFINITE),
        ([1, -1, 0], StabilityKind.SADDLE),
        ([0, 0], StabilityKind.FLAT),
        ([], StabilityKind.FLAT),
    ],
)
def test_the_six_kinds(diagonal: list[int], kind: StabilityKind) -> None:
    for matrix in (rational_array(np.diag(diagonal)), torch.diag(torch.tensor(diagonal, dtype=torch.float64))):
        found = classify_stability(matrix)
        assert found.kind is kind
        assert found[1:] == (sum(d > 0 for d in diagonal), sum(d < 0 for d in diagonal), diagonal.count(0))


def test_the_tolerance_decides_what_is_zero() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1e-6], dtype=torch.float64))
    assert classify_stability(matrix).kind is StabilityKind.POSITIVE_DEFINITE
    assert classify_stability(matrix, tol=1e-5) == (StabilityKind.POSITIVE_SEMIDEFINITE, 1, 0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact_inertia([[0, 1], [2, 0]]), "symmetric"),
        (lambda: classify_stability(torch.zeros(2, 3)), "square"),
        (lambda: classify_stability(torch.zeros(2, 2), tol=-1.0), "tol -1.0"),
        (lambda: normal_hessian_blocks(AffineSubspace.from_equations(3, []), [[1, 0], [0, 1]]), "P = 3"),
    ],
)
def test_bad_matrices_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
