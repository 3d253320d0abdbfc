"""KFAC by definition: one Jacobian per sample from automatic differentiation, sums of Kronecker products in loops."""

import numpy as np
import torch

from lop_theory.dag import Dag
from tests.reference import autodiff


def sample_jacobian(dag: Dag, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """∂f/∂θ [N, O, P]."""
    return torch.func.jacrev(lambda t: autodiff.outputs(dag, t, x))(theta)


def loss_hessians(output: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    """∂²L/∂f_n² [N, O, O] by automatic differentiation of the total loss."""
    full = torch.func.hessian(lambda f: autodiff.loss_of_outputs(f, y, kind))(output)
    return torch.stack([full[n, :, n, :] for n in range(len(output))])


def gauss_newton(dag: Dag, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    """Σ_n J_nᵀ S_n J_n, one sample at a time."""
    J = sample_jacobian(dag, theta, x)
    S = loss_hessians(autodiff.outputs(dag, theta, x), y, kind)
    total = theta.new_zeros(dag.num_params, dag.num_params)
    for n in range(len(x)):
        total = total + J[n].T @ S[n] @ J[n]
    return total


def signals(dag: Dag, theta: torch.Tensor, x: torch.Tensor, units: list[int]) -> torch.Tensor:
    """∂f/∂z_unit [N, O, n] of units of one layer: their pre-activations are shifted by an extra bias each."""

    def shifted(push: torch.Tensor) -> torch.Tensor:
        h = [x[:, k] for k in range(dag.num_inputs)] + [torch.ones_like(x[:, 0])] * dag.has_constant
        edges = list(zip(dag.source.tolist(), dag.target.tolist(), dag.param.tolist()))
        for v in range(len(h), dag.num_units):
            z = sum(h[u] * theta[p] for u, t, p in edges if t == v)
            if v in units:
                z = z + push[:, units.index(v)]
            h.append(autodiff.SCALAR_ACTIVATIONS[dag.activation(v)](z))
        return torch.stack([h[o] for o in dag.outputs.tolist()], 1)

    full = torch.func.jacrev(shifted)(x.new_zeros(len(x), len(units)))
    return torch.stack([full[n, :, n, :] for n in range(len(x))])


def sum_of_products(g: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Σ_n Σ_c kron(g gᵀ, a aᵀ), term by term; g [N, C, n], a [N, J]."""
    return sum(np.kron(np.outer(column, column), np.outer(a[n], a[n])) for n in range(len(a)) for column in g[n])
