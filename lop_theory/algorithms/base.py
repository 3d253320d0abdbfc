r"""What an algorithm is: ``init`` and ``update`` on replicated parameters, with an explicit state and one fixed context.

Agreed signatures (stable)::

    Params    = tuple[Tensor, ...]            every tensor is [R, ...]: R replicas (seeds, hyper-parameters) side by side
    State     = a NamedTuple of tensors, of tuples with one tensor per parameter, and of other states; nothing else
    Scalar    = float | Tensor [R]            a hyper-parameter, one for all replicas or one for each

    Algorithm(name, initial, step)            frozen record of two functions, called through checked doors:
        .init(params) -> state
        .update(params, grads, state, ctx) -> (params, state)     new tensors; arguments are never written to; no_grad inside
        .update_pulled(params, grads, state, ctx, pulls)          the update on g + λ (θ − θ₀), bit for bit; algorithms that
                                                                  add the pull in their own pass give ``pulled`` as well
    Context(loss, features, trace, step, generator)               frozen record, the same for all algorithms
        loss(params)     -> Tensor [R]                            loss of each replica on the current minibatch
        features(params) -> tuple of h_l [R, N, n_l]              hidden activations on the regulariser's batch; differentiable
        trace            LayerTrace(z, h, output)                 of the forward pass that gave ``grads``; z_l, h_l are [R, N, n_l]
        step             int                                      updates made before this one
        generator        tuple of R torch.Generator               one for each replica, on the device of the parameters

    chain(*algorithms)                 one after the other: each starts at the parameters that its predecessor left, with
                                       the same ``grads`` and ``ctx``; state ChainState(parts)
    forget(state, masks)               the state after the weights under ``masks`` (bool, shaped as the parameters) were
                                       replaced by new ones: calls ``.forget(masks)`` of every part of the state that has it
    flatten(state) / restore(like, d)  to and from a flat ``dict[str, Tensor]`` (for torch.save with weights_only, safetensors)
    per_replica(value, like)           a Scalar in a shape that broadcasts against ``like`` [R, ...]
    normal_like(params, generator)     standard normal numbers, each replica from its own generator
    gradients(params, ctx)             ∂ loss / ∂ params, per replica

An algorithm that needs the parameters *and* the state of an optimiser (weight decay in the gradient, resets of units)
takes the optimiser as an argument and keeps its state in a field ``inner``. An algorithm that only moves parameters after
the step (shrink and perturb, weight clipping) stands behind the optimiser in a ``chain``.

**Replicas.** Replica r of R computes what a run with R = 1 on the parameters, gradients and generator of replica r
computes. Elementwise rules are written without fused multiply-add, so that this holds to the last bit; rules with matrix
products or decompositions agree up to their rounding.

**A layered net** has params (W_1, b_1, …, W_L, b_L) with W_l [R, n_l, n_{l−1}] and b_l [R, n_l] (:func:`mlp_forward`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from lop_theory.activations import get_activation

__all__ = [
    "Params",
    "State",
    "Scalar",
    "LayerTrace",
    "Context",
    "Pull",
    "Pulls",
    "Algorithm",
    "Stateless",
    "ChainState",
    "chain",
    "forget",
    "flatten",
    "restore",
    "per_replica",
    "check_scalar",
    "normal_like",
    "generators",
    "gradients",
    "mlp_init",
    "mlp_forward",
    "mlp_loss",
    "mlp_context",
]

Params: TypeAlias = tuple[Tensor, ...]
State: TypeAlias = tuple[Any, ...]
Scalar: TypeAlias = float | Tensor
S = TypeVar("S", bound=tuple[Any, ...])


class LayerTrace(NamedTuple):
    """Pre-activations z_l and activations h_l [R, N, n_l] of the hidden layers, and the output [R, N, n_L]."""

    z: tuple[Tensor, ...]
    h: tuple[Tensor, ...]
    output: Tensor


@dataclass(frozen=True)
class Context:
    """All that an update may look at besides parameters, gradients and its own state (see the module docstring)."""

    loss: Callable[[Params], Tensor]
    features: Callable[[Params], tuple[Tensor, ...]]
    trace: LayerTrace
    step: int
    generator: tuple[torch.Generator, ...]


class _Traced(Context):
    """A context whose trace waits, as a function without arguments, until it is looked at."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name == "trace" and not isinstance(value, LayerTrace):
            value = value()
            object.__setattr__(self, name, value)
        return value


class Pull(NamedTuple):
    """The gradient λ (θ − θ₀) of ½ λ ‖θ − θ₀‖² on one parameter; no ``anchor`` is θ₀ = 0."""

    strength: Scalar
    anchor: Tensor | None = None

    def added(self, p: Tensor, g: Tensor) -> Tensor:
        """g + λ (θ − θ₀).

        >>> Pull(0.5, torch.ones(1, 1)).added(torch.full((1, 1), 3.0), torch.zeros(1, 1))
        tensor([[1.]])
        """
        return g + per_replica(self.strength, p) * (p if self.anchor is None else p - self.anchor)


Pulls: TypeAlias = tuple[Pull, ...]


@dataclass(frozen=True)
class Algorithm:
    """A named pair (init, update). Both check their arguments and raise ``ValueError`` or ``TypeError``.

    >>> double = Algorithm("double", lambda p: Stateless(), lambda p, g, s, ctx: (tuple(2 * t for t in p), s))
    >>> double.init((torch.ones(3, 2),))
    Stateless()
    >>> double.init((torch.ones(3, 2), torch.ones(2)))
    Traceback (most recent call last):
    ...
    ValueError: parameter 1 has shape (2,), parameter 0 has 3 replicas: all parameters are [R, ...] with one R; stack them
    """

    name: str
    initial: Callable[[Params], Any]
    step: Callable[[Params, Params, Any, Context], tuple[Params, Any]]
    pulled: Callable[[Params, Params, Any, Context, Pulls], tuple[Params, Any]] | None = None

    def init(self, params: Params) -> Any:
        """The state before the first update."""
        _check_params(params)
        return self.initial(params)

    def update(self, params: Params, grads: Params, state: Any, ctx: Context) -> tuple[Params, Any]:
        """One update: new parameters and new state. The arguments are not written to; no graph is recorded."""
        _check_grads(params, grads)
        with torch.no_grad():
            return self.step(params, grads, state, ctx)

    def update_pulled(
        self, params: Params, grads: Params, state: Any, ctx: Context, pulls: Pulls
    ) -> tuple[Params, Any]:
        """The update on g + λ (θ − θ₀), one pull for each parameter: the bits of adding it first."""
        _check_grads(params, grads)
        with torch.no_grad():
            if self.pulled is not None:
                return self.pulled(params, grads, state, ctx, pulls)
            total = tuple(pull.added(p, g) for p, g, pull in zip(params, grads, pulls, strict=True))
            return self.step(params, total, state, ctx)


def _check_params(params: Params) -> None:
    if not isinstance(params, tuple) or not params or not all(isinstance(p, Tensor) for p in params):
        raise TypeError(
            f"parameters of type {type(params).__name__}: a non-empty tuple of tensors is needed; use tuple()"
        )
    for k, p in enumerate(params):
        if not p.dtype.is_floating_point:
            raise TypeError(f"parameter {k} has dtype {p.dtype}: parameters are floating point; convert with .double()")
        if p.ndim == 0 or p.shape[0] != params[0].shape[0]:
            raise ValueError(
                f"parameter {k} has shape {tuple(p.shape)}, parameter 0 has {params[0].shape[:1].numel()} replicas: "
                "all parameters are [R, ...] with one R; stack them"
            )


def _check_grads(params: Params, grads: Params) -> None:
    if len(grads) != len(params):
        raise ValueError(f"{len(grads)} gradients for {len(params)} parameters: one each is needed, in the same order")
    for k, (p, g) in enumerate(zip(params, grads, strict=True)):
        if g.shape != p.shape or g.dtype != p.dtype:
            raise ValueError(
                f"gradient {k} is {g.dtype} {tuple(g.shape)}, its parameter {p.dtype} {tuple(p.shape)}: they must agree; "
                "pass gradients in the order of the parameters"
            )


# -- states ----------------------------------------------------------------------------------------------------------------


class Stateless(NamedTuple):
    """The state of an algorithm that remembers nothing."""


class ChainState(NamedTuple):
    """The states of the links of a :func:`chain`."""

    parts: tuple[Any, ...]


def chain(*algorithms: Algorithm) -> Algorithm:
    """One algorithm after the other in each update.

    >>> shrink = Algorithm("shrink", lambda p: Stateless(), lambda p, g, s, ctx: (tuple(t / 2 for t in p), s))
    >>> both = chain(shrink, shrink)
    >>> params = (torch.ones(1, 2),)
    >>> state = both.init(params)
    >>> both.update(params, params, state, None)[0]
    (tensor([[0.2500, 0.2500]]),)
    """
    if not algorithms:
        raise ValueError("chain(): a chain needs at least one algorithm; pass for example sgd(0.1)")

    def init(params: Params) -> ChainState:
        return ChainState(tuple(a.init(params) for a in algorithms))

    def update(params: Params, grads: Params, state: ChainState, ctx: Context) -> tuple[Params, ChainState]:
        parts = []
        for algorithm, part in zip(algorithms, state.parts, strict=True):
            params, part = algorithm.update(params, grads, part, ctx)
            parts.append(part)
        return params, ChainState(tuple(parts))

    return Algorithm(" then ".join(a.name for a in algorithms), init, update)


def forget(state: S, masks: Params) -> S:
    """The state after the weights under ``masks`` were replaced: what was remembered about them is as before step 0.

    ``masks``: one bool tensor per parameter, of its shape. Every NamedTuple in the state that defines ``forget(masks)``
    answers for itself (and for what is inside it); other states are searched, and their tensors are left as they are.

    >>> from lop_theory.algorithms.descent import momentum
    >>> state = momentum(0.1).init((torch.zeros(1, 2),))._replace(velocity=(torch.tensor([[3.0, 4.0]]),))
    >>> forget(state, (torch.tensor([[True, False]]),)).velocity
    (tensor([[0., 4.]]),)
    """
    own = getattr(state, "forget", None)
    if own is not None:
        return own(masks)
    parts = [forget(part, masks) if isinstance(part, tuple) else part for part in state]
    return _rebuild(state, parts)


def _rebuild(like: S, parts: Sequence[Any]) -> S:
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def flatten(state: State, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a state (or of parameters) by their path, such as ``inner.velocity.0``.

    >>> list(flatten(ChainState(((torch.zeros(2),), Stateless()))))
    ['parts.0.0']
    """
    names = getattr(state, "_fields", None) or [str(k) for k in range(len(state))]
    tensors: dict[str, Tensor] = {}
    for name, part in zip(names, state, strict=True):
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(part, Tensor):
            tensors[path] = part
        elif isinstance(part, tuple):
            tensors |= flatten(part, path)
        else:
            raise TypeError(
                f"state.{path} is a {type(part).__name__}: states hold tensors and tuples only; use a tensor"
            )
    return tensors


def restore(like: S, tensors: Mapping[str, Tensor], prefix: str = "") -> S:
    """The state with the structure of ``like`` (from ``init``) and the given tensors; inverse of :func:`flatten`.

    >>> state = ChainState(((torch.ones(2),), Stateless()))
    >>> restore(ChainState(((torch.zeros(2),), Stateless())), flatten(state)).parts[0]
    (tensor([1., 1.]),)
    """
    if not prefix:
        missing = flatten(like).keys() ^ tensors.keys()
        if missing:
            raise ValueError(f"entries {sorted(missing)} are on one side only: use the algorithm that saved this state")
    names = getattr(like, "_fields", None) or [str(k) for k in range(len(like))]
    parts = []
    for name, part in zip(names, like, strict=True):
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(part, Tensor) and tensors[path].shape != part.shape:
            given, wanted = tuple(tensors[path].shape), tuple(part.shape)
            raise ValueError(
                f"{path} has shape {given}, this algorithm keeps {wanted}: use the algorithm that saved it"
            )
        parts.append(tensors[path] if isinstance(part, Tensor) else restore(part, tensors, path))
    return _rebuild(like, parts)


# -- replicas --------------------------------------------------------------------------------------------------------------


def per_replica(value: Scalar, like: Tensor) -> Any:
    """A hyper-parameter as it multiplies ``like`` [R, ...]: a float stays, a tensor [R] becomes [R, 1, …, 1] of its dtype.

    >>> per_replica(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 4)).shape
    torch.Size([2, 1, 1])
    """
    if not isinstance(value, Tensor):
        return value
    if value.shape != like.shape[:1]:
        raise ValueError(
            f"hyper-parameter of shape {tuple(value.shape)} for {like.shape[0]} replicas: pass a float, or a tensor [R]"
        )
    return value.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def check_scalar(name: str, value: Scalar, low: float = 0.0, high: float = math.inf) -> None:
    """``ValueError`` unless every entry is finite and in [low, high).

    >>> check_scalar("lr", -1.0)
    Traceback (most recent call last):
    ...
    ValueError: lr = -1.0: must be finite and in [0.0, inf); pass a float or a tensor [R] of such
    """
    entries = value.detach() if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
    inside = torch.isfinite(entries) & (entries >= low) & (entries < high)
    if not bool(inside.all()) or entries.ndim > 1:
        shown = value.tolist() if isinstance(value, Tensor) else value
        raise ValueError(
            f"{name} = {shown}: must be finite and in [{low}, {high}); pass a float or a tensor [R] of such"
        )


def generators(seeds: Sequence[int], device: str | torch.device = "cpu") -> tuple[torch.Generator, ...]:
    """One seeded generator per replica.

    >>> len(generators([0, 1, 2]))
    3
    """
    return tuple(torch.Generator(device).manual_seed(int(seed)) for seed in seeds)


def normal_like(params: Params, generator: Sequence[torch.Generator]) -> Params:
    """Standard normal numbers shaped as ``params``; those of replica r follow from ``generator[r]`` alone.

    On a CPU, in float32 and float64, the generator gives one key, from which ``normals`` makes the numbers of all tensors;
    else it gives the numbers themselves, in order.

    >>> one, two = (normal_like((torch.zeros(1, 2),), generators([s])) for s in (0, 1))
    >>> both = normal_like((torch.zeros(2, 2),), generators([0, 1]))
    >>> torch.equal(both[0], torch.cat([one[0], two[0]]))
    True
    """
    first = params[0]
    if len(generator) != first.shape[0]:
        raise ValueError(f"{len(generator)} generators for {first.shape[0]} replicas: pass one each, see generators()")
    sizes = [p[0].numel() for p in params]
    if first.device.type == "cpu" and first.dtype in (torch.float32, torch.float64):
        return _normal_from_keys(params, sizes, generator)
    numbers = first.new_empty(len(generator), sum(sizes))
    for row, source in zip(numbers, generator, strict=True):
        row.normal_(generator=source)
    return tuple(n.reshape(p.shape) for n, p in zip(numbers.split(sizes, dim=1), params, strict=True))


def _normal_from_keys(params: Params, sizes: Sequence[int], generator: Sequence[torch.Generator]) -> Params:
    from lop_theory.algorithms.normals import normals

    drawn = [int(torch.empty((), dtype=torch.int64).random_(generator=source)) for source in generator]
    keys, dtype = np.array(drawn, np.uint64), str(params[0].dtype).removeprefix("torch.")
    pairs = [sum((size + 1) // 2 for size in sizes[:k]) for k in range(len(sizes))]
    rows = zip(params, sizes, pairs, strict=True)
    return tuple(torch.from_numpy(normals(keys, size, dtype, pair)).reshape(p.shape) for p, size, pair in rows)


def gradients(params: Params, ctx: Context) -> Params:
    """∂ ctx.loss / ∂ params. Replicas do not interact, so the gradient of the sum of their losses is that of each.

    >>> ctx = mlp_context((torch.ones(1, 1, 1), torch.zeros(1, 1)), torch.ones(1, 1), torch.zeros(1, 1))
    >>> gradients((torch.ones(1, 1, 1), torch.zeros(1, 1)), ctx)
    (tensor([[[1.]]]), tensor([[1.]]))
    """
    leaves = [p.detach().requires_grad_() for p in params]
    with torch.enable_grad():
        total = ctx.loss(tuple(leaves)).sum()
    return torch.autograd.grad(total, leaves)


# -- layered nets with replicas --------------------------------------------------------------------------------------------


def mlp_init(widths: Sequence[int], generator: Sequence[torch.Generator], dtype: torch.dtype = torch.float64) -> Params:
    """Kaiming-uniform weights (bound √(6 / fan-in), He et al. 2015) and zero biases of an MLP, replica r from generator r.

    >>> [tuple(p.shape) for p in mlp_init([2, 3, 1], generators([0, 1]))]
    [(2, 3, 2), (2, 3), (2, 1, 3), (2, 1)]
    """
    params: list[Tensor] = []
    for fan_in, fan_out in pairwise(widths):
        bound = math.sqrt(6 / fan_in)
        rows = [
            torch.empty(fan_out, fan_in, dtype=dtype, device=g.device).uniform_(-bound, bound, generator=g)
            for g in generator
        ]
        params += [torch.stack(rows), torch.zeros(len(generator), fan_out, dtype=dtype, device=rows[0].device)]
    return tuple(params)


def mlp_forward(
    params: Params, x: Tensor, activation: str = "relu", masks: Sequence[Tensor] | None = None
) -> LayerTrace:
    """Forward pass of R layered nets on x [N, n_0] (the same for all) or [R, N, n_0].

    ``masks`` multiply the hidden activations, [R, N, n_l] each (dropout). Where a gradient is recorded the products are
    W hᵀ, not h Wᵀ, which is up to four times as fast, so that the gradient δᵀ h of W has the memory layout of W: otherwise
    every update of W, of a velocity or of a moment reads across it.

    >>> mlp_forward((torch.ones(2, 1, 3), torch.zeros(2, 1)), torch.ones(5, 3)).output.shape
    torch.Size([2, 5, 1])
    """
    phi = get_activation(activation).tensor[0]
    h = x.expand(params[0].shape[0], *x.shape[-2:])
    recorded = torch.is_grad_enabled() and any(p.requires_grad for p in params)
    z_all: list[Tensor] = []
    h_all: list[Tensor] = []
    for k in range(0, len(params), 2):
        if recorded:
            z = torch.baddbmm(params[k + 1].unsqueeze(2), params[k], h.mT).mT
        else:
            z = torch.baddbmm(params[k + 1].unsqueeze(1), h, params[k].mT)
        if k + 2 == len(params):
            return LayerTrace(tuple(z_all), tuple(h_all), z)
        h = phi(z) if masks is None else phi(z) * masks[k // 2]
        z_all.append(z)
        h_all.append(h)
    raise ValueError(f"{len(params)} parameters: a layered net has (W_1, b_1, …, W_L, b_L) with L ≥ 1")


def mlp_loss(output: Tensor, y: Tensor, kind: str = "mse") -> Tensor:
    """Loss [R] of outputs [R, N, O]: "mse" is ½ mean_n ‖f − y‖², "mse_sum" N times that, "cross_entropy" a mean (y integer).

    y is shared by the replicas ([N, O] or [N]) or has a leading R.

    >>> mlp_loss(torch.ones(1, 2, 1), torch.zeros(2, 1))
    tensor([0.5000])
    """
    if kind == "cross_entropy":
        classes = y.expand(output.shape[:2]).unsqueeze(-1)
        return -torch.log_softmax(output, dim=-1).gather(-1, classes).squeeze(-1).mean(dim=1)
    if kind not in ("mse", "mse_sum"):
        raise ValueError(f"kind = {kind!r}: the losses are 'mse', 'mse_sum' and 'cross_entropy'")
    total = 0.5 * (output - y).square().sum(dim=(1, 2))
    return total / output.shape[1] if kind == "mse" else total


def mlp_context(
    params: Params,
    x: Tensor,
    y: Tensor,
    activation: str = "relu",
    kind: str = "mse",
    step: int = 0,
    generator: tuple[torch.Generator, ...] = (),
    buffer: Tensor | None = None,
    masks: Sequence[Tensor] | None = None,
) -> Context:
    """The context of one update of R layered nets on the minibatch (x, y).

    ``buffer``: inputs of the regulariser's batch (default: x). ``masks``: dropout, in loss and trace. The trace is that of
    ``params``, without a graph; it is computed when it is first looked at, so that rules that do not look pay nothing.

    >>> ctx = mlp_context((torch.ones(2, 1, 3), torch.zeros(2, 1)), torch.ones(5, 3), torch.zeros(5, 1))
    >>> ctx.loss((torch.ones(2, 1, 3), torch.zeros(2, 1)))
    tensor([4.5000, 4.5000])
    """
    held = x if buffer is None else buffer

    @torch.no_grad()
    def trace() -> LayerTrace:
        return mlp_forward(params, x, activation, masks)

    return _Traced(
        loss=lambda p: mlp_loss(mlp_forward(p, x, activation, masks).output, y, kind),
        features=lambda p: mlp_forward(p, held, activation).h,
        trace=trace,  # type: ignore[arg-type]
        step=step,
        generator=generator,
    )
