r"""Forward pass, losses and error signals on a DAG, in every number system.

    z_v = Σ_{u→v} w_uv h_u,     h_v = f_v(z_v),     δ_v = ∂L/∂z_v = f'_v(z_v) · (∂L/∂h_v + Σ_{v→w} w_vw δ_w)

*Barriers* §2 writes δ for ∂L/∂h (the post-activation adjoint); here δ is the error signal at the **pre-activation**, so
that ∂L/∂w_uv = Σ_n δ_v h_u.

Losses (x [N, I], targets y, outputs f [N, O]):

=================  =======================================  =============================
kind               L                                        targets
=================  =======================================  =============================
``mse_sum``        ½ Σ_n ‖f_n − y_n‖²                        y [N, O]
``mse``            (1/N) Σ_n ½ ‖f_n − y_n‖²                  y [N, O]
``cross_entropy``  (1/N) Σ_n (logsumexp f_n − f_n,y_n)       integer y [N], 0 ≤ y < O
=================  =======================================  =============================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from lop_theory.activations import KinkError, get_activation, on_kink
from lop_theory.arithmetic import Arithmetic, Array, tensors
from lop_theory.dag import CONSTANT_BLOCK, FIRST_COMPUTED_BLOCK, INPUT_BLOCK, Dag, Tile

LOSSES = ("mse_sum", "mse", "cross_entropy")


class Trace(NamedTuple):
    """Pre-activations z and activations h of all units [N, num_units] (z = h on inputs and constant), outputs [N, O]."""

    z: torch.Tensor
    h: torch.Tensor
    output: torch.Tensor


@dataclass(frozen=True)
class Pass:
    """A forward pass in blocks: ``weights[k]`` is the matrix [n_target, n_source] of ``dag.tiles[k]``; z and h by block."""

    weights: tuple[Array, ...]
    z: Mapping[int, Array]
    h: Mapping[int, Array]
    output: Array


# -- checks at the public door ---------------------------------------------------------------------------------------------


def check_loss_kind(kind: str) -> None:
    """Raise ``ValueError`` unless the loss is known."""
    if kind not in LOSSES:
        raise ValueError(f"unknown loss {kind!r}; known are {', '.join(LOSSES)}")


def check_tensors(dag: Dag, theta: torch.Tensor, x: torch.Tensor) -> None:
    """Shapes, dtypes and finiteness of θ [P] and x [N, I]."""
    for name, value in (("theta", theta), ("x", x)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; give a torch tensor (exact_hessian takes rationals)")
        if not value.dtype.is_floating_point:
            raise TypeError(
                f"{name} has dtype {value.dtype}; give floating point numbers, e.g. {name}.to(torch.float64)"
            )
    if theta.dtype != x.dtype:
        raise TypeError(f"theta is {theta.dtype} but x is {x.dtype}; use one dtype, float64 for theory")
    if theta.shape != (dag.num_params,):
        raise ValueError(
            f"theta has shape {tuple(theta.shape)}; this network has P = {dag.num_params} parameters: give [{dag.num_params}]"
        )
    if x.ndim != 2 or x.shape[1] != dag.num_inputs:
        raise ValueError(f"x has shape {tuple(x.shape)}; give [N, {dag.num_inputs}], one row per sample")
    if not len(x):
        raise ValueError("x is an empty batch (N = 0); a loss needs at least one sample")
    for name, value in (("theta", theta), ("x", x)):
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} contains NaN or infinity; all entries must be finite; look for a diverged run")


def check_targets(dag: Dag, x: Any, y: Any, kind: str) -> None:
    """Shape, dtype and range of the targets for the loss."""
    check_loss_kind(kind)
    shape = tuple(y.shape)
    if kind == "cross_entropy":
        integral = not y.dtype.is_floating_point if isinstance(y, torch.Tensor) else y.dtype.kind in "iuO"
        if not integral or shape != (len(x),):
            raise ValueError(
                f"targets have shape {shape}, dtype {y.dtype}; cross_entropy needs {len(x)} integer class labels"
            )
        if len(y) and (y.min() < 0 or y.max() >= dag.num_outputs):
            raise ValueError(f"targets span {y.min()} … {y.max()}; this network has classes 0 … {dag.num_outputs - 1}")
    elif shape != (len(x), dag.num_outputs):
        raise ValueError(f"targets have shape {shape}; {kind} needs [{len(x)}, {dag.num_outputs}]")
    elif isinstance(y, torch.Tensor) and not torch.isfinite(y).all():
        raise ValueError("targets contain NaN or infinity; all entries must be finite")


# -- forward ---------------------------------------------------------------------------------------------------------------


def tile_weights(ops: Arithmetic, tile: Tile, theta: Array) -> Array:
    """The weight matrix [n_target, n_source] of a tile: θ at its indices, its fixed weights, zero elsewhere."""
    if tile.start is not None:
        return theta[tile.start : tile.start + tile.index.size].reshape(tile.index.shape)
    if (tile.index < 0).any():
        padded = ops.concatenate([theta, ops.zeros((1,))], 0)  # index −1 reads the zero at the end
        weights = padded[tile.index]
        return weights if tile.fixed is None else weights + ops.convert(tile.fixed)
    return theta[tile.index]


def run_forward(ops: Arithmetic, dag: Dag, theta: Array, x: Array) -> Pass:
    """The forward pass in the number system of θ and x. Arguments are trusted."""
    weights = tuple(tile_weights(ops, t, theta) for t in dag.tiles)
    ones = ops.zeros((len(x), int(dag.has_constant))) + 1
    h: dict[int, Array] = {INPUT_BLOCK: x, CONSTANT_BLOCK: ones}
    z: dict[int, Array] = {}
    for b in range(FIRST_COMPUTED_BLOCK, len(dag.blocks)):
        total = None
        for k, tile in enumerate(dag.tiles):
            if tile.target == b:
                w = weights[k]
                part = w.swapaxes(0, 1) if tile.source == CONSTANT_BLOCK else h[tile.source] @ w.swapaxes(0, 1)
                total = part if total is None else total + part
        assert total is not None  # every computed unit has an incoming edge
        if len(total) != len(x):  # a block that only the constant feeds
            total = total + ops.zeros((len(x), len(dag.blocks[b])))
        z[b] = ops.reduce(total)
        h[b] = apply_activations(ops, dag, b, z[b], 0)
    parts = [h[b][:, rows] for b, rows, _ in dag.output_places]
    order = np.argsort(np.concatenate([columns for _, _, columns in dag.output_places]))
    output = ops.concatenate(parts, 1)
    return Pass(weights, z, h, output if np.array_equal(order, np.arange(len(order))) else output[:, order])


def apply_activations(ops: Arithmetic, dag: Dag, block: int, z: Array, order: int) -> Array:
    """f (order 0), f' or f'' of the block's activations at z [N, n]."""
    groups = dag.blocks[block].activations
    if len(groups) == 1:
        return ops.activate(get_activation(groups[0][0]), z, order)
    parts = [ops.activate(get_activation(name), z[:, places], order) for name, places in groups]
    back = np.argsort(np.concatenate([places for _, places in groups]))
    return ops.concatenate(parts, 1)[:, back]


def evaluate(dag: Dag, theta: torch.Tensor, x: torch.Tensor) -> Trace:
    """Run the network on a batch: x [N, I] → :class:`Trace`. Differentiable in θ and x.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 1, 1])
    >>> theta = torch.tensor([2.0, -1.0, 3.0, 0.5], dtype=torch.float64)   # w1, b1, w2, b2
    >>> evaluate(net, theta, torch.tensor([[1.0], [0.0]], dtype=torch.float64)).output.tolist()
    [[3.5], [0.5]]
    """
    check_tensors(dag, theta, x)
    ops = tensors(theta)
    run = run_forward(ops, dag, theta, x)
    units = np.concatenate([block.units for block in dag.blocks])
    back = torch.from_numpy(np.argsort(units))
    h = torch.cat([run.h[b] for b in range(len(dag.blocks))], 1)[:, back]
    z = torch.cat([run.z.get(b, run.h[b]) for b in range(len(dag.blocks))], 1)[:, back]
    return Trace(z, h, run.output)


def check_kinks(dag: Dag, z: Mapping[int, Array]) -> None:
    """Raise :class:`KinkError` if a pre-activation (float64 or tensor) is exactly on a breakpoint."""
    for b, values in z.items():
        for name, places in dag.blocks[b].activations:
            if not get_activation(name).breakpoints:
                continue
            hit = on_kink(name, values[:, places])
            if hit.any():
                sample, place = (
                    (int(v[0]) for v in hit.nonzero()) if isinstance(hit, np.ndarray) else hit.nonzero()[0].tolist()
                )
                unit = int(dag.blocks[b].units[places[place]])
                raise KinkError(
                    f"pre-activation {float(values[sample, places[place]])} of unit {unit} on sample {sample} is on a kink of "
                    f"{name}; second derivatives do not exist there; move a bias or input, or pass kinks='torch' to take "
                    "the one-sided slope that torch takes"
                )


# -- losses ----------------------------------------------------------------------------------------------------------------


def loss(dag: Dag, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    """The loss (a scalar tensor), see the table of the module. Differentiable.

    >>> from lop_theory.architectures import mlp
    >>> net, theta = mlp([1, 1]), torch.tensor([2.0, 0.0])
    >>> float(loss(net, theta, torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [0.0]]), "mse_sum"))
    10.0
    """
    check_loss_kind(kind)
    check_tensors(dag, theta, x)
    check_targets(dag, x, y, kind)
    output = run_forward(tensors(theta), dag, theta, x).output
    return output_loss(output, y, kind)


def output_loss(output: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    """The loss as a function of the outputs."""
    if kind == "cross_entropy":
        return torch.nn.functional.cross_entropy(output, y)
    total = ((output - y) ** 2).sum() / 2
    return total if kind == "mse_sum" else total / len(output)


def loss_derivatives(ops: Arithmetic, output: Array, y: Array, kind: str) -> tuple[Array, Array]:
    """Gradient [N, O] and Hessian [N, O, O] of the loss with respect to the outputs.

    Softmax: p = softmax(f), gradient (p − e_y)/N, Hessian (diag p − p pᵀ)/N. Exponentials exist for tensors and balls.
    """
    n, o = output.shape
    if kind == "cross_entropy":
        return _softmax_derivatives(ops, output, y)
    unit = ops.zeros((o, o))
    unit[np.arange(o), np.arange(o)] = ops.zeros((o,)) + 1
    scale = ops.zeros(()) + 1 if kind == "mse_sum" else (ops.zeros(()) + 1) / n
    hessian = ops.zeros((n, o, o)) + unit * scale
    return (output - y) * scale, hessian


def _softmax_derivatives(ops: Arithmetic, output: Array, y: Array) -> tuple[Array, Array]:
    n, o = output.shape
    if ops.name == "tensors":
        p = torch.softmax(output, 1)
        onehot = torch.nn.functional.one_hot(y, o).to(p.dtype)
    elif ops.name == "balls":
        e = np.frompyfunc(lambda v: v.exp(), 1, 1)(output)
        p = e / e.sum(axis=1)[:, None]
        onehot = ops.zeros((n, o))
        onehot[np.arange(n), np.asarray(y, dtype=np.int64)] = ops.zeros((n,)) + 1
    else:
        raise ValueError(
            f"cross_entropy is not rational, so it has no value in {ops.name}; use mse_sum, balls or certified_rank"
        )
    hessian = -p[:, :, None] * p[:, None, :]
    hessian[:, np.arange(o), np.arange(o)] = hessian[:, np.arange(o), np.arange(o)] + p
    return (p - onehot) / n, hessian / n


def error_signals(ops: Arithmetic, dag: Dag, run: Pass, gradient: Array) -> tuple[dict[int, Array], dict[int, Array]]:
    """(∂L/∂h, δ = ∂L/∂z) by computed block, each [N, n], from the gradient [N, O] of the loss at the outputs."""
    at_h: dict[int, Array] = {}
    delta: dict[int, Array] = {}
    samples = len(gradient)
    for b in range(len(dag.blocks) - 1, FIRST_COMPUTED_BLOCK - 1, -1):
        g = ops.zeros((samples, len(dag.blocks[b])))
        for block, rows, columns in dag.output_places:
            if block == b:
                g[:, rows] = g[:, rows] + gradient[:, columns]
        for k, tile in enumerate(dag.tiles):
            if tile.source == b:
                g = ops.reduce(g + delta[tile.target] @ run.weights[k])
        at_h[b] = g
        delta[b] = ops.reduce(g * apply_activations(ops, dag, b, run.z[b], 1))
    return at_h, delta


def gradient(dag: Dag, theta: Array, x: Array, y: Array, kind: str, ops: Arithmetic | None = None) -> Array:
    """∂L/∂θ [P]: ∂L/∂w_uv = Σ_n δ_v h_u, summed over tied edges. In the number system ``ops`` (default: tensors).

    >>> from lop_theory.architectures import mlp
    >>> from lop_theory.arithmetic import RATIONALS
    >>> net = mlp([1, 1])
    >>> gradient(net, [2, 0], [[1], [2]], [[0], [0]], "mse_sum", RATIONALS).tolist()
    [10, 6]
    """
    if ops is None:
        check_tensors(dag, theta, x)
        check_targets(dag, x, y, kind)
        ops = tensors(theta)
    theta, x = ops.convert(theta), ops.convert(x)
    y = y if kind == "cross_entropy" else ops.convert(y)
    run = run_forward(ops, dag, theta, x)
    _, delta = error_signals(ops, dag, run, loss_derivatives(ops, run.output, y, kind)[0])
    out = ops.zeros((dag.num_params,))
    for tile in dag.tiles:
        per_edge = delta[tile.target].swapaxes(0, 1) @ run.h[tile.source]
        add_at(out, tile.index, per_edge)
    return out


def add_at(out: Array, index: np.ndarray, values: Array) -> None:
    """out[index] += values in place, adding up repeats and skipping index −1."""
    chosen = index >= 0
    if isinstance(out, np.ndarray):
        np.add.at(out, index[chosen], values[chosen])
    else:
        where = torch.from_numpy(index[chosen]).to(out.device)
        out.index_add_(0, where, values[torch.from_numpy(chosen).to(out.device)])
