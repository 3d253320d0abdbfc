"""Exact Hessians: the float64 route on integers, the rational route, and balls, against one another and against autodiff."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from flint import arb, fmpq, fmpq_mat
from hypothesis import given, settings
from hypothesis import strategies as st

from lop_theory import Dag, KinkError, ball_hessian, exact_gradient, exact_hessian, mlp, random_dag, residual_mlp
from lop_theory.activations import get_activation
from lop_theory.arithmetic import RATIONALS, rational_array, to_fmpq
from lop_theory.exact import (
    EXACT_FLOAT,
    _generic_hessian,
    _integer_hessian,
    exact_gauss_newton,
    exact_residual_hessian,
)
from lop_theory.forward import gradient, loss

Problem = tuple[Dag, np.ndarray, np.ndarray, np.ndarray]
ACTIVATIONS = ("relu", "abs", "square", "cube", "identity")


def _tied(dag: Dag) -> Dag:
    """The same network with its first two parameters tied."""
    param = np.where(dag.param == 0, 1, dag.param)
    return Dag(
        dag.num_inputs, dag.has_constant, dag.activations, dag.source, dag.target, param - 1, dag.outputs, dag.fixed
    )


@st.composite
def integer_problems(draw: st.DrawFn, bound: int = 3) -> Problem:
    generator = np.random.default_rng(draw(st.integers(0, 2**20)))
    activation = draw(st.sampled_from(ACTIVATIONS))
    kind = draw(st.sampled_from(["mlp", "dag", "residual", "tied"]))
    if kind == "dag":
        dag = random_dag(generator, 2, 4, 2, activation)
    elif kind == "residual":
        dag = residual_mlp(2, 2, 1, 1, activation)
    else:
        dag = mlp([2, 3, 2], activation)
        dag = _tied(dag) if kind == "tied" else dag
    theta = 2.0 * generator.integers(-bound, bound + 1, dag.num_params)
    theta[dag.param[(dag.source == dag.num_inputs) & (dag.param >= 0)]] += 1  # odd biases: off the kinks
    # the stream of a residual net adds odd numbers, so parities may meet: a kink is then an error on both routes
    n = draw(st.integers(1, 4))
    x, y = generator.integers(-3, 4, (n, 2)), generator.integers(-5, 6, (n, dag.num_outputs))
    return dag, theta, x.astype(float), y.astype(float)


def _entries(matrix: fmpq_mat) -> np.ndarray:
    return np.array(matrix.entries(), dtype=object).reshape(matrix.nrows(), matrix.ncols())


@given(integer_problems())
@settings(max_examples=60)
def test_the_float64_route_gives_the_bits_of_the_rational_route(problem: Problem) -> None:
    dag, theta, x, y = problem
    arguments = rational_array(theta), rational_array(x), rational_array(y)
    try:
        slow = _generic_hessian(RATIONALS, dag, *arguments, "mse_sum")
    except KinkError:
        with pytest.raises(KinkError):
            exact_hessian(dag, theta, x, y)
        return
    fast = _integer_hessian(dag, theta, x, y)
    if not {"square", "cube"} & set(dag.activations):
        assert fast is not None  # small integers, no powers: the bound must recognise them
    assert fast is None or (rational_array(fast) == slow).all()
    assert (_entries(exact_hessian(dag, theta, x, y)) == slow).all()
    assert (exact_gradient(dag, theta, x, y) == gradient(dag, *arguments, "mse_sum", RATIONALS)).all()


@given(integer_problems())
@settings(max_examples=25)
def test_against_automatic_differentiation(problem: Problem) -> None:
    dag, theta, x, y = problem
    try:
        exact = _entries(exact_hessian(dag, theta, x, y, "mse")).astype(float)
    except KinkError:
        return
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    oracle = torch.func.hessian(lambda t: loss_of(dag, t, tx, ty))(torch.from_numpy(theta)).numpy()
    assert np.allclose(exact, oracle, rtol=1e-11, atol=1e-11 * (1 + np.abs(oracle).max()))


def loss_of(dag: Dag, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``loss`` without its checks, which functional transforms cannot trace."""
    from lop_theory.arithmetic import tensors
    from lop_theory.forward import output_loss, run_forward

    return output_loss(run_forward(tensors(theta), dag, theta, x).output, y, "mse")


@given(integer_problems())
@settings(max_examples=25)
def test_gauss_newton_and_residual_add_up(problem: Problem) -> None:
    dag, theta, x, y = problem
    try:
        whole = exact_hessian(dag, theta, x, y)
    except KinkError:
        return
    gauss_newton = exact_gauss_newton(dag, theta, x, y)
    assert gauss_newton + exact_residual_hessian(dag, theta, x, y) == whole
    assert all(gauss_newton[i, i] >= 0 for i in range(dag.num_params))  # Jᵀ J


@pytest.mark.parametrize("scale", [2**10, 2**13, 2**17, 2**26])
def test_integers_too_large_for_float64_are_still_exact(scale: int) -> None:
    dag = mlp([1, 2, 1], "square")
    theta = np.array([scale + 1, -scale, 1, 3, scale - 1, 5, 7], dtype=float)
    x, y = np.array([[scale - 1.0], [3.0]]), np.array([[1.0], [scale + 2.0]])
    slow = _generic_hessian(RATIONALS, dag, rational_array(theta), rational_array(x), rational_array(y), "mse_sum")
    assert max(abs(v) for v in slow.ravel()) > fmpq(int(EXACT_FLOAT))
    assert (_entries(exact_hessian(dag, theta, x, y)) == slow).all()


def test_what_the_float64_route_accepts_is_below_its_bound() -> None:
    """At the edge: raise the weights until the route declines, and compare each accepted matrix with the rationals."""
    dag, x, y = mlp([1, 2, 2, 1]), np.array([[3.0], [-5.0]]), np.array([[1.0], [2.0]])
    accepted = 0
    for power in range(2, 26):
        theta = np.full(dag.num_params, 2.0**power + 2)
        theta[[2, 3, 8, 9]] = [1, -3, 5, 7]
        fast = _integer_hessian(dag, theta, x, y)
        slow = _generic_hessian(RATIONALS, dag, rational_array(theta), rational_array(x), rational_array(y), "mse_sum")
        if fast is not None:
            accepted += 1
            assert (rational_array(fast) == slow).all()
            assert max(abs(v) for v in slow.ravel()) < fmpq(int(EXACT_FLOAT))
    assert 3 < accepted < 20


def test_fractions_strings_and_floats_are_read_exactly() -> None:
    dag = mlp([1, 1, 1])
    wanted = exact_hessian(dag, [Fraction(1, 10), Fraction(1, 3), 2, 0], [[Fraction(1, 2)]], [[1]])
    assert exact_hessian(dag, ["1/10", "1/3", "2", "0"], [["1/2"]], [["1"]]) == wanted
    assert exact_hessian(dag, [0.1, "1/3", 2, 0], [[0.5]], [[1]]) != wanted  # 0.1 is not 1/10
    assert to_fmpq(0.1) == fmpq(3602879701896397, 36028797018963968)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu", "softplus", "silu", "erf", "sin", "relu", "cube"])
@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
def test_balls_contain_the_float_hessian(name: str, kind: str, generator: torch.Generator) -> None:
    from lop_theory import hessian, init_params

    dag = mlp([2, 3, 2], name)
    theta = init_params(dag, generator) + 0.1
    x = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    y = (
        torch.tensor([0, 1, 1, 0])
        if kind == "cross_entropy"
        else torch.randn(4, 2, generator=generator, dtype=torch.float64)
    )
    balls = ball_hessian(dag, theta, x, y, kind, 128)
    floats = hessian(dag, theta, x, y, kind)
    for i in range(dag.num_params):
        for j in range(dag.num_params):
            assert abs(balls[i, j] - arb(float(floats[i, j]))) < 1e-13 * float(1 + floats.abs().max())
            assert balls[i, j].rad() < 1e-20


def test_a_saturated_unit_is_not_flat_in_balls() -> None:
    dag = mlp([1, 1, 1], "tanh")
    theta = [1, 0, 1, 0]
    assert ball_hessian(dag, theta, [[40]], [[0]], "mse_sum", 256)[0, 0] != 0
    assert get_activation("tanh").tensor[1](torch.tensor(400.0, dtype=torch.float64)) == 0  # where floats give up


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"theta": [1, 2, 3]}, ValueError, r"theta has shape \(3,\).*P = 4"),
        ({"x": [[1, 2]]}, ValueError, r"x has shape \(1, 2\); give \[N, 1\]"),
        ({"x": np.zeros((0, 1)), "y": np.zeros((0, 1))}, ValueError, "N at least 1"),
        ({"y": [[1], [2]]}, ValueError, r"targets have shape \(2, 1\)"),
        ({"kind": "cross_entropy"}, ValueError, "not rational.*ball_hessian or certified_rank"),
        ({"kind": "huber"}, ValueError, "unknown loss 'huber'"),
        ({"theta": [1.0, float("nan"), 1.0, 1.0]}, ValueError, "NaN or infinite"),
        ({"theta": [0, 0, 1, 1]}, KinkError, "on a kink of relu"),
        ({"theta": [1j, 0, 1, 1]}, TypeError, "not an exact number"),
    ],
)
def test_bad_input(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"theta": [1, 1, 1, 1], "x": [[1]], "y": [[1]], "kind": "mse_sum", **change}
    with pytest.raises(error, match=message):
        exact_hessian(mlp([1, 1, 1]), **arguments)


def test_a_smooth_activation_has_no_rational_hessian() -> None:
    with pytest.raises(ValueError, match="'tanh' is not rational"):
        exact_hessian(mlp([1, 1, 1], "tanh"), [1, 1, 1, 1], [[1]], [[1]])


def test_the_loss_scales() -> None:
    dag, theta, x, y = mlp([1, 1]), [2, 1], [[1], [2]], [[0], [3]]
    assert exact_hessian(dag, theta, x, y, "mse") * 2 == exact_hessian(dag, theta, x, y)
    value = loss(dag, torch.tensor([2.0, 1.0]), torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]]), "mse")
    assert float(value) == (9 / 2 + 4 / 2) / 2
