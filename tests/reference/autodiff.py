"""Slow oracles for networks: unit-by-unit evaluation, automatic differentiation and differences of the loss.

Nothing here uses blocks, tiles or the derivative formulas of ``lop_theory``; only the edge lists of a ``Dag`` are read.
"""

from collections.abc import Callable
from fractions import Fraction

import sympy
import torch

from lop_theory.dag import Dag

LossMap = Callable[[torch.Tensor], torch.Tensor]

SCALAR_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, 0.01),
    "leaky_relu:1/8": lambda z: torch.nn.functional.leaky_relu(z, 0.125),
    "hard_tanh": torch.nn.functional.hardtanh,
    "relu6": torch.nn.functional.relu6,
    "abs": torch.abs,
    "square": lambda z: z * z,
    "cube": lambda z: z * z * z,
    "quadratic": lambda z: z + z * z / 2,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
    "gelu": torch.nn.functional.gelu,
    "erf": torch.erf,
    "sin": torch.sin,
    "silu": lambda z: z * torch.sigmoid(z),
}


def unit_values(dag: Dag, theta: torch.Tensor, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(z, h), one [N] tensor per unit, by the sum over incoming edges in unit order."""
    h = [x[:, k] for k in range(dag.num_inputs)] + [torch.ones_like(x[:, 0])] * dag.has_constant
    z = list(h)
    edges = list(zip(dag.source.tolist(), dag.target.tolist(), dag.param.tolist(), strict=True))
    for v in range(len(h), dag.num_units):
        incoming = [(e, u, p) for e, (u, target, p) in enumerate(edges) if target == v]
        z.append(sum(h[u] * (theta[p] if p >= 0 else float(dag.fixed[e])) for e, u, p in incoming))
        h.append(SCALAR_ACTIVATIONS[dag.activation(v)](z[v]))
    return z, h


def outputs(dag: Dag, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """f [N, O]."""
    h = unit_values(dag, theta, x)[1]
    return torch.stack([h[o] for o in dag.outputs.tolist()], 1)


def loss_of_outputs(output: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    """The loss by its definition, sample by sample."""
    if kind == "cross_entropy":
        terms = [-torch.log_softmax(row, 0)[label] for row, label in zip(output, y, strict=True)]
        return torch.stack(terms).mean()
    per_sample = 0.5 * (output - y).square().sum(1)
    return {"mse_sum": per_sample.sum(), "mse": per_sample.mean()}[kind]


def loss_map(dag: Dag, x: torch.Tensor, y: torch.Tensor, kind: str) -> LossMap:
    """theta -> loss."""
    return lambda theta: loss_of_outputs(outputs(dag, theta, x), y, kind)


def gradient(dag: Dag, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    return torch.func.grad(loss_map(dag, x, y, kind))(theta)


def hessian(dag: Dag, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    """[P, P] by torch.func.hessian (forward over reverse)."""
    return torch.func.hessian(loss_map(dag, x, y, kind))(theta)


def gauss_newton(dag: Dag, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    """J^T S J with J and S by automatic differentiation."""
    output = outputs(dag, theta, x)
    jacobian = torch.func.jacrev(lambda t: outputs(dag, t, x).reshape(-1))(theta)
    curvature = torch.func.hessian(lambda f: loss_of_outputs(f.view_as(output), y, kind))(output.reshape(-1))
    return jacobian.T @ curvature @ jacobian


def difference_hessian(f: LossMap, theta: torch.Tensor, step: float = 1e-4) -> torch.Tensor:
    """[P, P] from values of the loss alone: central second differences, error about step^2 + 1e-16 / step^2."""
    size = len(theta)
    basis = step * torch.eye(size, dtype=theta.dtype)
    a, b = basis.repeat_interleave(size, 0), basis.repeat(size, 1)
    up_up, up_down, down_up, down_down = (torch.vmap(f)(theta + v) for v in (a + b, a - b, b - a, -a - b))
    return ((up_up - up_down - down_up + down_down) / (4 * step**2)).view(size, size)


SYMPY_ACTIVATIONS: dict[str, Callable[[sympy.Expr], sympy.Expr]] = {
    "identity": lambda z: z,
    "square": lambda z: z**2,
    "cube": lambda z: z**3,
    "relu": lambda z: sympy.Piecewise((0, z < 0), (z, True)),
    "abs": lambda z: sympy.Piecewise((-z, z < 0), (z, True)),
    "hard_tanh": lambda z: sympy.Piecewise((-1, z < -1), (z, z < 1), (1, True)),
}


def sympy_hessian(dag: Dag, theta: list[int], x: list[list[int]], y: list[list[int]]) -> list[list[Fraction]]:
    """Hessian of mse_sum over the rationals, from the symbolic loss. Exact; slow."""
    symbols = sympy.symbols(f"t:{dag.num_params}")
    at = dict(zip(symbols, theta, strict=True))
    total = sympy.Integer(0)
    for row, target in zip(x, y, strict=True):
        h: list[sympy.Expr] = [sympy.Integer(v) for v in row] + [sympy.Integer(1)] * dag.has_constant
        for v in range(len(h), dag.num_units):
            z = sympy.Integer(0)
            for e in dag.incoming(v).tolist():
                p = int(dag.param[e])
                z += h[int(dag.source[e])] * (symbols[p] if p >= 0 else sympy.Integer(dag.fixed[e]))
            h.append(SYMPY_ACTIVATIONS[dag.activation(v)](z))
        total += sum((h[o] - t) ** 2 for o, t in zip(dag.outputs.tolist(), target, strict=True)) / 2
    gradient = [sympy.diff(total, s) for s in symbols]
    entries = [[sympy.diff(g, s).subs(at) for s in symbols] for g in gradient]
    return [[Fraction(int(sympy.numer(v)), int(sympy.denom(v))) for v in row] for row in entries]
