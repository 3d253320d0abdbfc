"""The update rules of the claims against torch.optim, and exact against float64 arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flint import fmpq
from hypothesis import given
from hypothesis import strategies as st

from lop_theory.arithmetic import rational_array
from proofs_checks.claims import optimizer_rules as rules
from proofs_checks.claims.optimizer_proofs import ANY, BLOCK, CONSTANT, EQUITABLE, prove_stays

RATE, MOMENTUM, DECAY, EPS = 0.25, float(rules.MOMENTUM), float(rules.WEIGHT_DECAY), float(rules.EPSILON)
ALPHA, BETAS = float(rules.BETA2), (float(rules.BETA1), float(rules.BETA2))
RULES = {rule.name: rule for rule in rules.RULES}

TORCH: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, RATE),
    "momentum": lambda p: torch.optim.SGD(p, RATE, momentum=MOMENTUM),
    "nesterov": lambda p: torch.optim.SGD(p, RATE, momentum=MOMENTUM, nesterov=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, RATE, eps=EPS),
    "rmsprop": lambda p: torch.optim.RMSprop(p, RATE, alpha=ALPHA, eps=EPS),
    "adam": lambda p: torch.optim.Adam(p, RATE, BETAS, EPS),
    "amsgrad": lambda p: torch.optim.Adam(p, RATE, BETAS, EPS, amsgrad=True),
    "sgd-l2": lambda p: torch.optim.SGD(p, RATE, weight_decay=DECAY),
    "momentum-l2": lambda p: torch.optim.SGD(p, RATE, momentum=MOMENTUM, weight_decay=DECAY),
    "adamw": lambda p: torch.optim.AdamW(p, RATE, BETAS, EPS, weight_decay=DECAY),
    "adam-l2": lambda p: torch.optim.Adam(p, RATE, BETAS, EPS, weight_decay=DECAY),
    "rmsprop-l2": lambda p: torch.optim.RMSprop(p, RATE, ALPHA, EPS, weight_decay=DECAY),
}
GRADIENTS = np.array([[1.0, -2.0, 0.5], [3.0, 0.25, -0.5], [-1.0, 0.125, 2.0], [0.5, -0.5, 0.0]])
START = np.array([0.5, -1.0, 2.0])


def run(name: str, calculus: rules.Calculus, lift: Callable[[Any], np.ndarray], rate: Any) -> np.ndarray:
    theta = lift(START)
    state = tuple(theta * 0 for _ in range(RULES[name].states))
    for g in GRADIENTS:
        theta, state = RULES[name].step(calculus, rate, theta, lift(g), state)
    return theta


@pytest.mark.parametrize("name", TORCH)
def test_rule_is_that_of_torch(name: str) -> None:
    theta = torch.tensor(START, requires_grad=True)
    optimizer = TORCH[name]([theta])
    for g in GRADIENTS:
        theta.grad = torch.tensor(g)
        optimizer.step()
    np.testing.assert_allclose(run(name, rules.FLOAT64, np.array, RATE), theta.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_exact_and_float_runs_agree(name: str) -> None:
    exact = run(name, rules.EXACT, rational_array, fmpq(1, 4))
    floats = run(name, rules.FLOAT64, np.array, RATE)
    np.testing.assert_allclose([int(v.p) / int(v.q) for v in exact], floats, rtol=1e-7)  # roots are cut at 2⁻³⁰


def test_clipping_by_norm_is_that_of_torch() -> None:
    theta = torch.tensor(START, requires_grad=True)
    theta.grad = torch.tensor(GRADIENTS[0])
    torch.nn.utils.clip_grad_norm_([theta], float(rules.BOUND))
    moved, _ = rules.clip_norm(rules.FLOAT64, RATE, START, GRADIENTS[0], ())
    np.testing.assert_allclose(moved, START - RATE * theta.grad.numpy(), rtol=1e-5)  # torch adds 1e-6 to the norm


@given(st.fractions(min_value=0, max_denominator=1000))
def test_floor_root_is_the_largest_below(value: Any) -> None:
    q = fmpq(value.numerator, value.denominator)
    root, unit = rules._floor_root(q), fmpq(1, 1 << 30)
    assert root * root <= q < (root + unit) ** 2
    assert rules._floor_root(q * q) == q


# -- proofs on classes of arrays -------------------------------------------------------------------------------------------

MEMBERS = {
    CONSTANT: np.full((2, 3), 2.0),
    BLOCK: np.full((2, 3), 2.0),  # one block pair: the same as constant there
    EQUITABLE: np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]),
    ANY: np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 2.0]]),
}


def class_of(a: np.ndarray) -> Any:
    """The class of one 2 × 3 block pair."""
    if len(np.unique(a)) == 1:
        return CONSTANT
    return EQUITABLE if len(np.unique(a.sum(0))) == len(np.unique(a.sum(1))) == 1 else ANY


@pytest.mark.parametrize("left", [CONSTANT, BLOCK, EQUITABLE, ANY])
@pytest.mark.parametrize("right", [CONSTANT, BLOCK, EQUITABLE, ANY])
def test_arithmetic_of_classes_holds_for_members(left: Any, right: Any) -> None:
    a, b = MEMBERS[left], MEMBERS[right]
    assert class_of(a + b) <= left + right
    assert class_of(a * b) <= left * right
    assert class_of(a / b) <= left / right
    assert class_of(np.sqrt(a)) <= left.mapped()


@pytest.mark.parametrize("rule", [r for r in rules.RULES if r.stays == "block"], ids=lambda r: r.name)
def test_rules_that_stay_from_block_constant_starts_only_are_not_proved_for_more(rule: rules.Rule) -> None:
    assert "θ block constant" in prove_stays(rule)
    with pytest.raises(AssertionError, match="θ equitable → any"):
        prove_stays(replace(rule, stays="equitable"))
