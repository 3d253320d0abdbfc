"""Forward pass, losses, error signals and gradients against oracles and identities, and every refusal at the door."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lop_theory.activations import KinkError
from lop_theory.architectures import from_module, init_params, mlp, random_dag, residual_mlp
from lop_theory.arithmetic import RATIONALS, tensors
from lop_theory.dag import Dag
from lop_theory.forward import (
    LOSSES,
    check_kinks,
    error_signals,
    evaluate,
    gradient,
    loss,
    loss_derivatives,
    output_loss,
    run_forward,
)
from tests.reference import autodiff

NAMES = sorted(autodiff.SCALAR_ACTIVATIONS)
CONV = torch.nn.Sequential(
    torch.nn.Conv2d(1, 2, 2), torch.nn.Tanh(), torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(2, 3)
)


def network(seed: int, activation: str = "tanh", shape: str = "dag") -> Dag:
    if shape == "mlp":
        return mlp([3, 4, 2, 3], activation)
    if shape == "residual":
        return residual_mlp(3, 3, 2, 3, activation)
    if shape == "conv":
        return from_module(CONV, (1, 3, 3))[0]
    return random_dag(np.random.default_rng(seed), 3, 5, 3, activation, 0.6, bias=seed % 3 != 0)


def problem(dag: Dag, kind: str, generator: torch.Generator, samples: int = 5) -> tuple[torch.Tensor, ...]:
    """theta, x, y: generic float64 data."""
    theta = init_params(dag, generator) + 0.1 * torch.randn(dag.num_params, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, dag.num_inputs, generator=generator, dtype=torch.float64)
    if kind == "cross_entropy":
        return theta, x, torch.randint(dag.num_outputs, (samples,), generator=generator)
    return theta, x, torch.randn(samples, dag.num_outputs, generator=generator, dtype=torch.float64)


@settings(max_examples=40)
@given(st.integers(0, 500), st.sampled_from(NAMES))
def test_every_unit_has_the_value_of_the_sum_over_its_edges(seed: int, activation: str) -> None:
    dag = network(seed, activation)
    theta, x, _ = problem(dag, "mse", torch.Generator().manual_seed(seed))
    trace = evaluate(dag, theta, x)
    z, h = autodiff.unit_values(dag, theta, x)
    torch.testing.assert_close(trace.z, torch.stack(z, 1), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(trace.h, torch.stack(h, 1), rtol=1e-11, atol=1e-12)
    assert torch.equal(trace.output, trace.h[:, dag.outputs])


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_by_definition(kind: str, generator: torch.Generator) -> None:
    dag = network(1)
    theta, x, y = problem(dag, kind, generator)
    torch.testing.assert_close(loss(dag, theta, x, y, kind), autodiff.loss_map(dag, x, y, kind)(theta))


@pytest.mark.parametrize("kind", LOSSES)
def test_loss_derivatives_are_the_derivatives_of_the_loss(kind: str, generator: torch.Generator) -> None:
    _, _, y = problem(network(1), kind, generator)
    output = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    first, second = loss_derivatives(tensors(output), output, y, kind)
    torch.testing.assert_close(first, torch.func.grad(lambda f: output_loss(f, y, kind))(output))
    full = torch.func.hessian(lambda f: output_loss(f, y, kind))(output)
    for n in range(5):
        torch.testing.assert_close(second[n], full[n, :, n], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", ["mlp", "residual", "conv", "dag"])
@pytest.mark.parametrize("kind", LOSSES)
def test_gradient_is_the_derivative(shape: str, kind: str, generator: torch.Generator) -> None:
    dag = network(7, shape=shape)
    theta, x, y = problem(dag, kind, generator)
    expected = autodiff.gradient(dag, theta, x, y, kind)
    torch.testing.assert_close(gradient(dag, theta, x, y, kind), expected, rtol=1e-11, atol=1e-13)


@settings(max_examples=30)
@given(st.integers(0, 300))
def test_error_signals_are_derivatives_at_the_pre_activation(seed: int) -> None:
    """δ_v = ∂L/∂z_v is the derivative in a bias added to unit v on one sample."""
    dag = network(3 * seed + 1)  # with biases
    theta, x, y = problem(dag, "mse", torch.Generator().manual_seed(seed), samples=1)
    run = run_forward(tensors(theta), dag, theta, x)
    _, delta = error_signals(tensors(theta), dag, run, loss_derivatives(tensors(theta), run.output, y, "mse")[0])
    slopes = autodiff.gradient(dag, theta, x, y, "mse")
    for e in np.flatnonzero(dag.source == dag.constant):
        level = int(dag.level[dag.target[e]]) + 1
        place = dag.blocks[level].units.tolist().index(int(dag.target[e]))
        torch.testing.assert_close(delta[level][0, place], slopes[dag.param[e]], rtol=1e-11, atol=1e-13)


@settings(max_examples=30)
@given(st.integers(0, 300), st.sampled_from(["relu", "leaky_relu:1/8", "abs"]))
def test_homogeneous_units_balance_incoming_and_outgoing_gradients(seed: int, activation: str) -> None:
    """f(cz) = c f(z) for c > 0, so Σ_in w ∂L/∂w = Σ_out w ∂L/∂w at each hidden unit (rescaling symmetry)."""
    dag = network(seed, activation)
    theta, x, y = problem(dag, "cross_entropy", torch.Generator().manual_seed(seed))
    products = theta * gradient(dag, theta, x, y, "cross_entropy")
    for v in dag.hidden.tolist():
        incoming, outgoing = (products[dag.param[edges]].sum() for edges in (dag.incoming(v), dag.outgoing(v)))
        torch.testing.assert_close(incoming, outgoing, rtol=1e-10, atol=1e-13)


@settings(max_examples=30)
@given(st.integers(0, 300), st.sampled_from(["relu", "hard_tanh", "square", "cube", "abs", "identity"]))
def test_integers_are_exact_in_float64(seed: int, activation: str) -> None:
    """On integers float64 gives the same numbers as rationals, in outputs and gradients.

    Even weights and biases of one parity keep every pre-activation off the breakpoints (0, or ±1 for hard_tanh).
    """
    draw = np.random.default_rng(seed)
    dag = mlp([2, 3, 2], activation)
    theta, x, y = draw.integers(-2, 3, dag.num_params), draw.integers(-3, 4, (4, 2)), draw.integers(-3, 4, (4, 2))
    theta[:9] *= 2
    theta[6:9] += activation != "hard_tanh"
    floats = [torch.from_numpy(a).double() for a in (theta, x, y)]
    exact = run_forward(RATIONALS, dag, RATIONALS.convert(theta), RATIONALS.convert(x)).output
    assert RATIONALS.convert(evaluate(dag, *floats[:2]).output).tolist() == exact.tolist()
    slopes = gradient(dag, theta, x, y, "mse_sum", RATIONALS)
    assert RATIONALS.convert(gradient(dag, *floats, "mse_sum")).tolist() == slopes.tolist()


def test_rational_loss_derivatives_are_exact() -> None:
    dag = mlp([1, 1, 1], "square")
    exact = gradient(dag, ["1/3", "1/2", 2, 0], [[1]], [[0]], "mse", RATIONALS)
    z = Fraction(5, 6)
    f = 2 * z**2
    expected = [4 * f * z, 4 * f * z, f * z**2, f]
    assert [Fraction(int(v.p), int(v.q)) for v in exact] == expected


DAG = mlp([2, 2, 1])
THETA, X, Y = torch.ones(DAG.num_params).double(), torch.ones(3, 2).double(), torch.ones(3, 1).double()
LABELS = torch.zeros(3, dtype=torch.int64)
NAN = float("nan")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (THETA[:-1], X, Y, "mse"),
            ValueError,
            r"theta has shape \(8,\); this network has P = 9 .*: give \[9\]",
        ),
        ((THETA, X[:, :1], Y, "mse"), ValueError, r"x has shape \(3, 1\); give \[N, 2\], one row per sample"),
        ((THETA, X[:0], Y[:0], "mse"), ValueError, r"x is an empty batch \(N = 0\); a loss needs at least one sample"),
        ((THETA.tolist(), X, Y, "mse"), TypeError, "theta is a list; give a torch tensor"),
        (
            (THETA, X.long(), Y, "mse"),
            TypeError,
            r"x has dtype torch.int64; give float.*x.to\(torch.float64\)",
        ),
        ((THETA, X.float(), Y, "mse"), TypeError, "theta is torch.float64 but x is torch.float32; use one dtype"),
        (
            (THETA * NAN, X, Y, "mse"),
            ValueError,
            "theta contains NaN or infinity; all entries must be finite; look",
        ),
        ((THETA, X / 0, Y, "mse"), ValueError, "x contains NaN or infinity; all entries must be finite"),
        ((THETA, X, Y * NAN, "mse"), ValueError, "targets contain NaN or infinity; all entries must be finite"),
        ((THETA, X, Y[:2], "mse"), ValueError, r"targets have shape \(2, 1\); mse needs \[3, 1\]"),
        ((THETA, X, Y, "hinge"), ValueError, "unknown loss 'hinge'; known are mse_sum, mse, cross_entropy"),
        (
            (THETA, X, Y, "cross_entropy"),
            ValueError,
            r"shape \(3, 1\), dtype torch.float64; cross_entropy needs 3",
        ),
        ((THETA, X, LABELS + 1, "cross_entropy"), ValueError, "targets span 1 … 1; this network has classes 0 … 0"),
        ((THETA, X, LABELS - 1, "cross_entropy"), ValueError, "targets span -1 … -1; this network has classes 0 … 0"),
    ],
)
@pytest.mark.parametrize("function", [loss, gradient])
def test_bad_input(function: Any, arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        function(DAG, *arguments)


def test_cross_entropy_has_no_rational_value() -> None:
    with pytest.raises(ValueError, match="cross_entropy is not rational, so it has no value in rationals; use mse_sum"):
        gradient(mlp([1, 2]), [1, 2, 0, 0], [[1]], np.array([0]), "cross_entropy", RATIONALS)


def test_kinks_are_named_with_unit_sample_and_fix() -> None:
    run = run_forward(tensors(THETA), DAG, THETA, torch.tensor([[1.0, 1.0], [0.0, -1.0]]).double())
    message = r"pre-activation 0.0 of unit 3 on sample 1 is on a kink of relu; second.*move a bias.*kinks='torch'"
    with pytest.raises(KinkError, match=message):
        check_kinks(DAG, run.z)
