"""Builders against the torch modules and closed formulas that they stand for, and what from_module refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lop_theory.architectures import from_module, init_params, mlp, random_dag, residual_mlp
from lop_theory.dag import Dag
from lop_theory.forward import evaluate
from tests.reference import autodiff

MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "mlp": (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), (3,)),
    "no bias": (nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)), (3,)),
    "nested": (
        nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.GELU()), nn.Linear(4, 2), nn.Sigmoid()),
        (3,),
    ),
    "leaky": (nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.2), nn.Linear(4, 2), nn.Softplus()), (3,)),
    "two activations": (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.SiLU(), nn.Linear(4, 2)), (3,)),
    "activation first": (nn.Sequential(nn.Hardtanh(), nn.Linear(3, 2)), (3,)),
    "conv": (nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)), (2, 3, 3)),
    "conv options": (nn.Sequential(nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (2, 1), groups=2), nn.ReLU6()), (4, 7, 5)),
    "depthwise": (
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2, bias=False), nn.Flatten()),
        (2, 3, 4),
    ),
    "pool": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)), (1, 6, 6)),
    "pool stride": (nn.Sequential(nn.AvgPool2d((3, 2), stride=(1, 2)), nn.Flatten(), nn.Linear(8, 2)), (2, 4, 5)),
    "dropout in eval": (nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 2)).eval(), (3,)),
}


@pytest.mark.parametrize("name", MODULES)
def test_from_module_is_the_module(name: str, generator: torch.Generator) -> None:
    module, shape = MODULES[name]
    module = module.double()
    dag, theta = from_module(module, shape)
    assert torch.equal(theta, torch.cat([p.reshape(-1) for p in module.parameters()]))
    x = torch.randn(5, *shape, generator=generator, dtype=torch.float64)
    got, expected = evaluate(dag, theta, x.flatten(1)).output, module(x).flatten(1).detach()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_mlp_is_the_sequential_module() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    built, read = mlp([3, 4, 5, 2], "tanh"), from_module(module)[0]
    for name in ("source", "target", "param", "outputs"):
        assert np.array_equal(getattr(built, name), getattr(read, name))
    assert built.activations == read.activations


def test_residual_mlp_formula(generator: torch.Generator) -> None:
    dag = residual_mlp(2, 3, 2, 1, "tanh")
    theta = torch.randn(dag.num_params, generator=generator, dtype=torch.float64)
    x = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    at = 0

    def linear(h: torch.Tensor, out: int) -> torch.Tensor:
        nonlocal at
        w, b = theta[at : at + out * h.shape[1]].view(out, -1), theta[at + out * h.shape[1] :][:out]
        at += out * (h.shape[1] + 1)
        return h @ w.T + b

    h = linear(x, 3)
    for _ in range(2):
        h = h + linear(torch.tanh(linear(h, 3)), 3)
    torch.testing.assert_close(evaluate(dag, theta, x).output, linear(h, 1), rtol=1e-12, atol=1e-14)
    assert at == dag.num_params


@given(st.integers(1, 3), st.integers(0, 6), st.integers(1, 3), st.floats(0, 1), st.booleans(), st.integers(0, 99))
def test_no_unit_of_a_random_dag_is_idle(i: int, hidden: int, o: int, density: float, bias: bool, seed: int) -> None:
    dag = random_dag(np.random.default_rng(seed), i, hidden, o, density=density, bias=bias)
    assert (dag.num_inputs, len(dag.hidden), dag.num_outputs, dag.has_constant) == (i, hidden, o, bias)
    for v in range(dag.first_computed, dag.num_units):
        sources = dag.source[dag.incoming(v)]
        assert any(u != dag.constant for u in sources) and (dag.constant in sources) == bias
    assert all(len(dag.outgoing(int(v))) for v in dag.hidden)
    assert not np.isin(dag.source, dag.outputs).any()


def test_density_one_connects_every_pair() -> None:
    dag = random_dag(np.random.default_rng(0), 2, 3, 2, density=1.0, bias=False)
    assert dag.num_params == 2 * 3 + 3 + 2 * (2 + 3)


def test_init_params_has_kaiming_variance_and_zero_biases(generator: torch.Generator) -> None:
    dag = mlp([50, 40, 30])
    theta = init_params(dag, generator)
    for start, fan_in, out in ((0, 50, 40), (2040, 40, 30)):
        weights = theta[start : start + fan_in * out]
        spread = fan_in * weights.square().mean() / 2  # chi-squared / n: 1 ± sqrt(2 / n)
        assert abs(spread - 1) < 5 * (2 / len(weights)) ** 0.5
        assert not theta[start + fan_in * out :][:out].any()
    assert init_params(dag, generator, torch.float32).dtype == torch.float32
    assert not torch.equal(theta, init_params(dag, generator))


def test_tied_parameters_are_drawn_once(generator: torch.Generator) -> None:
    dag, theta = from_module(nn.Sequential(nn.Conv2d(1, 2, 2)), (1, 4, 4))
    assert dag.is_tied and len(init_params(dag, generator)) == len(theta) == 2 * 4 + 2


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Skip(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


SHARED = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("module", "shape", "error", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), None, TypeError, "LayerNorm.*cannot be read.*module_hessian"),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), None, TypeError, "Dropout.*cannot be read"),
        (nn.Sequential(nn.Linear(2, 2), nn.GELU("tanh")), None, TypeError, "GELU.*cannot be read"),
        (nn.Sequential(nn.Linear(2, 2), nn.Hardtanh(0, 2)), None, TypeError, "Hardtanh.*cannot be read"),
        (nn.Sequential(nn.Linear(2, 2), nn.Softplus(2)), None, TypeError, "Softplus.*cannot be read"),
        (nn.Sequential(Doubled(2, 2)), (2,), TypeError, "Doubled.*cannot be read"),
        (Skip(nn.Linear(2, 2)), (2,), TypeError, r"(?s)Skip.*cannot be read"),
        (nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))), (2,), TypeError, "cannot be read"),
        (nn.Sequential(nn.Conv2d(1, 1, 2), nn.Flatten(2)), (1, 3, 3), TypeError, "Flatten.*cannot be read"),
        (nn.Sequential(nn.Conv2d(1, 1, 2, padding="same")), (1, 3, 3), TypeError, "padding 'same'.*give it as numbers"),
        (nn.Sequential(nn.Conv2d(1, 1, 2, padding_mode="circular")), (1, 3, 3), TypeError, "only zero padding"),
        (nn.Sequential(nn.AvgPool2d(2, ceil_mode=True)), (1, 3, 3), TypeError, "only plain average pooling"),
        (nn.Sequential(SHARED, nn.ReLU(), SHARED), None, TypeError, "6 parameters but its layers use 12; each must be"),
        (nn.Sequential(nn.Conv2d(1, 1, 2)), None, ValueError, r"first layer is Conv2d.*give input_shape"),
        (nn.Sequential(nn.Conv2d(3, 1, 2)), (1, 3, 3), ValueError, r"units of shape \(1, 3, 3\); it needs \(3, height"),
        (nn.Sequential(nn.Conv2d(1, 1, 2), nn.Linear(4, 2)), (1, 3, 3), ValueError, "put a Flatten before it"),
        (nn.Sequential(), None, ValueError, "Sequential has no layers; give at least one"),
    ],
)
def test_modules_that_are_not_read(
    module: nn.Module, shape: tuple[int, ...] | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        from_module(module, shape)


def test_hooks_are_refused() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module[0].register_forward_hook(lambda m, args, out: 2 * out)
    with pytest.raises(TypeError, match=r"Linear.* has forward hooks, which may change.*remove them"):
        from_module(module)


def test_refused_sizes(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"widths \[3\]; give the input width"):
        mlp([3])
    with pytest.raises(ValueError, match=r"widths \[3, 0, 1\].*at least 1"):
        mlp([3, 0, 1])
    with pytest.raises(ValueError, match="unknown activation 'swish9'"):
        mlp([3, 1], "swish9")
    with pytest.raises(ValueError, match=r"sizes \(1, 0, 1, 1\) must all be at least 1"):
        residual_mlp(1, 0, 1, 1)
    with pytest.raises(ValueError, match="density 1.5 is not a probability"):
        random_dag(np.random.default_rng(0), density=1.5)
    with pytest.raises(ValueError, match="num_inputs 0, num_outputs 1: at least 1; hidden 4: at least 0"):
        random_dag(np.random.default_rng(0), num_inputs=0)
    with pytest.raises(TypeError, match="dtype torch.int64; parameters are floating point numbers"):
        init_params(mlp([1, 1]), generator, torch.int64)


def test_networks_built_here_have_the_values_of_the_unit_by_unit_oracle(generator: torch.Generator) -> None:
    nets: list[Dag] = [mlp([2, 3, 2], "gelu"), mlp([2, 3, 2], "sin", bias=False), residual_mlp(2, 3, 1, 2, "tanh")]
    nets.append(random_dag(np.random.default_rng(3), 2, 5, 2, "softplus", 0.6))
    for dag in nets:
        theta, x = init_params(dag, generator), torch.randn(4, 2, generator=generator, dtype=torch.float64)
        got = evaluate(dag, theta, x).output
        torch.testing.assert_close(got, autodiff.outputs(dag, theta, x), rtol=1e-12, atol=1e-14)
