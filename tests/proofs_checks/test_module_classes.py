"""Formulas of modules against torch, and what classes of tensors say against tiled tensors."""

from __future__ import annotations

import pytest
import sympy
import torch
from torch import Tensor, nn

from proofs_checks.claims import module_classes as m
from proofs_checks.claims.module_classes import CopiedTensors, Copies, Named, RealTensors

REAL = RealTensors()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def double() -> None:
    torch.manual_seed(0)


def test_norms_are_those_of_torch(double: None) -> None:
    x, gamma, beta = random(5, 6, 3), random(6), random(6) + 1
    for module, axes, over in (
        (nn.BatchNorm1d(6), "bfp", "bp"),
        (nn.GroupNorm(1, 6), "bfp", "fp"),
    ):
        module = module.double()
        module.weight.data, module.bias.data = gamma, beta
        found = m.normalise(REAL, Named(x, axes), over, Named(gamma, "f"), Named(beta, "f"))
        torch.testing.assert_close(found.value, module(x))
    layer = nn.LayerNorm(6).double()
    found = m.normalise(REAL, Named(x[:, :, 0], "bf"), "f", Named(layer.weight, "f"), Named(layer.bias, "f"))
    torch.testing.assert_close(found.value, layer(x[:, :, 0]))
    groups = nn.GroupNorm(2, 6, affine=False).double()
    ones = Named(torch.ones(2, 3, dtype=torch.float64), "gf")
    found = m.normalise(REAL, Named(x.reshape(5, 2, 3, 3), "bgfp"), "fp", ones, Named(0 * ones.value, "gf"))
    torch.testing.assert_close(found.value.reshape(5, 6, 3), groups(x))


def test_running_statistics_are_those_of_torch() -> None:
    module = nn.BatchNorm1d(4).double().eval()
    module.running_mean, module.running_var = random(4), random(4) ** 2 + 0.1
    x = random(3, 4)
    parts = (module.running_mean, module.running_var, module.weight, module.bias)
    torch.testing.assert_close(m.running(REAL, Named(x, "bf"), *(Named(p, "f") for p in parts)).value, module(x))


def attention_of(x: Tensor, w: dict[str, Tensor], scale: float) -> Tensor:
    named = {name: Named(value, "hdo" if name == "o" else "fhd") for name, value in w.items()}
    heads = w["q"].shape[1]
    mask = Named(torch.ones(len(x), heads, x.shape[1], x.shape[1], dtype=x.dtype), "bhts")
    return m.attention(REAL, Named(x, "btf"), named, scale, mask).value


def test_attention_is_that_of_torch() -> None:
    x, heads, size = random(2, 3, 4), 2, 3
    w = {name: random(4, heads, size) * (k + 1) for k, name in enumerate("qkv")} | {"o": random(heads, size, 5)}
    q, k, v = (torch.einsum("btf,fhd->bhtd", x, w[name]) for name in "qkv")
    inner = nn.functional.scaled_dot_product_attention(q, k, v)
    wanted = torch.einsum("bhtd,hdo->bto", inner, w["o"])
    torch.testing.assert_close(attention_of(x, w, size**-0.5), wanted)


@pytest.mark.parametrize("copies", [2, 3])
def test_classes_predict_tiled_tensors(copies: int) -> None:
    """Heads copied and W_o divided: the same values. Undivided: ``copies`` times the values, as the factor says."""
    x = random(2, 3, 4)
    w = {name: random(4, 2, 3) * (k + 1) for k, name in enumerate("qkv")} | {"o": random(2, 3, 5)}
    tiled = {name: a.repeat_interleave(copies, dim=0 if name == "o" else 1) for name, a in w.items()}
    base = attention_of(x, w, 0.5)
    torch.testing.assert_close(attention_of(x, tiled | {"o": tiled["o"] / copies}, 0.5), base)
    torch.testing.assert_close(attention_of(x, tiled, 0.5), copies * base)
    k = sympy.Symbol("k", positive=True)
    wide = CopiedTensors({"h": k})
    found = m.attention(
        wide, Copies("btf"), dict.fromkeys("qkv", Copies("fhd")) | {"o": Copies("hdo")}, 1, Copies("bhts")
    )
    assert found == Copies("bto", k)


def test_remaining_formulas_on_numbers() -> None:
    x, y = random(2, 3, 4), random(2, 3, 4) - 0.5
    h = (x + y).relu()
    torch.testing.assert_close(m.elementwise(REAL, Named(x, "bfp"), Named(y, "bfp")).value, h.mean(2) + h.amax(2))
    index, table, positions = torch.tensor([[0, 2], [1, 1]]), random(3, 4), random(2, 4)
    words = Named(nn.functional.one_hot(index, 3).double(), "btv")
    found = m.embedding(REAL, words, Named(table, "vf"), Named(positions, "tf"))
    torch.testing.assert_close(found.value, nn.functional.embedding(index, table) + positions)
    mask = torch.tensor([0.0, 2.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(m.dropout(REAL, Named(x[:, :, 0], "bf"), Named(mask, "f")).value, x[:, :, 0] * mask)


def test_classes_refuse_what_is_not_a_copy() -> None:
    k = sympy.Symbol("k", positive=True)
    wide = CopiedTensors({"f": k})
    with pytest.raises(AssertionError, match="k times a copy is not a copy"):
        wide.apply(torch.relu, wide.ein("bf,fo->bo", Copies("bf"), Copies("fo")))
    with pytest.raises(TypeError, match="axis f is copied"):
        wide.softmax(Copies("bf"), "f")


@pytest.mark.parametrize("name", [n for n in dir(m) if n.startswith("prove_")])
def test_proofs_replay(name: str) -> None:
    assert getattr(m, name)()
