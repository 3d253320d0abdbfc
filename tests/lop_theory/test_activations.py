"""Every activation in every number system: f, f' and f'' against autodiff, SymPy and balls; pieces; refusals."""

from fractions import Fraction

import pytest
import sympy
import torch
from flint import arb, fmpq

from lop_theory.activations import KinkError, get_activation, on_kink, piecewise_linear
from tests.reference.autodiff import SCALAR_ACTIVATIONS

NAMES = sorted(SCALAR_ACTIVATIONS)
EXACT = [n for n in NAMES if get_activation(n).is_exact]
PIECEWISE = [n for n in NAMES if get_activation(n).is_piecewise_linear]
POINTS = torch.tensor([-20, -7.25, -2.5, -1.25, -0.75, -0.03125, 0.03125, 0.5, 0.875, 1.75, 3.5, 5.5, 8, 20]).double()


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_agree_with_automatic_differentiation(name: str) -> None:
    f = SCALAR_ACTIVATIONS[name]
    first = torch.func.grad(f)
    expected = [f(POINTS), torch.vmap(first)(POINTS), torch.vmap(torch.func.grad(first))(POINTS)]
    for order, values in enumerate(expected):
        got = get_activation(name).tensor[order](POINTS)
        torch.testing.assert_close(got, values, rtol=1e-12, atol=1e-14)  # atol: autodiff of silu cancels at z = 20


@pytest.mark.parametrize("name", NAMES)
def test_symbolic_form_has_the_same_derivatives(name: str) -> None:
    t = sympy.Symbol("t", real=True)
    expression = get_activation(name).symbolic(t)
    for order in range(3):
        derivative = sympy.diff(expression, t, order)
        got = get_activation(name).tensor[order](POINTS)
        for z, value in zip(POINTS.tolist(), got.tolist(), strict=True):
            exact = sympy.N(derivative.subs(t, sympy.Rational(Fraction(z))), 30)
            assert abs(value - float(exact)) <= 1e-15 + 1e-13 * abs(float(exact)), (order, z)


@pytest.mark.parametrize("name", NAMES)
def test_balls_are_narrow_and_contain_what_tensors_round(name: str) -> None:
    for order in range(3):
        got = get_activation(name).tensor[order](POINTS)
        for z, value in zip(POINTS.tolist(), got.tolist(), strict=True):
            ball = get_activation(name).ball[order](arb(z))
            assert float(ball.rad()) <= 1e-12 * (1e-9 + abs(float(ball.mid())))
            assert abs(value - float(ball.mid())) <= 1e-15 + 1e-13 * abs(float(ball.mid())), (order, z)


@pytest.mark.parametrize("name", EXACT)
def test_exact_values_are_the_dyadic_values_of_tensors(name: str) -> None:
    for order in range(3):
        for z in (-2.5, -0.75, 0.5, 8.0):  # few bits: only the decimal slope 0.01 makes a float round
            q = get_activation(name).exact(fmpq(*z.as_integer_ratio()), order)
            value = float(get_activation(name).tensor[order](torch.tensor(z, dtype=torch.float64)))
            assert float(Fraction(int(q.p), int(q.q))) == value


@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_linear_functions_are_continuous_and_affine_between_breakpoints(name: str) -> None:
    f = get_activation(name)
    for k, at in enumerate(f.breakpoints):
        assert f.slopes[k] * at + f.intercepts[k] == f.slopes[k + 1] * at + f.intercepts[k + 1]
        q = fmpq(at.numerator, at.denominator)
        for order in (1, 2):
            if order == 1:
                with pytest.raises(KinkError, match="kink"):
                    f.exact(q, order)
        assert f.exact(q, 0) == f.exact(q + fmpq(1, 10**9), 0) - f.exact(q + fmpq(1, 10**9), 1) / 10**9
        assert bool(on_kink(name, torch.tensor([float(at)]))[0])
        with pytest.raises(KinkError, match="raise the precision"):
            f.ball[1](arb(float(at), 1e-9))


@pytest.mark.parametrize("name", PIECEWISE)
def test_saturated_pieces_are_where_the_slope_vanishes(name: str) -> None:
    f = get_activation(name)
    assert torch.equal(f.saturated(POINTS), f.tensor[1](POINTS) == 0)
    for low, high, constant in f.saturated_pieces:
        inside = (low + high) / 2 if low is not None and high is not None else (low + 1 if high is None else high - 1)
        assert f.exact(fmpq(inside.numerator, inside.denominator), 0) == fmpq(constant.numerator, constant.denominator)


def test_a_smooth_activation_is_never_saturated_however_flat() -> None:
    z = torch.tensor([40.0], dtype=torch.float64)
    tanh = get_activation("tanh")
    assert not tanh.saturated(z) and tanh.tensor[0](z) == 1.0
    assert tanh.ball[1](arb(40)) > 0  # the slope that float64 computes as 1 − tanh² would be exactly 0


@pytest.mark.parametrize("name", NAMES)
def test_far_away_arguments_stay_finite(name: str) -> None:
    far = torch.tensor([-800.0, 800.0], dtype=torch.float64)
    for order in range(3):
        assert torch.isfinite(get_activation(name).tensor[order](far)).all()


def test_kinds() -> None:
    assert [n for n in NAMES if get_activation(n).is_integral] == [
        "abs", "cube", "hard_tanh", "identity", "relu", "relu6", "square",
    ]  # fmt: skip
    assert not get_activation("quadratic").is_integral and get_activation("quadratic").is_exact
    assert not get_activation("tanh").is_exact


def test_a_decimal_slope_is_the_float_and_a_fraction_is_itself() -> None:
    assert get_activation("leaky_relu:0.01").slopes[0] == Fraction(0.01) == get_activation("leaky_relu").slopes[0]
    assert get_activation("leaky_relu:1/100").slopes[0] == Fraction(1, 100)


def test_a_custom_piecewise_linear_function() -> None:
    ramp = piecewise_linear("ramp", (-1, Fraction(1, 2)), (0, 2, Fraction(-1, 2)), 3)
    assert [ramp.exact(fmpq(z), 0) for z in (-5, 0, 2)] == [3, 5, fmpq(21, 4)]
    expected = torch.tensor([3.0, 5.0, 5.25], dtype=torch.float64)
    assert torch.equal(ramp.tensor[0](torch.tensor([-5.0, 0.0, 2.0], dtype=torch.float64)), expected)


def test_refusals_name_value_rule_and_fix() -> None:
    with pytest.raises(ValueError, match=r"unknown activation 'swish9'; known are abs, .*tanh"):
        get_activation("swish9")
    with pytest.raises(ValueError, match="slope 'steep' of leaky_relu is not a number; write"):
        get_activation("leaky_relu:steep")
    with pytest.raises(ValueError, match="'tanh' is not rational; use a piecewise linear or polynomial one, or balls"):
        get_activation("tanh").exact(fmpq(1), 0)
    with pytest.raises(KinkError, match="pre-activation 0 is on the kink of relu at 0.*move a bias"):
        get_activation("relu").exact(fmpq(0), 1)
