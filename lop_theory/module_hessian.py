r"""Hessian and Gauss–Newton matrix of any small ``nn.Module``, in the order of ``model.parameters()``.

Two routes to the same matrix. If the module is a chain that :func:`lop_theory.architectures.from_module` can read and
the loss is a plain cross-entropy or mean squared error, the layerwise formulas of ``hessian.py`` apply, an order of
magnitude faster. With O outputs per sample torch's mean squared error is (1/(N O)) Σ (f − y)² = (2/O) · ``mse``.
Otherwise, with θ ↦ L(θ) the loss through ``functional_call``,

    Vᵀ H = ∂⟨V, ∇L(θ)⟩/∂θ       reverse over reverse mode on one graph, ``chunk`` rows Vᵀ of the identity at a time,
    GGN = Jᵀ S J,   J = ∂f/∂θ [M, P] by reverse mode, ``chunk`` rows at a time,   S = ∂²loss/∂f² [M, M],

where f are all M numbers that the model returns. H is written chunk by chunk into the result and symmetrised there.
(Forward over reverse mode costs about the same, but torch lacks it for some functions, its own mean squared error among
them.)

What counts as the function that is differentiated:

* *Parameters*: all of ``model.parameters()``, also those with ``requires_grad=False`` (frozen ones are coordinates of
  the Hessian too; select rows and columns to leave them out). A tied parameter counts once.
* *Normalisation in training mode* uses the statistics of the batch x, as in a training step, and these are
  differentiated. Running statistics are neither read nor updated. In ``eval()`` mode they are constants.
* *Randomness* (dropout in training mode) is refused: the loss would not be a function of θ.
* *Kinks*: on a breakpoint both routes take the slope that torch takes. ``lop_theory.hessian`` refuses kinks instead.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from lop_theory.activations import KinkError
from lop_theory.architectures import from_module
from lop_theory.dag import Dag
from lop_theory.hessian import gauss_newton, hessian

__all__ = ["module_hessian", "module_gauss_newton"]

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_STRIP = 64  # height of the strips in which a matrix is symmetrised in place


def module_hessian(
    model: nn.Module, loss_fn: LossFunction, x: torch.Tensor, y: torch.Tensor, *, chunk: int = 64
) -> torch.Tensor:
    """∂²L/∂θ² [P, P] of L(θ) = loss_fn(model(x), y), in the dtype and order of ``model.parameters()``.

    ``loss_fn(output, y)`` returns one number; x and y are what the model and the loss take. ``chunk`` columns are
    computed at once on the general route (memory: about ``chunk`` backward passes). The model is not changed.

    Raises ``TypeError`` for a model without floating point parameters of one dtype, or whose output is not a tensor;
    ``ValueError`` for parameters, inputs or a loss that are not finite, an empty batch, a loss that is not one number,
    dropout in training mode, ``chunk`` < 1, and a matrix that is larger than the memory of the machine.

    >>> model = nn.Linear(1, 1).double()
    >>> x = torch.tensor([[3.0]], dtype=torch.float64)
    >>> module_hessian(model, nn.MSELoss(), x, x).tolist()    # L = (3 w + b - 3)²
    [[18.0, 6.0], [6.0, 2.0]]
    """
    problem = _problem(model, loss_fn, x, y, chunk)
    fast = _layerwise(problem, hessian)
    if fast is not None:
        return fast
    size = len(problem.theta)
    out = problem.theta.new_empty(size, size)
    with torch.nn.attention.sdpa_kernel(
        torch.nn.attention.SDPBackend.MATH
    ):  # the fused kernels lack second derivatives
        pull: Callable[..., tuple[torch.Tensor]] = torch.func.vjp(torch.func.grad(problem.loss), problem.theta)[1]
        for first in range(0, size, chunk):
            rows = torch.arange(first, min(first + chunk, size), device=out.device)
            basis = out.new_zeros(len(rows), size)
            basis[torch.arange(len(rows), device=out.device), rows] = 1
            out[first : first + len(rows)] = torch.vmap(pull)(basis)[0]
    return _symmetrise(out)


def module_gauss_newton(
    model: nn.Module, loss_fn: LossFunction, x: torch.Tensor, y: torch.Tensor, *, chunk: int = 64
) -> torch.Tensor:
    """The Gauss–Newton matrix Jᵀ S J [P, P] of loss_fn(model(x), y). Arguments and errors as in :func:`module_hessian`.

    S [M, M] is the Hessian of ``loss_fn`` in all M outputs, so that losses which couple samples are covered; the
    general route holds J [M, P] and S.

    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh()).double()
    >>> x = torch.tensor([[0.5]], dtype=torch.float64)
    >>> slope = 1 - torch.tanh(model[0].weight * x) ** 2
    >>> torch.allclose(module_gauss_newton(model, nn.MSELoss(), x, x), 2 * (slope * x) ** 2)
    True
    """
    problem = _problem(model, loss_fn, x, y, chunk)
    fast = _layerwise(problem, gauss_newton)
    if fast is not None:
        return fast
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        output = problem.output(problem.theta).detach()
        _check_memory(output.numel() * (len(problem.theta) + output.numel()), problem.theta, "J and S have")
        jacobian = torch.func.jacrev(lambda t: problem.output(t).reshape(-1), chunk_size=chunk)(problem.theta)
        slope = torch.func.jacrev(lambda f: loss_fn(f.view_as(output), y).reshape(()))
        curvature = torch.func.jacrev(slope, chunk_size=chunk)(output.reshape(-1))
    return _symmetrise(jacobian.mT @ (curvature @ jacobian))


@dataclass(frozen=True)
class _Problem:
    """A model whose normalisation layers no longer carry state, its parameters as one vector θ [P], loss and batch."""

    model: nn.Module
    loss_fn: LossFunction
    x: torch.Tensor
    y: torch.Tensor
    theta: torch.Tensor

    def output(self, theta: torch.Tensor) -> torch.Tensor:
        parameters, at = {}, 0
        for name, p in self.model.named_parameters():
            parameters[name] = theta[at : at + p.numel()].view(p.shape)
            at += p.numel()
        result = torch.func.functional_call(self.model, parameters, (self.x,))
        if not isinstance(result, torch.Tensor):
            raise TypeError(
                f"the model returned a {type(result).__name__}; wrap it in a module that returns one tensor"
            )
        return result

    def loss(self, theta: torch.Tensor) -> torch.Tensor:
        return self.loss_fn(self.output(theta), self.y).reshape(())


def _problem(model: nn.Module, loss_fn: LossFunction, x: torch.Tensor, y: torch.Tensor, chunk: int) -> _Problem:
    """Everything checked."""
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it is the number of columns computed at once: give at least 1")
    parameters = list(model.parameters())
    if not sum(p.numel() for p in parameters):
        raise TypeError(f"{type(model).__name__} has no parameters, so no Hessian; give a model with trainable layers")
    dtypes = {p.dtype for p in parameters}
    if len(dtypes) > 1 or not parameters[0].dtype.is_floating_point:
        names = ", ".join(sorted(str(d) for d in dtypes))
        raise TypeError(f"parameters have dtype {names}; one floating point dtype is needed: call model.double()")
    for name, value in (*model.named_parameters(), ("x", x), ("y", y)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; give a torch tensor")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} contains NaN or infinity; all entries must be finite; look for a diverged run")
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}, an empty batch; a loss needs at least one sample")
    theta = torch.cat([p.detach().reshape(-1) for p in parameters])
    _check_memory(len(theta) ** 2, theta, "the matrix has")
    problem = _Problem(_stateless(model), loss_fn, x.detach(), y.detach(), theta)
    with torch.no_grad():
        value = loss_fn(problem.output(theta), problem.y)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise ValueError(f"the loss is {value!r}; loss_fn must return one number: average or sum over samples")
    if not torch.isfinite(value):
        raise ValueError(f"the loss is {float(value)}; it must be finite; look for a diverged run")
    return problem


def _stateless(model: nn.Module) -> nn.Module:
    """A copy in which normalisation layers in training mode have no running statistics; refuses randomness."""
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and module.training and module.track_running_stats:
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
        dropout = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
        if module.training and isinstance(dropout, float) and dropout > 0:
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) drops units with probability {dropout}; the loss "
                "must be a function of the parameters: call model.eval(), or set the probability to 0"
            )
    return model


def _check_memory(entries: int, like: torch.Tensor, what: str) -> None:
    needed = entries * like.element_size() / 1e9
    try:
        present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):  # not every platform tells
        return
    if like.device.type == "cpu" and needed > present:
        raise ValueError(
            f"P = {len(like)} parameters: {what} {entries} entries, {needed:.1f} GB, but this machine has "
            f"{present:.1f} GB; use hvp, gauss_newton_epsilon_rank, or a smaller model"
        )


def _symmetrise(matrix: torch.Tensor) -> torch.Tensor:
    """(M + Mᵀ)/2 in place, in strips, without a second matrix."""
    for first in range(0, len(matrix), _STRIP):
        rows = slice(first, first + _STRIP)
        right, below = matrix[rows, first:], matrix[first:, rows]
        mean = (right + below.mT) / 2
        matrix[rows, first:] = mean
        matrix[first:, rows] = mean.mT
    return matrix


# -- the fast route ----------------------------------------------------------------------------------------------------


def _layerwise(problem: _Problem, matrix: Callable[..., torch.Tensor]) -> torch.Tensor | None:
    """The matrix by the layerwise formulas, or ``None`` if module, loss or a kink needs automatic differentiation."""
    found = _as_dag(problem)
    if found is None:
        return None
    dag, kind, scale = found
    flat = problem.x.reshape(len(problem.x), -1)
    try:
        return _symmetrise(matrix(dag, problem.theta, flat, problem.y, kind).mul_(scale))
    except KinkError:  # torch's conventions differ from kink to kink: leave them to torch
        return None


def _as_dag(problem: _Problem) -> tuple[Dag, str, float] | None:
    """(dag, kind, scale) such that the loss is scale times the loss of that kind of the dag."""
    x, y = problem.x, problem.y
    if x.dtype != problem.theta.dtype:
        return None
    try:
        dag, theta = from_module(problem.model, x.shape[1:])
    except (TypeError, ValueError):
        return None
    if not torch.equal(theta, problem.theta):
        return None
    if _is_cross_entropy(problem.loss_fn):
        return (dag, "cross_entropy", 1.0) if y.dtype == torch.int64 and y.shape == (len(x),) and y.min() >= 0 else None
    if _is_mean_square(problem.loss_fn) and y.shape == (len(x), dag.num_outputs) and y.dtype == theta.dtype:
        return dag, "mse", 2.0 / dag.num_outputs
    return None


def _is_cross_entropy(loss_fn: LossFunction) -> bool:
    """Torch's cross-entropy with default options?"""
    if type(loss_fn) is nn.CrossEntropyLoss:
        plain = loss_fn.weight is None and loss_fn.label_smoothing == 0.0
        return plain and loss_fn.reduction == "mean" and loss_fn.ignore_index < 0
    return loss_fn is nn.functional.cross_entropy


def _is_mean_square(loss_fn: LossFunction) -> bool:
    """Torch's mean squared error with default options?"""
    if type(loss_fn) is nn.MSELoss:
        return loss_fn.reduction == "mean"
    return loss_fn is nn.functional.mse_loss
