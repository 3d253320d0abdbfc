"""Hessian, Gauss–Newton matrix, residual: against autodiff, differences, symbolic derivatives; identities; refusals."""

from fractions import Fraction
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lop_theory.activations import KinkError
from lop_theory.architectures import from_module, init_params, mlp, random_dag, residual_mlp
from lop_theory.arithmetic import BALLS, RATIONALS
from lop_theory.dag import Dag
from lop_theory.forward import LOSSES, apply_activations, evaluate, loss_derivatives, run_forward
from lop_theory.hessian import assemble, curvature, gauss_newton, hessian, hvp, residual_hessian
from tests.reference import autodiff

hessian_module = import_module("lop_theory.hessian")  # `import ... as` would give the function of that name

NAMES = sorted(autodiff.SCALAR_ACTIVATIONS)
CONV = torch.nn.Sequential(
    torch.nn.Conv2d(1, 2, 2), torch.nn.Tanh(), torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(2, 3)
)
NETS: dict[str, Dag] = {
    "linear": mlp([3, 3]),
    "mlp": mlp([3, 4, 2, 3], "tanh"),
    "mlp without biases": mlp([3, 4, 2, 3], "gelu", bias=False),
    "residual": residual_mlp(3, 3, 2, 3, "softplus"),
    "conv": from_module(CONV, (1, 3, 3))[0],
    "two convs": from_module(
        torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 1, 1), torch.nn.SiLU(), torch.nn.Conv2d(2, 1, 2, 2)), (1, 3, 2)
    )[0],
    "dag": random_dag(np.random.default_rng(4), 3, 5, 3, "sin", 0.6),
    "dag without biases": random_dag(np.random.default_rng(5), 3, 5, 3, "erf", 0.6, bias=False),
    "outputs at two depths": Dag(1, True, ("tanh", "tanh"), [0, 1, 2, 0], [2, 2, 3, 3], [0, 1, 2, 3], [3, 2]),
    "mixed activations": Dag(2, False, ("relu", "tanh", "sin"), [0, 1, 0, 2, 3], [2, 2, 3, 4, 4], range(5), [4]),
    "shared weight across layers": Dag(1, True, ("tanh", "identity"), [0, 1, 2, 1], [2, 2, 3, 3], [0, 1, 0, 1], [3]),
}


def problem(dag: Dag, kind: str, generator: torch.Generator, samples: int = 5) -> tuple[torch.Tensor, ...]:
    """theta, x, y: generic float64 data."""
    theta = init_params(dag, generator) + 0.1 * torch.randn(dag.num_params, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, dag.num_inputs, generator=generator, dtype=torch.float64)
    if kind == "cross_entropy":
        return theta, x, torch.randint(dag.num_outputs, (samples,), generator=generator)
    return theta, x, torch.randn(samples, dag.num_outputs, generator=generator, dtype=torch.float64)


def close(got: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(got, expected, rtol=rtol, atol=rtol * (1e-3 + float(expected.abs().max())))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", NETS)
def test_agrees_with_automatic_differentiation(name: str, kind: str, generator: torch.Generator) -> None:
    arguments = (NETS[name], *problem(NETS[name], kind, generator), kind)
    full, positive = autodiff.hessian(*arguments), autodiff.gauss_newton(*arguments)
    close(hessian(*arguments), full)
    close(gauss_newton(*arguments), positive)
    close(residual_hessian(*arguments), full - positive)


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("shape", ["mlp", "dag"])
def test_every_activation(shape: str, activation: str, generator: torch.Generator) -> None:
    draw = np.random.default_rng(1)
    dag = mlp([2, 4, 3, 2], activation) if shape == "mlp" else random_dag(draw, 2, 5, 2, activation, 0.6)
    arguments = (dag, *problem(dag, "mse", generator), "mse")
    close(hessian(*arguments), autodiff.hessian(*arguments))
    close(gauss_newton(*arguments), autodiff.gauss_newton(*arguments))


@given(st.integers(0, 2000), st.sampled_from(["tanh", "relu", "gelu", "square"]), st.sampled_from(LOSSES))
@settings(max_examples=15)
def test_random_dags(seed: int, activation: str, kind: str) -> None:
    bias = seed % 2 == 0 or activation == "relu"  # a dead layer without biases puts the next one on the kink at 0
    dag = random_dag(np.random.default_rng(seed), 2, seed % 6, 2, activation, 0.5, bias)
    arguments = (dag, *problem(dag, kind, torch.Generator().manual_seed(seed), 3), kind)
    close(hessian(*arguments), autodiff.hessian(*arguments), rtol=1e-10)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", ["mlp", "residual", "conv", "dag"])
def test_agrees_with_differences_of_the_loss(name: str, kind: str, generator: torch.Generator) -> None:
    theta, x, y = problem(NETS[name], kind, generator, 3)
    differences = autodiff.difference_hessian(autodiff.loss_map(NETS[name], x, y, kind), theta)
    close(hessian(NETS[name], theta, x, y, kind), differences, rtol=3e-6)


# -- exactness ---------------------------------------------------------------------------------------------------------


def integer_problem(activation: str, seed: int) -> tuple[Dag, np.ndarray, np.ndarray, np.ndarray]:
    """A small integer net whose pre-activations have the parity that avoids breakpoints (even for hard_tanh, else odd)."""
    draw = np.random.default_rng(seed)
    dag = mlp([1, 2, 1], activation)
    theta, x, y = draw.integers(-2, 3, dag.num_params), draw.integers(-3, 4, (3, 1)), draw.integers(-3, 4, (3, 1))
    theta[:4] *= 2
    theta[2:4] += activation != "hard_tanh"
    return dag, theta, x, y


def rational_hessian(dag: Dag, theta: Any, x: Any, y: Any) -> np.ndarray:
    theta, x, y = (RATIONALS.convert(a) for a in (theta, x, y))
    run = run_forward(RATIONALS, dag, theta, x)
    slopes, bends = ({b: apply_activations(RATIONALS, dag, b, z, k) for b, z in run.z.items()} for k in (1, 2))
    parts = curvature(RATIONALS, dag, run, slopes, bends, loss_derivatives(RATIONALS, run.output, y, "mse_sum"))
    return assemble(RATIONALS, dag, parts, RATIONALS.zeros((dag.num_params, dag.num_params)), residual=True)


@pytest.mark.parametrize("activation", ["relu", "abs", "hard_tanh", "square", "cube"])
@pytest.mark.parametrize("seed", range(3))
def test_integer_hessians_are_exact(activation: str, seed: int) -> None:
    """float64, rationals and the symbolic derivative of the loss give the same integers."""
    dag, theta, x, y = integer_problem(activation, seed)
    symbolic = autodiff.sympy_hessian(dag, theta.tolist(), x.tolist(), y.tolist())
    floats = hessian(dag, *(torch.from_numpy(a).double() for a in (theta, x, y)), "mse_sum")
    assert [[Fraction(v) for v in row] for row in floats.tolist()] == symbolic
    exact = rational_hessian(dag, theta, x, y)
    assert [[Fraction(int(v.p), int(v.q)) for v in row] for row in exact] == symbolic


@pytest.mark.parametrize("name", ["mlp", "conv", "residual", "dag", "shared weight across layers"])
def test_balls_contain_the_float_hessian(name: str, generator: torch.Generator) -> None:
    dag = NETS[name]
    theta, x, y = problem(dag, "cross_entropy", generator, 3)
    values = BALLS.convert(theta.numpy()), BALLS.convert(x.numpy())
    run = run_forward(BALLS, dag, *values)
    slopes, bends = ({b: apply_activations(BALLS, dag, b, z, k) for b, z in run.z.items()} for k in (1, 2))
    parts = curvature(BALLS, dag, run, slopes, bends, loss_derivatives(BALLS, run.output, y.numpy(), "cross_entropy"))
    balls = assemble(BALLS, dag, parts, BALLS.zeros((dag.num_params, dag.num_params)), residual=True)
    assert max(float(b.rad()) for b in balls.ravel()) < 1e-10
    middle = torch.tensor([[float(b.mid()) for b in row] for row in balls], dtype=torch.float64)
    close(hessian(dag, theta, x, y, "cross_entropy"), middle, rtol=1e-10)


# -- identities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_symmetric_and_gauss_newton_positive(name: str, generator: torch.Generator) -> None:
    arguments = (NETS[name], *problem(NETS[name], "mse", generator), "mse")
    full, positive = hessian(*arguments), gauss_newton(*arguments)
    close(full, full.T, rtol=1e-14)
    lowest, highest = torch.linalg.eigvalsh(positive)[[0, -1]]
    assert lowest >= -1e-14 * highest and highest > 0


def test_the_residual_vanishes_at_zero_error(generator: torch.Generator) -> None:
    dag = NETS["mlp"]
    theta, x, _ = problem(dag, "mse", generator)
    assert not residual_hessian(dag, theta, x, evaluate(dag, theta, x).output, "mse").any()


def test_rescaling_a_relu_unit_is_a_symmetry(generator: torch.Generator) -> None:
    """Scale the weights into unit 3 by e^s and those out of it by e^−s: d²L/ds² = vᵀ H v + ∇L · v' = 0, v' = ±v = θ."""
    dag = mlp([2, 3, 2], "relu", bias=False)
    theta, x, y = problem(dag, "cross_entropy", generator)
    velocity = torch.zeros_like(theta)
    velocity[dag.param[dag.incoming(3)]] = theta[dag.param[dag.incoming(3)]]
    velocity[dag.param[dag.outgoing(3)]] = -theta[dag.param[dag.outgoing(3)]]
    acceleration = torch.where(velocity != 0, theta, torch.zeros_like(theta))
    slope = autodiff.gradient(dag, theta, x, y, "cross_entropy")
    curve = velocity @ hessian(dag, theta, x, y, "cross_entropy") @ velocity
    assert abs(curve + slope @ acceleration) < 1e-13 and abs(curve) > 1e-4


def test_equal_shifts_of_all_logits_are_flat(generator: torch.Generator) -> None:
    dag = mlp([2, 3, 4], "tanh")
    theta, x, y = problem(dag, "cross_entropy", generator)
    shift = torch.zeros(dag.num_params, 4, dtype=torch.float64)
    for o in range(4):
        shift[9 + 3 * o : 12 + 3 * o, :3] += torch.eye(3, dtype=torch.float64)
        shift[9 + 12 + o, 3] = 1
    assert (hessian(dag, theta, x, y, "cross_entropy") @ shift).abs().max() < 1e-15


def test_the_rows_of_a_dead_unit_are_exactly_zero(generator: torch.Generator) -> None:
    dag = mlp([2, 3, 2], "relu")
    theta, x, y = problem(dag, "mse", generator)
    theta[6] = -1000.0
    unit = 3
    frozen = dag.params_of(np.concatenate([dag.incoming(unit), dag.outgoing(unit)]))
    matrix = hessian(dag, theta, x, y, "mse")
    assert not matrix[frozen].any() and matrix.any()


@pytest.mark.parametrize("name", ["mlp", "conv", "residual"])
def test_hvp_is_the_product(name: str, generator: torch.Generator) -> None:
    dag = NETS[name]
    theta, x, y = problem(dag, "mse_sum", generator)
    vectors = torch.randn(dag.num_params, 3, generator=generator, dtype=torch.float64)
    matrix = hessian(dag, theta, x, y, "mse_sum")
    close(hvp(dag, theta, x, y, vectors, "mse_sum"), matrix @ vectors)
    close(hvp(dag, theta, x, y, vectors[:, 0], "mse_sum"), matrix @ vectors[:, 0])


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_many_samples_are_added_in_chunks(
    name: str, kind: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (NETS[name], *problem(NETS[name], kind, generator, 7), kind)
    whole = hessian(*arguments), gauss_newton(*arguments), residual_hessian(*arguments)
    monkeypatch.setattr(hessian_module, "_SAMPLES", 3)
    monkeypatch.setattr(hessian_module, "_BUFFER", 1)
    monkeypatch.setattr(hessian_module, "_STRIP", 5)
    for function, expected in zip((hessian, gauss_newton, residual_hessian), whole, strict=True):
        close(function(*arguments), expected)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_a_given_buffer_is_overwritten_and_returned(name: str, generator: torch.Generator) -> None:
    arguments = (NETS[name], *problem(NETS[name], "mse", generator), "mse")
    buffer = torch.full((NETS[name].num_params,) * 2, float("nan"), dtype=torch.float64)
    result = hessian(*arguments, out=buffer)
    assert result.data_ptr() == buffer.data_ptr() and torch.equal(result, hessian(*arguments))


def test_float32_stays_float32_and_agrees(generator: torch.Generator) -> None:
    theta, x, y = problem(NETS["mlp"], "mse", generator)
    low = hessian(NETS["mlp"], theta.float(), x.float(), y.float(), "mse")
    assert low.dtype == torch.float32
    close(low.double(), hessian(NETS["mlp"], theta, x, y, "mse"), rtol=1e-5)


# -- refusals ----------------------------------------------------------------------------------------------------------

DAG = mlp([2, 2, 1])
THETA, X, Y = torch.ones(DAG.num_params).double(), torch.ones(3, 2).double(), torch.ones(3, 1).double()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((THETA[:-1], X, Y, "mse"), {}, ValueError, r"theta has shape \(8,\); this network has P = 9 .*: give \[9\]"),
        ((THETA, X[:0], Y[:0], "mse"), {}, ValueError, "x is an empty batch .*needs at least one sample"),
        ((THETA.long(), X, Y, "mse"), {}, TypeError, "theta has dtype torch.int64; give floating point"),
        ((THETA * float("nan"), X, Y, "mse"), {}, ValueError, "theta contains NaN or infinity"),
        ((THETA, X, Y, "hinge"), {}, ValueError, "unknown loss 'hinge'; known are mse_sum, mse, cross_entropy"),
        ((THETA, X, Y, "mse"), {"kinks": "ignore"}, ValueError, "kinks is 'ignore'; give 'raise' or 'torch'"),
    ],
)
@pytest.mark.parametrize("function", [hessian, gauss_newton, residual_hessian])
def test_bad_input(function: Any, arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        function(DAG, *arguments, **options)


@pytest.mark.parametrize("shape", [(9, 8), (9,)])
def test_a_buffer_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"out is .*it must be a contiguous \(9, 9\) tensor of torch.float64"):
        hessian(DAG, THETA, X, Y, "mse", out=torch.zeros(shape, dtype=torch.float64))


def test_a_vector_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vector is \(8,\) torch.float64; give \[9\] or \[9, k\] of torch.float64"):
        hvp(DAG, THETA, X, Y, torch.ones(8).double(), "mse")


def test_kinks_raise_unless_the_slope_of_torch_is_asked_for() -> None:
    theta = torch.tensor([1.0, -1.0, 2.0, 1.0, 0.0, 0.5, 1.0, 1.0, 0.0]).double()  # z = 1 − 1 + 0 on every sample
    with pytest.raises(
        KinkError, match=r"pre-activation 0.0 of unit 3 on sample 0 is on a kink of relu.*kinks='torch'"
    ):
        hessian(DAG, theta, X, Y, "mse")
    close(hessian(DAG, theta, X, Y, "mse", kinks="torch"), autodiff.hessian(DAG, theta, X, Y, "mse"))
