"""KFAC factors against automatic differentiation; the error identity; ranks of products and of block diagonals."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lop_theory.architectures import mlp, random_dag
from lop_theory.dag import Dag
from lop_theory.forward import LOSSES
from lop_theory.gram import gauss_newton_gram
from lop_theory.hessian import gauss_newton
from lop_theory.kronecker import (
    block_diagonal_effective_rank,
    kfac_factors,
    kronecker_effective_rank,
    kronecker_epsilon_rank,
    kronecker_rank,
)
from lop_theory.rank import effective_rank, eigenvalues, exact_rank
from tests.reference import kronecker as reference

NETS = {"tanh": mlp([3, 4, 2, 3], "tanh"), "relu": mlp([2, 5, 3], "relu"), "no bias": mlp([2, 3, 2], "tanh", False)}


def problem(dag: Dag, kind: str, generator: torch.Generator, samples: int = 5) -> tuple[torch.Tensor, ...]:
    theta = torch.randn(dag.num_params, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, dag.num_inputs, generator=generator, dtype=torch.float64)
    if kind == "cross_entropy":
        return theta, x, torch.randint(dag.num_outputs, (samples,), generator=generator)
    return theta, x, torch.randn(samples, dag.num_outputs, generator=generator, dtype=torch.float64)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", NETS)
def test_blocks_are_those_of_the_gauss_newton_matrix(name: str, kind: str, generator: torch.Generator) -> None:
    dag = NETS[name]
    theta, x, y = problem(dag, kind, generator)
    whole = reference.gauss_newton(dag, theta, x, y, kind)
    layers = kfac_factors(dag, theta, x, kind)
    assert sorted(np.concatenate([layer.index.ravel() for layer in layers])) == list(range(dag.num_params))
    for layer in layers:
        places = layer.index.ravel()
        close(layer.block, whole[np.ix_(places, places)])
        close(layer.block, reference.sum_of_products(layer.g.numpy(), layer.a.numpy()))
        close(layer.approximation, np.kron(layer.G, layer.A))
        close(layer.block - layer.approximation, layer.covariance)


def test_signals_of_the_squared_loss_are_output_gradients(generator: torch.Generator) -> None:
    dag = NETS["tanh"]
    theta, x, _ = problem(dag, "mse_sum", generator)
    for layer, block in zip(kfac_factors(dag, theta, x, "mse_sum"), dag.blocks[2:]):
        close(layer.g, reference.signals(dag, theta, x, block.units.tolist()))


def test_rows_of_all_layers_are_the_factor_of_the_gram_matrix(generator: torch.Generator) -> None:
    dag = NETS["relu"]
    theta, x, _ = problem(dag, "cross_entropy", generator)
    layers = kfac_factors(dag, theta, x, "cross_entropy")
    close(sum(layer.rows @ layer.rows.T for layer in layers), gauss_newton_gram(dag, theta, x, "cross_entropy"))


def test_layers_with_several_source_blocks(generator: torch.Generator) -> None:
    """The constant and the inputs are two source blocks of one layer."""
    dag = random_dag(np.random.default_rng(3), 2, 0, 2, "identity", 1.0, bias=True)
    theta, x, y = problem(dag, "mse", generator)
    (layer,) = kfac_factors(dag, theta, x, "mse")
    places = layer.index.ravel()
    close(layer.block, gauss_newton(dag, theta, x, y, "mse")[np.ix_(places, places)])


def test_exact_and_float_factors_agree() -> None:
    dag = mlp([1, 2, 2])
    theta = [2, -2, 1, 3, 1, -1, 2, 0, 1, 1]
    x = [[1], [2], [-1]]
    exact = kfac_factors(dag, theta, x, "mse_sum")
    floats = kfac_factors(dag, torch.tensor(theta).double(), torch.tensor(x).double(), "mse_sum")
    for left, right in zip(exact, floats):
        assert (left.block.astype(float) == right.block.numpy()).all()
        assert left.rank_bound >= exact_rank(left.rows)


def test_one_sample_makes_the_approximation_exact_and_two_do_not(generator: torch.Generator) -> None:
    dag = NETS["tanh"]
    theta, x, _ = problem(dag, "mse_sum", generator, 2)
    for layer in kfac_factors(dag, theta, x[:1], "mse_sum"):
        close(layer.block, layer.approximation)
    assert any(
        float((layer.block - layer.approximation).abs().max()) > 1e-3
        for layer in kfac_factors(dag, theta, x, "mse_sum")
    )


def test_the_rank_bound_and_how_far_it_is_from_the_product() -> None:
    """Three samples and one output: the block has rank 3 at most, the product of the factors more."""
    dag = mlp([3, 3, 1], "square")
    theta = [1, 2, 0, 0, 1, 1, 2, 0, 1, 1, 1, 2, 1, 2, 3, 0]
    hidden, _ = kfac_factors(dag, theta, [[1, 2, 0], [0, 1, -1], [2, 0, 1]], "mse_sum")
    assert (exact_rank(hidden.rows), kronecker_rank(hidden.A, hidden.G), hidden.rank_bound) == (3, 9, 3)


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_ranks_of_kronecker_products(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = rng.integers(1, 5, 2)
    A, G = ((M := rng.integers(-2, 3, (k, k))) @ M.T for k in shapes)
    assert kronecker_rank(A, G) == exact_rank(np.kron(A, G))
    spectrum = np.abs(eigenvalues(np.kron(A, G).astype(float)))
    for eps in (0.37, 3.3, 21.7):
        assert kronecker_epsilon_rank(A.astype(float), G.astype(float), eps) == (spectrum > eps).sum()
    if A.any() and G.any():
        assert kronecker_effective_rank(A, G) == pytest.approx(effective_rank(np.kron(A, G)), rel=1e-9)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 10_000))
@settings(max_examples=25)
def test_effective_rank_of_block_diagonals(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = [rng.standard_normal((k, k + 1)) for k in sizes]
    whole = np.zeros((sum(sizes), sum(sizes) + len(sizes)))
    for k, block in enumerate(blocks):
        row = sum(sizes[:k])
        whole[row : row + len(block), row + k : row + k + block.shape[1]] = block
    assert block_diagonal_effective_rank(blocks) == pytest.approx(effective_rank(whole), rel=1e-10)
    assert block_diagonal_effective_rank([*blocks, np.zeros((2, 2))]) == pytest.approx(effective_rank(whole), rel=1e-10)


TIED = Dag(2, False, ("identity",), np.array([0, 1]), np.array([2, 2]), np.array([0, 0]), np.array([2]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TIED, [1], [[1, 2]], "mse_sum"), "the network ties weights"),
        ((mlp([1, 1]), [1, 0], [[1]], "mse"), "the root of the Hessian of 'mse' is not rational"),
        ((mlp([1, 1]), [1, 0], [[1]], "hinge"), "unknown loss 'hinge'"),
    ],
)
def test_bad_input(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kfac_factors(*arguments)


def test_more_bad_input() -> None:
    with pytest.raises(ValueError, match=r"root has shape \(1, 1, 1\); give \[N, O, C\] with N = 2, O = 1"):
        kfac_factors(mlp([1, 1]), [1, 0], [[1], [2]], "mse_sum", root=[[[1]]])
    with pytest.raises(ValueError, match="has no trainable weight from input"):
        kfac_factors(_sparse(), [1, 1], [[1, 2]], "mse_sum")
    with pytest.raises(ValueError, match="eps = 0: an ε-rank needs a finite level"):
        kronecker_epsilon_rank([[1.0]], [[1.0]], 0)
    with pytest.raises(ValueError, match="all 2 blocks are zero"):
        block_diagonal_effective_rank([np.zeros((1, 1)), np.zeros((2, 2))])
    with pytest.raises(ValueError, match="kinks is 'ignore'"):
        kfac_factors(mlp([1, 1]), [1, 0], [[1]], "mse_sum", kinks="ignore")


def _sparse() -> Dag:
    """Two outputs, each of which reads one input."""
    return Dag(2, False, ("identity",) * 2, np.array([0, 1]), np.array([2, 3]), np.array([0, 1]), np.array([2, 3]))


def test_a_collapsed_root_leaves_no_block() -> None:
    """Saturated softmax: S = 0, however rich the features are."""
    (layer,) = kfac_factors(mlp([2, 2]), [1, 2, 3, 4, 0, 0], [[1, 2], [3, 1]], "mse_sum", root=np.zeros((2, 2, 1), int))
    assert (exact_rank(layer.A), exact_rank(layer.G), exact_rank(layer.rows)) == (2, 0, 0)
    assert not layer.block.any()
