"""The linearised network against its definition, its training against the closed form, the ε-rank bounds from both sides."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from flint import fmpq, fmpq_mat
from hypothesis import given, settings
from hypothesis import strategies as st

from lop_theory.arithmetic import rational_array
from lop_theory.exact import exact_hessian
from lop_theory.forward import evaluate
from lop_theory.hessian import gauss_newton, hessian
from lop_theory.linearized import (
    exact_epsilon_rank,
    linearize,
    linearized_kernel,
    necessary_epsilon_rank,
    necessary_loss,
    squared_loss_after,
    sufficient_loss,
    sufficient_steps,
    weyl_epsilon_ranks,
)
from lop_theory.rank import eigenvalues
from tests.reference import autodiff
from tests.reference import linearized as reference


def draw(generator: torch.Generator, samples: int = 4, units: int = 5, inputs: int = 3, outputs: int = 2) -> Any:
    shapes = ((units, inputs), (outputs, units), (samples, inputs), (samples, outputs))
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_output_and_jacobian_are_those_of_the_definition(generator: torch.Generator) -> None:
    W0, readout, x, _ = draw(generator)
    W = W0 + torch.randn(W0.shape, generator=generator, dtype=torch.float64)
    model = linearize(W0, readout, x)
    torch.testing.assert_close(model.output(W), reference.output(W, W0, readout, x))
    full = torch.func.jacrev(lambda w: reference.output(w, W0, readout, x))(W)
    torch.testing.assert_close(model.jacobian, full.reshape(model.jacobian.shape))
    torch.testing.assert_close(linearized_kernel(W0, readout, x), model.jacobian @ model.jacobian.T)


def test_the_network_is_the_model_and_has_no_residual_part(generator: torch.Generator) -> None:
    W0, readout, x, _ = draw(generator)
    W = W0 + torch.randn(W0.shape, generator=generator, dtype=torch.float64)
    dag, gated = linearize(W0, readout, x).network()
    torch.testing.assert_close(evaluate(dag, W.ravel(), gated).output, reference.output(W, W0, readout, x))
    labels = torch.tensor([0, 1, 1, 0])
    H = hessian(dag, W.ravel(), gated, labels, "cross_entropy")
    torch.testing.assert_close(H, gauss_newton(dag, W.ravel(), gated, labels, "cross_entropy"))
    flat = torch.func.hessian(
        lambda w: autodiff.loss_of_outputs(reference.output(w.view(W.shape), W0, readout, x), labels, "cross_entropy")
    )(W.ravel())
    torch.testing.assert_close(H, flat)
    assert int((torch.linalg.eigvalsh(H) > 1e-12).sum()) <= len(x) * (len(readout) - 1)


def test_exact_model() -> None:
    model = linearize([[1, -2], [3, 1]], [["1/2", 1]], [[1, 1], [2, 0]])
    dag, gated = model.network()
    J = model.jacobian
    expected = fmpq_mat(4, 4, (J.T @ J).ravel().tolist())
    assert exact_hessian(dag, [1, -2, 3, 1], gated, rational_array([[0], [5]])) == expected


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_loss_after_k_steps(steps: int, generator: torch.Generator) -> None:
    W0, readout, x, y = draw(generator)
    gram = linearized_kernel(W0, readout, x)
    eta = 1.7 / float(torch.linalg.eigvalsh(gram)[-1])
    r0 = (linearize(W0, readout, x).output(W0) - y).ravel()
    found = float(squared_loss_after(gram, r0, eta, steps))
    assert found == pytest.approx(reference.train(W0, readout, x, y, eta, steps)[-1], rel=1e-10)


def test_the_two_routes_to_the_loss_agree() -> None:
    M, r0 = [[3, 1, 0], [1, 2, 1], [0, 1, 5]], [1, -2, 4]
    exact = squared_loss_after(rational_array(M), r0, "1/7", 3)
    floats = squared_loss_after(torch.tensor(M).double(), torch.tensor(r0).double(), 1 / 7, 3)
    assert float(floats) == pytest.approx(int(exact.p) / int(exact.q), rel=1e-13)


@given(st.integers(0, 5000))
@settings(max_examples=30)
def test_loss_lies_between_the_necessary_and_the_sufficient_bound(seed: int) -> None:
    """One ε for both: just below the least eigenvalue that the residual meets all is fast, and nothing is slow."""
    generator = torch.Generator().manual_seed(seed)
    gram = (J := torch.randn(4, 6, generator=generator, dtype=torch.float64)) @ J.T
    values, vectors = torch.linalg.eigh(gram)
    r0 = torch.randn(4, generator=generator, dtype=torch.float64)
    steps, eta = 1 + seed % 6, 1.0 / float(values[-1])
    L0 = float(squared_loss_after(gram, r0, eta, 0))
    final = float(squared_loss_after(gram, r0, eta, steps))
    for eps in values[:-1].tolist():
        slow = float(((vectors.T @ r0)[values <= eps] ** 2).sum())
        assert final >= necessary_loss(eta, eps, steps, slow) * (1 - 1e-12)
    assert final <= sufficient_loss(eta, float(values[0]), steps, L0) * (1 + 1e-12)


def test_both_bounds_are_attained_by_a_flat_spectrum() -> None:
    gram, r0 = 2 * rational_array(np.eye(3, dtype=int)), rational_array([1, 2, 3])
    final, L0 = (squared_loss_after(gram, r0, "1/8", k) for k in (3, 0))
    assert final == necessary_loss(fmpq(1, 8), fmpq(2), 3, r0 @ r0) == sufficient_loss(fmpq(1, 8), fmpq(2), 3, L0)


def test_required_rank_is_what_isotropic_training_has() -> None:
    """Over an orthonormal basis of residuals the mean loss is tr (I − ηM)^{2K}/2n; ρ must not exceed the count."""
    gram = torch.diag(torch.tensor([4.0, 2.0, 0.1, 0.0, 0.0]).double())
    eta, steps, eps = 0.2, 5, 0.5
    basis = torch.eye(5).double()
    mean = sum(float(squared_loss_after(gram, r, eta, steps)) for r in basis) / 5
    rho = necessary_epsilon_rank(5, mean / 0.5, eta, eps, steps)
    assert rho <= 2
    assert necessary_epsilon_rank(5, mean / 0.5, eta, 0.1 + 1e-9, steps) > 1.0  # not vacuous near the slow eigenvalue


def test_sufficient_steps_suffice_and_half_of_them_need_not() -> None:
    gram, r0 = torch.eye(1).double(), torch.ones(1).double()
    eta, ratio = 0.1, 1e-3
    steps = sufficient_steps(eta, 1.0, ratio)
    assert float(squared_loss_after(gram, r0, eta, steps)) <= 0.5 * ratio
    assert float(squared_loss_after(gram, r0, eta, steps // 2)) > 0.5 * ratio


def test_a_stable_step_is_not_enough() -> None:
    """η λ_max = 1.9 < 2: the top component shrinks by 0.9 a step, although every eigenvalue is at least ε = 1/2."""
    gram, r0 = torch.diag(torch.tensor([1.0, 0.5]).double()), torch.tensor([1.0, 0.0]).double()
    assert float(squared_loss_after(gram, r0, 1.9, 2)) > sufficient_loss(1.9, 0.5, 2, 0.5)


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_exact_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    M = rng.integers(-3, 4, (4, 4))
    M = M + M.T
    values = np.abs(eigenvalues(M.astype(float)))
    for level in (Fraction(0), Fraction(1, 3), Fraction(7, 2), Fraction(29, 3)):
        count, eps = exact_epsilon_rank(M, level), float(level)
        near = np.abs(values - eps) < 1e-9
        assert (values[~near] > eps).sum() <= count <= (values > eps - 1e-9).sum()


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_weyl_interval_holds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    B = (J := rng.integers(-2, 3, (2, 4))).T @ J
    R = rng.integers(-1, 2, (4, 4))
    R = R + R.T
    delta = int(np.abs(R).sum(1).max())  # the row-sum norm bounds ‖R‖₂
    for eps in (1, delta, delta + 3):
        lower, upper = weyl_epsilon_ranks(B, delta, eps)
        assert lower <= exact_epsilon_rank(B + R, eps) <= upper


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linearize([[1, 2]], [[1]], [[1]]), "W0, readout and x have shapes"),
        (lambda: exact_epsilon_rank([[1, 2]], 1), r"shape \(1, 2\); an ε-rank needs a square one"),
        (lambda: exact_epsilon_rank([[1, 2], [0, 1]], 1), "the matrix is not symmetric"),
        (lambda: exact_epsilon_rank([[1]], -1), "eps = -1: an ε-rank needs a level ≥ 0"),
        (lambda: weyl_epsilon_ranks([[1]], -1, 1), "delta = -1: a bound on a norm"),
        (lambda: necessary_loss(2.0, 1.0, 1, 1.0), "eta · eps = 2.0 · 1.0 = 2.0; the bounds need 0 < ηε ≤ 1"),
        (lambda: necessary_epsilon_rank(3, 0.5, 1.0, 1.0, 1), "is infinite; choose a smaller eps"),
        (lambda: sufficient_steps(0.1, 1.0, 2.0), "loss_ratio = 2.0; the wanted share"),
        (lambda: squared_loss_after(rational_array([[1]]), [1], 1, -1), "steps = -1; the number of gradient steps"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
