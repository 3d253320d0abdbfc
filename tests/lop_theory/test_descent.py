"""Optimisers against torch.optim, one torch parameter per replica."""

import pytest
import torch

from lop_theory.algorithms.base import forget
from lop_theory.algorithms.descent import adam, adamw, momentum, nesterov, sgd
from lop_theory.algorithms.regularizers import l2

LR = (0.1, 0.02, 0.003)
RATES = torch.tensor(LR, dtype=torch.float64)
CASES = {
    "sgd": (sgd(RATES), torch.optim.SGD, {}),
    "momentum": (momentum(RATES, 0.7), torch.optim.SGD, {"momentum": 0.7}),
    "nesterov": (nesterov(RATES, 0.7), torch.optim.SGD, {"momentum": 0.7, "nesterov": True}),
    "sgd-l2": (l2(momentum(RATES, 0.7), 0.1), torch.optim.SGD, {"momentum": 0.7, "weight_decay": 0.1}),
    "adam": (adam(RATES, (0.8, 0.95), 1e-3), torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-3}),
    "adam-l2": (l2(adam(RATES), 0.1), torch.optim.Adam, {"weight_decay": 0.1}),
    "adam-counts": (adam(RATES, per_weight_count=True), torch.optim.Adam, {}),
    "adamw": (adamw(RATES, weight_decay=0.3), torch.optim.AdamW, {"weight_decay": 0.3}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_trajectory_is_that_of_torch(case, generator):
    rule, optimizer, options = CASES[case]
    params = tuple(torch.randn(3, *s, generator=generator, dtype=torch.float64) for s in ((4, 2), (4,)))
    state = rule.init(params)
    twins = [[torch.nn.Parameter(p[r].clone()) for p in params] for r in range(3)]
    others = [optimizer(twin, lr=LR[r], **options) for r, twin in enumerate(twins)]
    for step in range(60):
        scale = 10.0 ** (step % 5 - 2)
        grads = tuple(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in params)
        params, state = rule.update(params, grads, state, None)
        for r, other in enumerate(others):
            for parameter, g in zip(twins[r], grads, strict=True):
                parameter.grad = g[r].clone()
            other.step()
            for ours, theirs in zip(params, twins[r], strict=True):
                torch.testing.assert_close(ours[r], theirs.detach(), rtol=1e-12, atol=1e-13)


def test_a_forgotten_weight_restarts_its_bias_correction(generator):
    """After ``forget`` a weight moves as the weight of a new Adam does; its neighbours as if nothing had happened."""
    rule = adam(0.1, per_weight_count=True)
    gradients = torch.randn(10, 1, 2, generator=generator, dtype=torch.float64)
    start = (torch.zeros(1, 2, dtype=torch.float64),)

    def run(params, state, grads):
        for g in grads:
            params, state = rule.update(params, (g,), state, None)
        return params, state

    middle, state = run(start, rule.init(start), gradients[:6])
    undisturbed, _ = run(middle, state, gradients[6:])
    reset = run(middle, forget(state, (torch.tensor([[True, False]]),)), gradients[6:])[0]
    new = run(middle, rule.init(middle), gradients[6:])[0]
    assert reset[0][0, 0] == new[0][0, 0] != undisturbed[0][0, 0]
    assert reset[0][0, 1] == undisturbed[0][0, 1] != new[0][0, 1]


def test_without_counts_the_first_step_of_a_forgotten_weight_is_too_long():
    """(1 − β₁) / √(1 − β₂) = 3.16 times the step size at the defaults, once the corrections of the run are 1."""
    rule, params, one = adam(0.1, eps=0.0), (torch.zeros(1, 2).double(),), (torch.ones(1, 2).double(),)
    state = rule.init(params)
    state = state._replace(updates=tuple(t + 100_000 for t in state.updates))
    moved, _ = rule.update(params, one, forget(state, (torch.ones(1, 2, dtype=torch.bool),)), None)
    torch.testing.assert_close(
        moved[0], torch.full((1, 2), -0.1 * 0.1 / 0.001**0.5, dtype=torch.float64), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize(
    "make", [lambda: momentum(0.1, 1.0), lambda: adam(0.1, (0.9, 1.0)), lambda: adamw(0.1, eps=-1.0)]
)
def test_hyper_parameters_outside_their_range_are_refused(make):
    with pytest.raises(ValueError, match="must be finite and in"):
        make()
