"""The effective rank of features as the independent checker computes it, against numpy, and its refusals."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs_checks.recheck import WitnessError, recheck
from proofs_checks.recheck_core.effective_rank import entropy_rank, gram
from tests.reference.witness_networks import layered

ENTRIES = st.lists(st.lists(st.fractions(-3, 3, max_denominator=4), min_size=3, max_size=3), min_size=1, max_size=4)


def by_numpy(rows, power):
    sigma = np.linalg.svd(np.array(rows, dtype=float), compute_uv=False)
    weights = sigma[sigma > 1e-9 * sigma[0]] ** power
    p = weights / weights.sum()
    return math.exp(-(p * np.log(p)).sum())


@given(ENTRIES, st.sampled_from([1, 2]))
def test_it_agrees_with_singular_values(rows, power):
    if any(any(row) for row in rows):
        assert math.isclose(float(entropy_rank(gram(rows), power)), by_numpy(rows, power), rel_tol=1e-9)


def test_flat_spectra_are_exact_and_others_are_enclosed():
    assert entropy_rank(gram([[Fraction(1, 3), Fraction(0)], [Fraction(0), Fraction(-1, 3)]]), 1) == 2
    ball = entropy_rank([[4, 0], [0, 1]], 1)  # p = 2/3, 1/3
    assert abs(float(ball) - 3 / 2 ** (2 / 3)) < 1e-15 and float(ball.rad()) < 1e-40


def network(x=(("1",), ("2",))):
    """1 − 2 − 2 − 1, ReLU: features (1, 0), (2, 0), then (0, 1), (0, 2)."""
    weights, biases = [[[1], [-1]], [[-1, 0], [1, 0]], [[1, 1]]], [[0, 0], [0, 0], [0]]
    return layered(weights, biases, [list(row) for row in x], [["0"]] * len(x))


def outcome(op, right, net=None, **arguments):
    left = {"quantity": "effective_rank", "layers": [[2, 3], [4, 5]], "power": 2, **arguments}
    document = {
        "format": "lop-witness/1",
        "claim": "c",
        "role": "counterexample",
        "networks": {"net": net or network()},
    }
    return recheck({**document, "assertions": [{"left": left, "op": op, "right": right}]})


def test_a_sum_of_second_moments_and_a_single_layer():
    assert outcome("==", "2").confirmed  # two orthogonal layers of rank one and equal size
    assert outcome("==", "1", layers=[[2, 3]], power=1).confirmed
    assert not outcome(">", "1", layers=[[2, 3]]).confirmed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"power": 3}, "at least 1, at most 2"),
        ({"power": 1}, "singular values are those of one layer"),
        ({"layers": [[2, 3], [4]]}, "matrices of different sizes have no sum"),
        ({"layers": [[2, 99]], "power": 1}, "must be an integer"),
        ({"net": {**network(), "activation": ["tanh"] * 4 + ["identity"]}}, "needs a rational network"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(WitnessError, match=message):
        outcome("==", "1", **arguments)


def test_a_zero_matrix_is_not_decided():
    result = outcome("==", "1", layers=[[3]], power=1)
    assert not result.confirmed and "zero matrix is undefined" in result.explanation
