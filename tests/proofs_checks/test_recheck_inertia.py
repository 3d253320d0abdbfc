"""The ε-rank of the independent checker: against exact roots, on the witness level, and where balls leave it open."""

from fractions import Fraction

import numpy as np
import pytest

from lop_theory.linearized import exact_epsilon_rank
from proofs_checks.recheck import WitnessError, recheck
from proofs_checks.recheck_core.inertia import epsilon_rank, pivot_signs
from proofs_checks.recheck_core.numbers import Balls, Rationals, Undecided


def entries(M: np.ndarray) -> dict[tuple[int, int], int]:
    return {(i, j): int(M[i, j]) for i in range(len(M)) for j in range(i, len(M)) if M[i, j]}


@pytest.mark.parametrize("seed", range(25))
def test_counts_agree_with_descartes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    M = rng.integers(-2, 3, (4, 4))
    M = (M + M.T) * rng.integers(0, 2, (4, 1)) if seed % 2 else M + M.T
    M = M + M.T
    for level in (Fraction(0), Fraction(1), Fraction(5, 2), Fraction(9)):
        assert epsilon_rank(entries(M), 4, level, Rationals()) == exact_epsilon_rank(M, level)


def test_balls_count_too_or_leave_it_open() -> None:
    matrix = {(0, 0): Balls().number(Fraction(1, 3)), (1, 1): Balls().number(2)}
    assert epsilon_rank(matrix, 2, Fraction(1, 2), Balls()) == 1
    with pytest.raises(Undecided, match="the sign of a pivot"):
        epsilon_rank(matrix, 2, Fraction(1, 3), Balls())
    assert pivot_signs([[0, 2], [2, 0]], Rationals()) == (1, 1)


def document(level: str, count: str) -> dict[str, object]:
    """Regression on the rows (2, 0) and (0, 1): the Hessian is diag(4, 1)."""
    net = {
        "num_inputs": 2,
        "has_constant": False,
        "activation": ["identity"],
        "outputs": [2],
        "edges": [[0, 2, 0], [1, 2, 1]],
        "theta": ["0", "0"],
        "x": [["2", "0"], ["0", "1"]],
        "y": [["0"], ["0"]],
        "loss": "mse_sum",
    }
    claimed = {"left": {"quantity": "epsilon_rank", "level": level}, "op": "==", "right": count}
    return {
        "format": "lop-witness/1",
        "claim": "test",
        "role": "attained",
        "networks": {"net": net},
        "assertions": [claimed],
    }


@pytest.mark.parametrize(("level", "count"), [("0", "2"), ("1/2", "2"), ("1", "1"), ("3", "1"), ("4", "0")])
def test_ties_are_not_counted(level: str, count: str) -> None:
    assert recheck(document(level, count)).confirmed
    assert not recheck(document(level, str(int(count) + 1))).confirmed


def test_a_negative_level_is_refused() -> None:
    with pytest.raises(WitnessError, match="a level must not be negative"):
        recheck(document("-1", "2"))
