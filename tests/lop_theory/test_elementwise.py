"""The compiled updates against torch's operations, which are taken for tensors that cannot be handed over."""

import pytest
import torch

from lop_theory.algorithms import descent, elementwise
from lop_theory.algorithms.base import Algorithm, Params, Pull, Pulls, flatten
from lop_theory.algorithms.continual_backprop import continual_backprop
from lop_theory.algorithms.descent import adam, adamw, momentum, nesterov, sgd
from lop_theory.algorithms.regularizers import l2, l2_init

RATES = torch.tensor([1e-2, 1e-3, 0.3])
RULES = {
    "sgd": lambda: sgd(0.03),
    "sgd, a rate per replica": lambda: sgd(RATES),
    "momentum": lambda: momentum(0.1),
    "nesterov": lambda: nesterov(RATES, 0.5),
    "adam": lambda: adam(3e-3),
    "adam, all per replica": lambda: adam(RATES, (1 - 3 * RATES, 1 - RATES), RATES * 1e-6),
    "adamw": lambda: adamw(RATES),
    "l2(sgd)": lambda: l2(sgd(0.03), RATES),
    "l2_init(momentum)": lambda: l2_init(momentum(RATES), 0.1),
    "l2(adam)": lambda: l2(adam(3e-3), 0.3),
    "l2_init(adam)": lambda: l2_init(adam(RATES), RATES),
}


def trajectory(name: str, dtype: torch.dtype, steps: int = 20) -> list[Params]:
    draw = torch.Generator().manual_seed(3)
    params = tuple(torch.randn(3, *shape, generator=draw, dtype=dtype) for shape in ((11, 7), (11,)))
    rule = RULES[name]()
    state, seen = rule.init(params), []
    for step in range(steps):
        scale = 10.0 ** (step % 5 - 2)
        grads = tuple(scale * torch.randn(p.shape, generator=draw, dtype=dtype) for p in params)
        params, state = rule.update(params, grads, state, None)  # type: ignore[arg-type]
        seen.append(params)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES)
def test_both_routes_agree(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "FEW", 0)
    compiled = trajectory(name, dtype)
    asked: list[bool] = []
    monkeypatch.setattr(elementwise, "applies", lambda *tensors: bool(asked.append(True)))
    torchs = trajectory(name, dtype)
    assert asked  # otherwise both were the same route
    ulps = 0 if "adam" not in name else 64 * torch.finfo(dtype).eps  # the roots of torch are not correctly rounded
    for ours, theirs in zip(compiled, torchs):
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, rtol=ulps, atol=ulps)


def test_what_cannot_be_handed_over_is_left_to_torch() -> None:
    """Strides, gradients, functorch: the rule works, and its arguments are not written to."""
    p = torch.ones(2, 3, 4)
    assert elementwise.applies(p, p.mT) and not elementwise.applies(p, p.double())
    assert not elementwise.applies(p.clone().requires_grad_())
    rule = adam(0.1)
    for like in (p.mT, p.clone().requires_grad_()):
        (new,), _ = rule.update((like,), (torch.ones_like(like),), rule.init((like.detach(),)), None)  # type: ignore[arg-type]
        torch.testing.assert_close(new.detach(), torch.full_like(like, 0.9).detach())
    assert bool((p == 1).all())
    mapped = torch.func.vmap(lambda t: sgd(0.5).update((t,), (t,), (), None)[0][0])(torch.ones(5, 2, 3))  # type: ignore[arg-type]
    assert torch.equal(mapped, torch.full((5, 2, 3), 0.5))


def unfused(rule: Algorithm) -> Algorithm:
    """The rule on g + λ (θ − θ₀) written out with torch."""

    def pulled(params: Params, grads: Params, state: object, ctx: object, pulls: Pulls) -> tuple[Params, object]:
        total = []
        for p, g, (strength, anchor) in zip(params, grads, pulls, strict=True):
            wide = strength.to(p.dtype)[:, *[None] * (p.ndim - 1)] if isinstance(strength, torch.Tensor) else strength
            total.append(g + wide * p if anchor is None else g + wide * (p - anchor))
        return rule.update(params, tuple(total), state, None)  # type: ignore[arg-type]

    return Algorithm(rule.name, rule.initial, rule.step, pulled)  # type: ignore[arg-type]


@pytest.mark.parametrize("few", [0, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in RULES if not name.startswith("l2")])
@pytest.mark.parametrize("strength", [0.3, 0.0, RATES])
@pytest.mark.parametrize("anchored", [False, True])
def test_a_pull_in_the_same_pass_has_the_bits_of_a_pull_before_it(
    name: str,
    strength: float | torch.Tensor,
    anchored: bool,
    dtype: torch.dtype,
    few: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All descents, with their states; in an optimiser that has no ``pulled`` the sum is made by the caller."""
    monkeypatch.setattr(descent, "FEW", few)
    draw = torch.Generator().manual_seed(5)
    start = tuple(torch.randn(3, *shape, generator=draw, dtype=dtype) for shape in ((11, 7), (11,)))
    fused, plain = RULES[name](), unfused(RULES[name]())
    mine, theirs = (start, fused.init(start)), (start, plain.init(start))
    pulls = tuple(
        Pull(strength, p.mT.contiguous().mT if p.ndim > 2 else p) if anchored else Pull(strength) for p in start
    )
    for _ in range(5):
        grads = tuple(torch.randn(p.shape, generator=draw, dtype=dtype) for p in start)
        mine = fused.update_pulled(mine[0], grads, mine[1], None, pulls)  # type: ignore[arg-type]
        theirs = plain.update_pulled(theirs[0], grads, theirs[1], None, pulls)  # type: ignore[arg-type]
        ours, others = (flatten((params, state)) for params, state in (mine, theirs))
        assert all(torch.equal(ours[path], others[path]) for path in ours)


def test_who_takes_a_pull_along() -> None:
    """AdamW moves θ before its step, so that a pull taken there would be another one; resets do more than a descent."""
    assert all(RULES[name]().pulled for name in ("sgd", "momentum", "nesterov", "adam"))
    assert adamw(0.1, weight_decay=0.0).pulled
    assert not any(rule.pulled for rule in (adamw(0.1), l2(sgd(0.1), 0.1), continual_backprop(sgd(0.1))))
