"""The scalar networks written for the independent checker compute what the modules compute."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from lop_theory.modules import Profile, clone_module
from lop_theory.vision import Attention, Residual, seeded
from proofs_checks.claims.module_cases import copied
from proofs_checks.claims.module_networks import NotLoweredError, UnitNetwork, lower, lowerable
from proofs_checks.claims.module_strategies import UNIT
from proofs_checks.instances import assertion, quantity, witness
from proofs_checks.recheck import recheck

MODULES = {
    "linear": (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), (2,)),
    "residual": (nn.Sequential(nn.Linear(2, 3), Residual(nn.Linear(3, 3)), Residual(nn.Identity())), (2,)),
    "conv": (nn.Sequential(nn.Conv2d(2, 4, (1, 2), groups=2, padding=(0, 1)), nn.ReLU(), nn.Flatten()), (2, 1, 3)),
    "conv1d": (nn.Sequential(nn.Conv1d(1, 2, 2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 1)), (1, 4)),
    "batchnorm": (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU()), (2,)),
    "layernorm": (nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), (2,)),
    "groupnorm": (nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4)), (1, 1, 2)),
    "attention": (nn.Sequential(Attention(2, 2, head_dim=3), nn.LayerNorm(2)), (2, 2)),
}


@pytest.mark.parametrize("name", MODULES)
def test_lowered_networks_compute_the_module(name: str, generator: torch.Generator) -> None:
    module, shape = MODULES[name]
    module.double()
    for p in module.parameters():
        p.data.copy_(UNIT * torch.randint(-2, 3, p.shape, generator=generator))
    x = torch.randint(-2, 3, (2, *shape), generator=generator).double()
    out = module(x).detach()
    assert lowerable(module)
    network = lower(module, x)
    lines = []
    for place in torch.cartesian_prod(*(torch.arange(n) for n in out.shape)).tolist():
        unit = int(network.units[""][tuple(place[1:])])
        value, width = Fraction(float(out[tuple(place)])), Fraction(1, 10**9)
        found = quantity("value", unit=unit, sample=place[0])
        lines += [assertion(found, ">", str(value - width)), assertion(found, "<", str(value + width))]
    document = witness("the network computes the module", {"net": network.document(x, torch.zeros_like(out))}, lines)
    assert recheck({**document, "claim": "test", "role": "attained", "variant": ""}).confirmed


def test_modules_without_counterpart() -> None:
    for module in (nn.Tanh(), nn.Sequential(nn.BatchNorm1d(2)).eval(), nn.Dropout(0.5)):
        assert not lowerable(module)
    assert lowerable(nn.Dropout(0.5).eval())
    with pytest.raises(NotLoweredError, match="Tanh"):
        lower(nn.Tanh(), torch.zeros(1, 2))
    with pytest.raises(NotLoweredError, match="stride"):
        lower(nn.Conv1d(1, 1, 2, stride=2), torch.zeros(1, 1, 4))


def test_inverse_root_is_exact_enough() -> None:
    """(1/√2)² = 1/2 in balls."""
    network = UnitNetwork(1)
    root = network.inverse_root(2)
    network.units[""] = torch.tensor([network.product(root, root)]).numpy()
    zero: Tensor = torch.zeros(1, 1)
    value = quantity("value", unit=int(network.units[""][0]), sample=0)
    lines = [assertion(value, ">", "499999999999/1000000000000"), assertion(value, "<", "500000000001/1000000000000")]
    document = witness("root", {"net": network.document(zero, zero)}, lines)
    assert recheck({**document, "claim": "test", "role": "attained", "variant": ""}).confirmed


def test_copied_follows_the_features(generator: torch.Generator) -> None:
    profile = Profile((1, 0, 1))
    with seeded(generator):
        base = nn.Conv2d(1, 2, 1).double()
    x = torch.randn(1, 1, 2, 2, generator=generator, dtype=torch.float64)
    clone = clone_module(base, keep_output=False, copies={"": profile})
    assert torch.equal(clone.module(x), copied(base(x), profile))
