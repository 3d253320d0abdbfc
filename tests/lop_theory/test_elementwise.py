"""The compiled updates against torch's operations, which are taken for tensors that cannot be handed over."""

import pytest
import torch

from lop_theory.algorithms import descent, elementwise
from lop_theory.algorithms.base import Params
from lop_theory.algorithms.descent import adam, adamw, momentum, nesterov, sgd

RATES = torch.tensor([1e-2, 1e-3, 0.3])
RULES = {
    "sgd": lambda: sgd(0.03),
    "sgd, a rate per replica": lambda: sgd(RATES),
    "momentum": lambda: momentum(0.1),
    "nesterov": lambda: nesterov(RATES, 0.5),
    "adam": lambda: adam(3e-3),
    "adam, all per replica": lambda: adam(RATES, (1 - 3 * RATES, 1 - RATES), RATES * 1e-6),
    "adamw": lambda: adamw(RATES),
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
