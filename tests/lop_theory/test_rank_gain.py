"""Hermite coefficients, the kernel K_φ and the rank gain, against brute-force integration and on exact matrices."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from flint import arb, fmpq

from lop_theory.activations import get_activation, piecewise_linear
from lop_theory.gaussian_kernel import gaussian_kernel
from lop_theory.hermite import (
    gauss_hermite,
    hermite_balls,
    hermite_coefficients,
    hermite_expansion,
    hermite_polynomial,
    hermite_weights,
    mean_square_slope,
)
from lop_theory.rank_gain import (
    correlation_matrix,
    decorrelation,
    fixed_points,
    gain_bound,
    gain_is_one,
    gamma,
    iterate_kernel,
    kappa,
    kernel_matrix,
    majorizes,
    rank_gain,
    renyi_rank,
    sharp_gain_bound,
)
from tests.reference.hermite import coefficient, correlation, polynomial_correlation

KINKED = ["relu", "abs", "hard_tanh", "relu6", "leaky_relu:1/8"]
SMOOTH = ["tanh", "sigmoid", "softplus", "gelu", "erf", "sin", "silu"]
POLYNOMIAL = ["identity", "square", "cube", "quadratic"]


def on_arrays(name):
    if name == "sign":
        return np.sign
    value = get_activation(name).tensor[0]
    return lambda z: value(torch.from_numpy(np.ascontiguousarray(z))).numpy()


def as_float(value):
    """A float from a rational or from the middle of a ball."""
    return float(value.mid()) if isinstance(value, arb) else int(value.p) / int(value.q)


# -- Hermite coefficients


@pytest.mark.parametrize("name", KINKED + SMOOTH + POLYNOMIAL)
def test_coefficients_are_the_integrals(name):
    tolerance = 1e-4 if name in KINKED else 1e-11
    enclosed, second = hermite_balls(name, 6)
    floats = hermite_coefficients(name, 6)
    for k in range(7):
        expected = coefficient(on_arrays(name), k)
        assert float(enclosed[k].mid()) == pytest.approx(expected, abs=tolerance)
        assert float(enclosed[k].rad()) < 1e-30
        assert floats[k] == pytest.approx(float(enclosed[k].mid()), abs=1e-12)
    # Parseval: the sum of squares stays below E φ², and reaches it for polynomials of degree <= 6
    share = sum((a * a for a in enclosed), arb(0)) / second
    assert share < 1 + arb(2) ** -40
    if name in POLYNOMIAL:
        assert share.overlaps(arb(1))


def test_expansion_inverts_the_hermite_polynomials():
    for k in range(9):
        assert hermite_expansion(hermite_polynomial(k)) == tuple(Fraction(j == k) for j in range(k + 1))


def test_gauss_hermite_is_exact_for_polynomials_and_converges_for_tanh():
    assert gauss_hermite(lambda z: z**6, 6, 7)[[0, 6]] == pytest.approx([15, math.sqrt(720)])
    errors = [abs(gauss_hermite(np.tanh, 1, n)[1] - coefficient(np.tanh, 1)) for n in (8, 16, 32, 64)]
    assert errors[0] > errors[1] > errors[2] > errors[3] and errors[3] < 1e-8


@pytest.mark.parametrize("name", ["relu", "hard_tanh", "gelu", "tanh", "sin"])
def test_kernel_slopes_are_expectations_of_the_derivative(name):
    """K'(0) = (Eφ')²/Varφ by the trapezoidal rule, K'(1) = E[φ'²]/Varφ by a difference quotient."""
    kernel, phi = gaussian_kernel(name), on_arrays(name)
    step = 1e-5
    slope = (phi_mean(lambda z: (phi(z + step) - phi(z - step)) / (2 * step))) ** 2 / phi_variance(phi)
    assert float(kernel.slope_at_zero.mid()) == pytest.approx(slope, abs=2e-3 if name in KINKED else 1e-8)
    squares = phi_mean(lambda z: ((phi(z + step) - phi(z - step)) / (2 * step)) ** 2)
    assert mean_square_slope(name) == pytest.approx(squares, abs=3e-3 if name in KINKED else 1e-8)
    assert kernel.slope_at_one == pytest.approx(squares / phi_variance(phi), abs=5e-3 if name in KINKED else 1e-8)


def phi_mean(f):
    from tests.reference.hermite import grid

    z, weight = grid()
    return float(weight @ f(z))


def phi_variance(phi):
    return phi_mean(lambda z: phi(z) ** 2) - phi_mean(phi) ** 2


# -- the kernel


@pytest.mark.parametrize("name", [*KINKED, *SMOOTH, *POLYNOMIAL])
@pytest.mark.parametrize("r", [-0.9, -0.3, 0.6])
def test_kernel_is_the_correlation(name, r):
    kernel = gaussian_kernel(name)
    exact = Fraction(r).limit_denominator(10)
    expected = correlation(on_arrays(name), r)
    enclosure = kernel.enclose(exact)
    middle = as_float(enclosure)
    radius = float(enclosure.rad()) if isinstance(enclosure, arb) else 0.0
    tolerance = 2e-4 if name in KINKED else 1e-10
    assert abs(middle - expected) <= radius + tolerance
    assert abs(float(kernel(r)) - middle) <= 2 * radius + 1e-12


@pytest.mark.parametrize("name", ["relu", "abs", "leaky_relu:1/8", "sign", "erf", "sin", "gelu"])
def test_closed_forms_lie_in_the_series(name):
    """The partial sum of Mehler's series and its truncation bound must contain the closed form, at every order."""
    for order in (4, 9, 20):
        kernel = gaussian_kernel(name, order)
        assert kernel.closed is not None
        for r in (0.35, 0.8, -0.35, -0.8):
            partial = sum(float(w.mid()) * r**k for k, w in enumerate(kernel.weights))
            rest = float(kernel.tail.mid()) * abs(r) ** (order + 1) + 1e-14
            low, high = (0.0, rest) if r > 0 else (-rest, rest)
            assert low - 1e-14 <= float(kernel(r)) - partial <= high


def test_polynomial_kernels_are_exact():
    rng = np.random.default_rng(0)
    for r, s in ((Fraction(3, 5), Fraction(4, 5)), (Fraction(-5, 13), Fraction(12, 13)), (Fraction(-1), Fraction(0))):
        for _ in range(5):
            c = [Fraction(int(v)) for v in [*rng.integers(-3, 4, 4), 1]]
            expected = polynomial_correlation(c, r, s)
            assert gaussian_kernel(c).enclose(r) == fmpq(expected.numerator, expected.denominator)
    assert gaussian_kernel(hermite_polynomial(5)).enclose(Fraction(1, 3)) == fmpq(1, 243)


def test_values_at_the_ends_and_parity():
    for name, parity in [
        ("tanh", -1),
        ("sigmoid", -1),
        ("sign", -1),
        ("abs", 1),
        ("relu", 0),
        ("gelu", 0),
        ("hard_tanh", -1),
    ]:
        kernel = gaussian_kernel(name)
        assert kernel.parity == parity
        assert kernel.enclose(0) == 0 and kernel.enclose(1) == 1
        assert float(kernel(1.0)) == pytest.approx(1.0, abs=1e-15) and float(kernel(0.0)) == 0.0
        if parity:
            assert kernel.enclose(-1) == parity and float(kernel(-1.0)) == pytest.approx(parity, abs=1e-15)
        else:
            assert abs(kernel.enclose(-1)) < 1
    assert kernel_minus_one("relu") == pytest.approx(-1 / (math.pi - 1))
    assert gaussian_kernel("cube").parity == -1 and gaussian_kernel((5, 0, 1)).parity == 1


def kernel_minus_one(name):
    return float(gaussian_kernel(name)(-1.0))


def test_uncentred_relu_is_the_arc_cosine_kernel():
    r = np.linspace(-1, 1, 9)
    arc_cosine = (np.sqrt(1 - r**2) + r * (math.pi - np.arccos(r))) / math.pi
    assert gaussian_kernel("relu").uncentred(r) == pytest.approx(arc_cosine, abs=1e-14)


def test_bias_and_gain():
    """v1, Remark A.1 and v2, A.2: α of ReLU(z + b) is Φ(b)²/Var; α of tanh(a z) falls to 2/π, so γ stays below 0.2221."""
    for b in (Fraction(2), Fraction(1, 2), Fraction(-1), Fraction(-3)):
        kernel = gaussian_kernel(piecewise_linear(f"relu(z + {b})", (-b,), (0, 1), 0))
        x = float(b)
        p, mass = math.exp(-x * x / 2) / math.sqrt(2 * math.pi), 0.5 * math.erfc(-x / math.sqrt(2))
        variance = (1 + x * x) * mass + x * p - (x * mass + p) ** 2
        assert float(kernel.slope_at_zero.mid()) == pytest.approx(mass**2 / variance, rel=1e-9)
    gammas = []
    for gain in (1, 2, 5):
        kernel_slope = gauss_hermite(lambda z, a=gain: np.tanh(a * z), 1, 1200)[1] ** 2
        second = gauss_hermite(lambda z, a=gain: np.tanh(a * z) ** 2, 0, 1200)[0]
        gammas.append(gamma(kernel_slope / second))
    assert gammas == sorted(gammas) and gammas[-1] < gamma(2 / math.pi) == pytest.approx(0.22203, abs=1e-5)
    assert gammas[0] == pytest.approx(0.03602, abs=1e-5)


# -- the gain


def random_exact(rng, size):
    """A Gram matrix of rational unit vectors of R³, not zero-mean in any way: rank at most 3."""
    units = [(0, 0, 1), (1, 0, 0), (1, 2, 2), (2, -2, 1), (2, 3, 6), (-6, 2, 3), (0, 3, 4), (-4, 0, 3), (-1, 0, 0)]
    chosen = [units[k] for k in rng.integers(0, len(units), size)]
    norm = [math.isqrt(sum(v * v for v in u)) for u in chosen]
    return correlation_matrix(
        [
            [Fraction(sum(a * b for a, b in zip(u, v)), n * m) for v, m in zip(chosen, norm)]
            for u, n in zip(chosen, norm)
        ]
    )


def random_float(rng, size):
    factor = rng.standard_normal((size, rng.integers(1, size + 1)))
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    C = factor @ factor.T
    np.fill_diagonal(C, 1.0)
    return C


@pytest.mark.parametrize("phi", ["relu", "tanh", "gelu", "abs", "sign", "quadratic", "hard_tanh", (0, 0, 0, 2, 1)])
def test_gain_bounds_and_majorization_in_floats(phi):
    rng, kernel = np.random.default_rng(1), gaussian_kernel(phi)
    alpha = kernel.slope_at_zero
    alpha = float(alpha if isinstance(alpha, Fraction) else alpha.mid())
    for _ in range(40):
        C = random_float(rng, int(rng.integers(2, 7)))
        image = kernel_matrix(kernel, C)
        ratio = renyi_rank(image, 2) / renyi_rank(C, 2)
        assert rank_gain(kernel, C) == pytest.approx(ratio, rel=1e-10)
        assert ratio >= sharp_gain_bound(alpha, C) - 1e-9 >= gain_bound(alpha, C) - 2e-9
        before, after = (np.sort(np.linalg.eigvalsh(M))[::-1].cumsum() for M in (C, image))
        assert (before - after).min() > -1e-10
        for order in (0.5, 1, 3, np.inf):
            assert renyi_rank(image, order) >= renyi_rank(C, order) - 1e-9


def test_exact_gain_agrees_with_floats_and_the_equality_criterion():
    rng = np.random.default_rng(2)
    ones = 0
    for _ in range(80):
        C = random_exact(rng, int(rng.integers(2, 5)))
        for phi in ((0, 1, 1), (0, 0, 1), (0, 1, 0, 1), "relu", "abs"):
            kernel = gaussian_kernel(phi)
            gain = rank_gain(kernel, C)
            is_one = gain_is_one(kernel, C)
            ones += is_one
            assert (gain == 1) if is_one else (gain > 1)
            floats = rank_gain(kernel, np.array([[as_float(v) for v in row] for row in C]))
            middle = as_float(gain)
            assert floats == pytest.approx(middle, rel=1e-12)
    assert 0 < ones < 400


def test_the_sharp_bound_is_attained_by_the_second_hermite_polynomial():
    rng, kernel = np.random.default_rng(3), gaussian_kernel(hermite_polynomial(2))
    for _ in range(10):
        C = random_exact(rng, 4)
        assert rank_gain(kernel, C) == sharp_gain_bound(Fraction(0), C)
        if decorrelation(C):
            assert gain_bound(Fraction(0), C) < rank_gain(kernel, C)


def test_exact_majorization_agrees_with_floats():
    rng = np.random.default_rng(4)
    for _ in range(15):
        C = random_exact(rng, 4)
        image = kernel_matrix(gaussian_kernel((0, 1, 1)), C)
        assert majorizes(C, image) is True
        equal = all(a == b for a, b in zip(C.ravel(), image.ravel()))
        assert majorizes(image, C) is (equal or is_permuted(C, image))
    ones, unit = correlation_matrix([[1, 1], [1, 1]]), correlation_matrix([[1, 0], [0, 1]])
    assert majorizes(ones, unit) and not majorizes(unit, ones)


def is_permuted(C, image):
    a, b = (np.linalg.eigvalsh(np.array([[as_float(v) for v in row] for row in M])) for M in (C, image))
    return bool(np.allclose(a, b, atol=1e-12))


def test_kappa_encloses_the_published_values():
    for name, value in (("relu", 0.0889), ("tanh", 0.0382), ("gelu", 0.0842), ("sign", 0.30564), ("square", 0.25)):
        low, high = kappa(gaussian_kernel(name))
        assert low - 1e-4 <= value <= high + 1e-4 and high - low < 2e-3


# -- layers


def test_iteration_converges_at_the_slope_and_only_when_centred():
    kernel = gaussian_kernel("relu")
    path = iterate_kernel(kernel, np.array([0.999, -0.5, 0.0, 1.0]), 80)
    assert abs(path[-1, :3]).max() < 1e-6 and path[-1, 3] == pytest.approx(1.0, abs=1e-12)
    assert path[60, 0] / path[59, 0] == pytest.approx(0.73347, abs=1e-4)
    uncentred = iterate_kernel(kernel, 0.0, 300, centred=False)
    assert (np.diff(uncentred) > 0).all() and uncentred[-1] > 0.99


def test_fixed_points():
    tanh = fixed_points(gaussian_kernel("tanh"))
    assert [(p.r, p.kind) for p in tanh] == [(0, "attracting"), (1, "repelling"), (-1, "repelling")]
    assert fixed_points(gaussian_kernel("sign"))[1].multiplier == math.inf
    r = np.linspace(-0.999, 0.999, 400)
    for name in ("relu", "tanh", "abs", "gelu"):
        assert (np.abs(gaussian_kernel(name)(r)) < np.abs(r)).all()
    with pytest.raises(ValueError, match="nonlinear"):
        fixed_points(gaussian_kernel("identity"))


# -- bad input


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="variance is 0"):
        hermite_weights((3,))
    with pytest.raises(ValueError, match="no correlation is defined"):
        gaussian_kernel(piecewise_linear("dead", (0,), (0, 0), 0))
    with pytest.raises(ValueError, match="between -1 and 1"):
        gaussian_kernel("relu")(1.5)
    with pytest.raises(ValueError, match="between -1 and 1"):
        gaussian_kernel("relu").enclose(Fraction(3, 2))
    with pytest.raises(ValueError, match="divide by the variances"):
        correlation_matrix([[2, 0], [0, 1]])
    with pytest.raises(ValueError, match="symmetrise"):
        correlation_matrix([[1, 0], [Fraction(1, 2), 1]])
    with pytest.raises(ValueError, match="square and not empty"):
        correlation_matrix([])
    with pytest.raises(ValueError, match="undefined, because the trace is 0"):
        renyi_rank(np.zeros((2, 2)), 2)
    with pytest.raises(ValueError, match="more nodes"):
        gauss_hermite(np.tanh, 8, 8)


@pytest.mark.parametrize(
    "matrix, rule",
    [
        (np.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]]), "the matrix has the eigenvalue -0.8"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "the matrix has the eigenvalue -1"),
        (np.array([[2.0, 0.5], [0.5, 1.0]]), "the diagonal of a correlation matrix is 1"),
        (np.array([[1.0, 0.5], [0.2, 1.0]]), "symmetric"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), "finite"),
        (np.zeros((0, 0)), "square and not empty"),
        (np.ones((2, 3)), "square and not empty"),
    ],
)
def test_what_is_no_correlation_matrix_is_refused(matrix: np.ndarray, rule: str) -> None:
    for use in (lambda C: rank_gain(gaussian_kernel("relu"), C), decorrelation):
        with pytest.raises(ValueError, match=rule):
            use(matrix)
