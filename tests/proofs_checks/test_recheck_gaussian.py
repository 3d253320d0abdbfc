"""Gaussian quantities of the checker, against the binomial theorem on the independent pair (X, U)."""

from fractions import Fraction

import numpy as np
import pytest

from proofs_checks.claims.gaussian_units import document
from proofs_checks.instances import assertion, quantity
from proofs_checks.recheck import recheck
from proofs_checks.recheck_core.gaussian import mixed_moment
from proofs_checks.recheck_core.numbers import WitnessError
from tests.reference.hermite import gaussian_moment, polynomial_correlation

PYTHAGOREAN = [(Fraction(3, 5), Fraction(4, 5)), (Fraction(-5, 13), Fraction(12, 13)), (Fraction(0), Fraction(1))]


def confirmed(*assertions):
    return recheck({**document("test", list(assertions)), "claim": "test", "role": "attained", "variant": ""}).confirmed


def test_moments_are_those_of_the_standard_gaussian():
    for n in range(9):
        assert mixed_moment(0, n, Fraction(0)) == mixed_moment(n, 0, Fraction(1, 2)) == gaussian_moment(n)
        assert mixed_moment(n, 3, Fraction(1)) == gaussian_moment(n + 3)  # r = 1: Y = X
        assert mixed_moment(n, 3, Fraction(-1)) == -gaussian_moment(n + 3)


@pytest.mark.parametrize("r, s", PYTHAGOREAN)
def test_correlation_and_slope(r, s):
    rng = np.random.default_rng(5)
    for _ in range(6):
        phi = [*(Fraction(int(v)) for v in rng.integers(-3, 4, 4)), Fraction(1)]
        texts = [str(c) for c in phi]
        expected = polynomial_correlation(phi, r, s)
        K = quantity("gaussian_correlation", coefficients=texts, r=str(r))
        assert confirmed(assertion(K, "==", expected))
        assert not confirmed(assertion(K, "==", expected + 1))
        # the slope at 0 is the odd difference quotient of the kernel, a polynomial of degree 4 in r: exact at three points
        e = Fraction(1, 10)
        odd = [polynomial_odd(phi, e), polynomial_odd(phi, 2 * e)]  # w_1 e + w_3 e³ and w_1 2e + w_3 8e³
        slope = (8 * odd[0] - odd[1]) / (6 * e)
        assert confirmed(assertion(quantity("gaussian_slope", coefficients=texts), "==", slope))


def polynomial_odd(phi, e):
    """(K(e) − K(−e)) / 2 by moments alone."""

    def second(r):
        return sum(c * d * mixed_moment(a, b, r) for a, c in enumerate(phi) for b, d in enumerate(phi))

    return (second(e) - second(-e)) / 2 / (second(Fraction(1)) - second(Fraction(0)))


def test_law_and_cosine():
    points = [[x, y] for x in ("1", "-1") for y in ("1", "-1")]
    covariance = quantity("law_covariance", coefficients=["0", "1"], points=points)
    assert confirmed(assertion(covariance, "==", 0))
    same = quantity("law_covariance", coefficients=["0", "1"], points=[["1", "1"], ["-1", "-1"]])
    assert confirmed(assertion(same, "==", 1))
    cosine = quantity("gaussian_cosine", frequency="1")  # e^(−1/2) = 0.60653…
    assert confirmed(assertion(cosine, ">", Fraction(60653, 100000)), assertion(cosine, "<", Fraction(60654, 100000)))


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"coefficients": ["0", "1"], "r": "2"}, "between -1 and 1"),
        ({"coefficients": ["3"], "r": "1/2"}, "phi is constant"),
        ({"coefficients": ["x"], "r": "1/2"}, "coefficients"),
    ],
)
def test_bad_arguments_are_named(bad, message):
    with pytest.raises(WitnessError, match=message):
        confirmed(assertion(quantity("gaussian_correlation", **bad), "==", 0))
