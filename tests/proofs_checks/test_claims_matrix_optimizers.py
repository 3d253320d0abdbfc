"""The matrix rules of the claims against decompositions, exact against float64 arithmetic, and what the proof refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lop_theory.architectures import mlp
from lop_theory.arithmetic import rational_array
from proofs_checks.claims.matrix_optimizers import (
    EXACT_MATRICES,
    FLOAT_MATRICES,
    RULES,
    Invariant,
    layers,
    muon,
    prove_stays,
    shampoo,
)

RULE = {rule.name: rule for rule in RULES}
G = np.array([[3.0, -1.0, 2.0], [0.5, 2.0, 1.0]])


def floats(a: np.ndarray) -> np.ndarray:
    return np.array([[int(v.p) / int(v.q) for v in row] for row in a])


def test_muon_keeps_singular_vectors_and_brings_singular_values_near_one() -> None:
    step, _ = muon(FLOAT_MATRICES, G, 0 * G)
    u, _, vt = np.linalg.svd(G, full_matrices=False)
    inside = u.T @ step @ vt.T
    np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=1e-12)
    assert np.all((0.6 < np.diag(inside)) & (np.diag(inside) < 1.3))  # the published quintic ends near 1, not at it


def test_shampoo_is_the_product_with_inverse_fourth_roots() -> None:
    def power(a: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(a + np.eye(len(a)) / 16)
        return vectors @ np.diag(values**-0.25) @ vectors.T

    well = np.array([[1.0, 0.25], [-0.25, 1.0]])  # well-conditioned statistics: six iterations are enough
    step, (left, right) = shampoo(FLOAT_MATRICES, well, (0 * well, 0 * well))
    wanted = power(left) @ well @ power(right)
    np.testing.assert_allclose(step / np.linalg.norm(step), wanted / np.linalg.norm(wanted), atol=1e-6)


@pytest.mark.parametrize("name", RULE)
def test_exact_and_float_steps_agree(name: str) -> None:
    rule, exact = RULE[name], rational_array(G)
    wanted, _ = rule.step(FLOAT_MATRICES, G, rule.zero(0 * G))
    found, _ = rule.step(EXACT_MATRICES, exact, rule.zero(0 * exact))
    np.testing.assert_allclose(floats(found), wanted, atol=1e-5)  # every iterate is cut at 2⁻³⁰


@pytest.mark.parametrize("name", RULE)
def test_step_commutes_with_permutations(name: str) -> None:
    rule = RULE[name]
    u, v = np.eye(2)[[1, 0]], np.eye(3)[[2, 0, 1]]
    plain, _ = rule.step(FLOAT_MATRICES, G, rule.zero(0 * G))
    moved, _ = rule.step(FLOAT_MATRICES, u @ G @ v, rule.zero(0 * G))
    np.testing.assert_allclose(moved, u @ plain @ v, atol=1e-12)


def test_proof_refuses_sides_that_do_not_match() -> None:
    with pytest.raises(TypeError, match="sides in the middle"):
        Invariant("out", "in") @ Invariant("out", "in")
    wrong = replace(RULES[0], step=lambda c, g, state: (g.T, state))
    with pytest.raises(AssertionError, match="the proof breaks"):
        prove_stays(wrong)


def test_layers_cover_all_parameters_once() -> None:
    dag = mlp([2, 3, 2, 1], "square")
    found = np.concatenate([part.ravel() for pair in layers(dag) for part in pair])
    assert sorted(found.tolist()) == list(range(dag.num_params))
