"""The loss-weighted Gram matrix: entries against an explicit Jacobian, the shared spectrum, counts, refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lop_theory.activations import KinkError
from lop_theory.architectures import mlp, random_dag
from lop_theory.arithmetic import tensors
from lop_theory.dag import Dag
from lop_theory.forward import LOSSES, loss_derivatives
from lop_theory.gram import gauss_newton_epsilon_rank, gauss_newton_gram, loss_factor
from lop_theory.hessian import gauss_newton
from tests.lop_theory.test_hessian import NETS, close, problem
from tests.reference import autodiff


@pytest.mark.parametrize("kind", LOSSES)
def test_the_factor_squares_to_the_hessian_of_the_loss(kind: str, generator: torch.Generator) -> None:
    output = 3 * torch.randn(4, 5, generator=generator, dtype=torch.float64)
    y = torch.zeros(4, dtype=torch.int64) if kind == "cross_entropy" else torch.zeros_like(output)
    factor = loss_factor(output, kind)
    close(factor @ factor.mT, loss_derivatives(tensors(output), output, y, kind)[1], rtol=1e-14)


def explicit(dag: Dag, theta: torch.Tensor, x: torch.Tensor, kind: str) -> torch.Tensor:
    """Aᵀ J Jᵀ A with J by automatic differentiation and A block-diagonal."""
    factor = torch.block_diag(*loss_factor(autodiff.outputs(dag, theta, x), kind))
    weighted = factor.T @ torch.func.jacrev(lambda t: autodiff.outputs(dag, t, x).reshape(-1))(theta)
    return weighted @ weighted.T


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", NETS)
def test_agrees_with_an_explicit_jacobian(name: str, kind: str, generator: torch.Generator) -> None:
    theta, x, y = problem(NETS[name], kind, generator)
    gram = gauss_newton_gram(NETS[name], theta, x, kind, y)
    close(gram, explicit(NETS[name], theta, x, kind))
    assert torch.equal(gram, gauss_newton_gram(NETS[name], theta, x, kind))


@given(st.integers(0, 2000), st.sampled_from(LOSSES))
@settings(max_examples=25)
def test_the_nonzero_spectrum_is_that_of_the_gauss_newton_matrix(seed: int, kind: str) -> None:
    dag = random_dag(np.random.default_rng(seed), 2, seed % 5, 3, "tanh", 0.5, bias=seed % 2 == 0)
    theta, x, y = problem(dag, kind, torch.Generator().manual_seed(seed), 1 + seed % 7)
    spectra = [
        torch.linalg.eigvalsh(gauss_newton(dag, theta, x, y, kind)),
        torch.linalg.eigvalsh(gauss_newton_gram(dag, theta, x, kind)),
    ]
    padded = torch.zeros(2, max(map(len, spectra)), dtype=torch.float64)
    for row, spectrum in zip(padded, spectra, strict=True):
        row[: len(spectrum)] = spectrum.flip(0).abs()
    close(padded[0].sort().values, padded[1].sort().values)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", ["mlp", "conv", "residual", "dag"])
def test_the_count_is_that_of_the_gauss_newton_matrix(name: str, kind: str, generator: torch.Generator) -> None:
    theta, x, y = problem(NETS[name], kind, generator)
    values = torch.linalg.eigvalsh(gauss_newton(NETS[name], theta, x, y, kind)).sort(descending=True).values
    for k in range(1, 6):
        between = float(torch.sqrt(values[k - 1] * values[k]))
        assert gauss_newton_epsilon_rank(NETS[name], theta, x, y, kind, between) == k
    assert gauss_newton_epsilon_rank(NETS[name], theta, x, None, kind, 2 * float(values[0])) == 0


def test_the_softmax_shift_leaves_one_zero_per_sample(generator: torch.Generator) -> None:
    """S has rank O − 1, and a wide network attains rank N (O − 1) although N·O < P."""
    dag = mlp([3, 40, 4], "tanh")
    theta, x, _ = problem(dag, "cross_entropy", generator, 6)
    assert gauss_newton_epsilon_rank(dag, theta, x, None, "cross_entropy", 1e-12) == 6 * (4 - 1)
    assert gauss_newton_epsilon_rank(dag, theta, x, None, "mse", 1e-12) == 6 * 4


DAG = mlp([2, 2, 1])
THETA, X, Y = torch.ones(DAG.num_params).double(), torch.ones(3, 2).double(), torch.ones(3, 1).double()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((THETA[:-1], X, "mse"), ValueError, r"theta has shape \(8,\); this network has P = 9 parameters: give \[9\]"),
        ((THETA, X[:0], "mse"), ValueError, "x is an empty batch"),
        ((THETA, X.float(), "mse"), TypeError, "theta is torch.float64 but x is torch.float32"),
        ((THETA, X * float("nan"), "mse"), ValueError, "x contains NaN or infinity"),
        ((THETA, X, "hinge"), ValueError, "unknown loss 'hinge'; known are"),
        ((THETA, X, "mse", Y[:2]), ValueError, r"targets have shape \(2, 1\); mse needs \[3, 1\]"),
    ],
)
def test_bad_input(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gauss_newton_gram(DAG, *arguments)


def test_bad_levels_and_kinks() -> None:
    with pytest.raises(ValueError, match="eps = 0: an ε-rank needs a finite level > 0"):
        gauss_newton_epsilon_rank(DAG, THETA, X, Y, "mse", 0)
    with pytest.raises(ValueError, match="kinks is 'ignore'; give 'raise' or 'torch'"):
        gauss_newton_gram(DAG, THETA, X, "mse", kinks="ignore")
    theta = torch.tensor([1.0, -1.0, 2.0, 1.0, 0.0, 0.5, 1.0, 1.0, 0.0]).double()
    with pytest.raises(KinkError, match="pre-activation 0.0 of unit 3 on sample 0 is on a kink of relu"):
        gauss_newton_gram(DAG, theta, X, "mse")
    torch.testing.assert_close(gauss_newton_gram(DAG, theta, X, "mse", kinks="torch"), explicit(DAG, theta, X, "mse"))
