"""Exact Lanczos and the published estimator in balls, against the float library and dense eigenvalues."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from flint import fmpq, fmpq_poly

from lop_theory.lanczos import lanczos
from lop_theory.spectrum import Quadrature, published_normalized_epsilon_rank
from proofs_checks.claims.krylov import Krylov, Probed, beyond, gram_network, krylov, rational_roots, saddle_network
from proofs_checks.claims.spectral_bracket import christoffel, mass_below
from proofs_checks.claims.spectral_estimators import Pairs, Sampled
from proofs_checks.recheck import WitnessError, recheck
from proofs_checks.recheck_core.smoothed_density import is_spectrum, smoothed_share


def number(value):
    return float(value.p) / float(value.q)


def problem(seed, size=5):
    """A Gram net with a generic integer Hessian and an integer probe."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 3, (size, size))
    probe = tuple(fmpq(int(c)) for c in rng.integers(1, 4, size))
    return Probed(gram_network(rows), (probe,), 3, fmpq(1, 2)), (rows.T @ rows).astype(float)


def float_run(p, H, steps):
    v = torch.tensor([number(c) for c in p.probes[0]], dtype=torch.float64)
    return Quadrature.of(lanczos(torch.from_numpy(H).__matmul__, v, steps))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_exact_lanczos_agrees_with_floats(seed, steps):
    p, H = problem(seed)
    run, q = krylov(p.hessian, p.probes[0], steps), float_run(p, H, steps)
    assert [number(a) for a in run.alphas] == pytest.approx(q.diagonal.tolist())
    assert [number(b) ** 0.5 for b in run.betas2] == pytest.approx(q.off_diagonal.tolist())
    zeros = np.roots([number(c) for c in reversed(run.polynomials[1].coeffs())])
    assert np.sort(zeros.real) == pytest.approx(q.nodes)
    for x in (fmpq(1, 2), fmpq(9, 2), fmpq(25, 2)):
        assert number(christoffel(run, x)) == pytest.approx(float(q.christoffel(np.array([number(x)]))[0]))
        assert float(mass_below(run, x).mid()) == pytest.approx(q.weights[q.nodes <= number(x)].sum())


@pytest.mark.parametrize("seed", range(5))
def test_counts_agree_with_eigenvalues(seed):
    p, H = problem(seed)
    values = np.linalg.eigvalsh(H)
    for eps in (fmpq(1, 3), fmpq(7, 3), fmpq(31, 3)):
        assert beyond(p.hessian, eps) == (np.abs(values) > number(eps)).sum()
    saddle = Probed(saddle_network(3), ((fmpq(1), fmpq(0)),), 1, fmpq(1, 2))
    assert saddle.hessian.tolist() == [[0, -3], [-3, 0]] and beyond(saddle.hessian, fmpq(2)) == 2
    assert beyond(saddle.hessian, fmpq(3)) == 0  # ties are not beyond


def test_exhausted_quadrature_is_the_spectral_measure():
    p = Probed(gram_network(np.diag([0, 1, 1, 2])), (tuple(map(fmpq, (1, 2, 3, 4))),), 9, fmpq(1, 2))
    run = p.runs[0]
    assert run.exhausted and run.quadrature == [(0, fmpq(1, 30)), (1, fmpq(13, 30)), (4, fmpq(16, 30))]
    assert krylov(p.hessian, p.probes[0], 2).exhausted is False


def test_irrational_ritz_values_are_left_open():
    run = Krylov((fmpq(0), fmpq(0)), (fmpq(2),), False)  # p_2 = t² − 2
    assert run.quadrature is None and rational_roots(fmpq_poly([-2, 0, 1])) == []
    assert rational_roots(fmpq_poly([fmpq(-1, 6), fmpq(1, 6), 1])) == [fmpq(-1, 2), fmpq(1, 3)]


@pytest.mark.parametrize(
    ("c", "eps", "points"), [((30, 0, 0), "1/100", 10_000), ((1, 3, 5), "1/2", 997), ((0,), "1/50", 50)]
)
@pytest.mark.parametrize("sides", [False, True])
def test_published_estimator_in_balls(c, eps, points, sides):
    spectrum = [Fraction(sign * value) for value in c for sign in (1, -1)]
    ball = smoothed_share(spectrum, Fraction(eps), points, sides)
    nodes, weights = [[float(t) for t in spectrum]], [np.full(len(spectrum), 1 / len(spectrum))]
    expected = published_normalized_epsilon_rank(nodes, weights, float(Fraction(eps)), bridge=not sides, points=points)
    assert float(ball.mid()) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert float(ball.rad()) < 1e-20


def test_spectrum_is_verified():
    entries = {(0, 0): 1, (0, 1): 1, (1, 1): 1}
    assert is_spectrum(entries, 2, [Fraction(2), Fraction(0)])
    assert not is_spectrum(entries, 2, [Fraction(1), Fraction(1)])  # same trace
    assert not is_spectrum(entries, 3, [Fraction(2), Fraction(0)])


def test_null_model_and_its_network():
    pairs = Pairs((fmpq(30), fmpq(0), fmpq(0)), fmpq(1, 100))
    document = {
        "format": "lop-witness/1", "claim": "x", "role": "mutant", "variant": "", "statement": "",
        "networks": {"net": pairs.network()},
        "assertions": [
            {"left": pairs.measured(), "op": ">", "right": "9/10"},
            {"left": pairs.counted(), "op": "==", "right": "2"},
            {"left": {"quantity": "num_params", "net": "net"}, "op": "==", "right": "6"},
        ],
    }  # fmt: skip
    assert recheck(document).confirmed and pairs.published > 0.9 > 0.4 > number(pairs.share)
    document["assertions"][0]["left"]["eigenvalues"] = ["30", "-30", "0", "0", "0", "1"]
    with pytest.raises(WitnessError, match="not proved to be the eigenvalues"):
        recheck(document)


def test_trapezoids():
    s = Sampled((-3, -2, 0, 2, 4), (1, 1, 5, 1, 3), 1)
    assert (s.whole, s.two_sides, s.one_rule) == (17, 5, 9)
