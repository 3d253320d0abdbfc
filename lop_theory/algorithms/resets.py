r"""Resets: units, layers or the whole net start again from their initial distribution.

================  ============================================  ======================  ==================================
algorithm         what starts again                             when                    source
================  ============================================  ======================  ==================================
redo              hidden units with normalised activity ≤ τ     every F updates         Sokar et al., 2302.12902
layer_reset       the given layers                              every F updates         Nikishin et al., 2205.07802
head_reset        the last layer                                every F updates         baseline of 2306.13812
full_reset        everything, and the optimiser                 every F updates         "retrained" of 2306.13812
================  ============================================  ======================  ==================================

(Continual Backprop, which chooses units by utility and age, is in ``continual_backprop``.) A reset happens after the
update that completes a period, so that the next update sees the new net; with F the length of a task that is the start of
the next task. All resets take the optimiser as argument and make it forget what it knew about the replaced weights.

**Replacing hidden unit i of layer l** (:func:`replace_units`) means: new incoming weights from the initial distribution
U(−b, b), bias 0, outgoing weights 0. With a transfer f̂, b_{l+1} ← b_{l+1} + W_{l+1}[:, i] f̂_i comes first, which leaves
the function of the net unchanged where unit i was constant and equal to f̂_i.

**Shapes.** Parameters are (W_1, b_1, …, W_L, b_L). W_l is [R, n_l, …]: dense [R, n_l, n_{l−1}] or convolutional
[R, n_l, n_{l−1}, kh, kw]; a unit of a convolution is an output channel. Its outgoing weights are read from
W_{l+1} as [R, n_{l+1}, n_l, q]: q = 1 between dense layers, q = kh·kw into a convolution, and q = H·W where a dense layer
follows a flattened map (PyTorch flattens channel by channel, so that channel i owns columns i q, …, i q + q − 1).
Gains and shifts (γ_1, β_1, …) of a normalised net may stand behind the layers (``normalization``); new units have 1 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from lop_theory.algorithms.base import Algorithm, Context, Params, Scalar, check_scalar, forget, per_replica
from lop_theory.algorithms.normalization import split_affine

__all__ = [
    "Bound",
    "kaiming_bound",
    "torch_bound",
    "zero_bound",
    "hidden_units",
    "outgoing",
    "touched",
    "fresh_rows",
    "replace_units",
    "ResetState",
    "dormancy",
    "redo",
    "layer_reset",
    "head_reset",
    "full_reset",
]

Bound: TypeAlias = Callable[[int], float]
"""fan-in → b of the initial distribution U(−b, b)."""


def kaiming_bound(fan_in: int) -> float:
    """√(6 / fan-in), for ReLU (He et al. 2015): the distribution of :func:`~lop_theory.algorithms.base.mlp_init`.

    >>> kaiming_bound(6)
    1.0
    """
    return math.sqrt(6 / fan_in)


def torch_bound(fan_in: int) -> float:
    """√(1 / fan-in), the default of ``torch.nn.Linear`` and ``torch.nn.Conv2d``.

    >>> torch_bound(4)
    0.5
    """
    return math.sqrt(1 / fan_in)


def zero_bound(fan_in: int) -> float:
    """0: the new weights are zero (the heads of Continual ImageNet).

    >>> zero_bound(4)
    0.0
    """
    return 0.0


# -- the units of a layered net --------------------------------------------------------------------------------------------


def hidden_units(params: Params) -> tuple[int, ...]:
    """(n_1, …, n_{L−1}): the number of units (output channels) of each hidden layer.

    >>> hidden_units((torch.zeros(2, 3, 5), torch.zeros(2, 3), torch.zeros(2, 1, 3), torch.zeros(2, 1)))
    (3,)
    """
    params, affine = split_affine(params)
    shapes = [tuple(p.shape) for p in params]
    if len(params) % 2 or len(params) == 0:
        raise ValueError(
            f"{len(params)} parameters: a layered net has (W_1, b_1, …, W_L, b_L); give every layer a bias"
        )
    for l in range(0, len(params), 2):
        if len(shapes[l]) < 3 or shapes[l + 1] != shapes[l][:2]:
            raise ValueError(
                f"layer {l // 2 + 1} has weights {shapes[l]} and biases {shapes[l + 1]}: they must be [R, n, …] and [R, n]"
            )
    for l in range(0, len(params) - 2, 2):
        if math.prod(shapes[l + 2][2:]) % shapes[l][1]:
            raise ValueError(
                f"layer {l // 2 + 2} has weights {shapes[l + 2]}, layer {l // 2 + 1} has {shapes[l][1]} units: the fan-in "
                "must be a multiple of that number; check the order of the parameters"
            )
    if affine and [p.shape for p in affine] != [b.shape for b in params[1:-2:2] for _ in ("gain", "shift")]:
        raise ValueError(
            f"parameters of shapes {[tuple(p.shape) for p in affine]} after the layers: only a gain and a shift [R, n] of each "
            "hidden layer may stand there, see normalization.with_affine"
        )
    return tuple(shape[1] for shape in shapes[0:-2:2])


def outgoing(params: Params, layer: int) -> Tensor:
    """Outgoing weights [R, n_{l+1}, n_l, q] of the units of hidden layer ``layer`` (0 is the first)."""
    units, weight = params[2 * layer].shape[1], params[2 * layer + 2]
    return weight.reshape(*weight.shape[:2], units, -1)


def touched(params: Params, masks: Sequence[Tensor]) -> Params:
    """Which weights belong to the masked units (bool [R, n_l] per hidden layer): incoming, bias, outgoing, gain and shift.

    >>> params = (torch.zeros(1, 2, 1), torch.zeros(1, 2), torch.zeros(1, 1, 2), torch.zeros(1, 1))
    >>> [t.int().flatten().tolist() for t in touched(params, [torch.tensor([[True, False]])])]
    [[1, 0], [1, 0], [1, 0], [0]]
    """
    found = [torch.zeros_like(p, dtype=torch.bool) for p in params]
    first = len(split_affine(params)[0])
    for layer, mask in enumerate(masks):
        for k in range(first + 2 * layer, min(first + 2 * layer + 2, len(params))):
            found[k] |= mask
        found[2 * layer] |= _rows(mask, params[2 * layer])
        found[2 * layer + 1] |= mask
        view = outgoing(tuple(found), layer)
        found[2 * layer + 2] = (view | mask[:, None, :, None]).reshape(found[2 * layer + 2].shape)
    return tuple(found)


def _rows(mask: Tensor, weight: Tensor) -> Tensor:
    """A mask of units [R, n] in a shape that broadcasts against their weights [R, n, …]."""
    return mask.reshape(*mask.shape, *[1] * (weight.ndim - 2))


def fresh_rows(weight: Tensor, mask: Tensor, generator: Sequence[torch.Generator], bound: Bound) -> Tensor:
    """``weight`` [R, n, …] with new incoming weights U(−b, b) for the masked units [R, n].

    Replica r draws from ``generator[r]``, and only if it has a masked unit: one block, in the order of the units.
    """
    new, tail = weight.clone(), weight.shape[2:]
    limit = bound(math.prod(tail))
    for r in mask.any(dim=1).nonzero().flatten().tolist():
        rows = mask[r]
        block = torch.empty(int(rows.sum()), *tail, dtype=weight.dtype, device=weight.device)
        new[r, rows] = block.uniform_(-limit, limit, generator=_generator(generator, r, weight))
    return new


def _generator(generator: Sequence[torch.Generator], r: int, like: Tensor) -> torch.Generator:
    if len(generator) != like.shape[0]:
        raise ValueError(f"{len(generator)} generators for {like.shape[0]} replicas: pass one each, see generators()")
    if torch.device(generator[r].device).type != like.device.type:
        raise ValueError(
            f"generator {r} is on {generator[r].device}, the parameters are on {like.device}: use generators(seeds, device)"
        )
    return generator[r]


def replace_units(
    params: Params,
    masks: Sequence[Tensor],
    generator: Sequence[torch.Generator],
    bound: Bound = kaiming_bound,
    transfer: Sequence[Tensor] | None = None,
) -> Params:
    """The net with the masked hidden units (bool [R, n_l] per hidden layer) replaced, lower layers first.

    ``transfer``: f̂ [R, n_l] per layer, what each unit is worth to the bias of the next layer; ``None``: nothing.
    Where units of adjacent layers are replaced together, the weight between them is a new incoming weight of the upper one;
    the net does not see it, because the upper unit has no outgoing weight.

    >>> from lop_theory.algorithms.base import generators
    >>> params = (torch.ones(1, 1, 2), torch.ones(1, 1), torch.full((1, 1, 1), 3.0), torch.ones(1, 1))
    >>> new = replace_units(params, [torch.tensor([[True]])], generators([0]), transfer=[torch.tensor([[2.0]])])
    >>> new[1].item(), new[2].item(), new[3].item()    # own bias, outgoing weight, next bias 1 + 3·2
    (0.0, 0.0, 7.0)
    """
    new, first = list(params), len(split_affine(params)[0])
    for layer, mask in enumerate(masks):
        if not bool(mask.any()):
            continue
        if len(params) > first:
            gain = first + 2 * layer
            new[gain], new[gain + 1] = new[gain].masked_fill(mask, 1), new[gain + 1].masked_fill(mask, 0)
        view, columns = outgoing(tuple(new), layer), mask[:, None, :, None]
        if transfer is not None:
            given = torch.where(columns, view * transfer[layer][:, None, :, None], 0.0)
            new[2 * layer + 3] = new[2 * layer + 3] + given.sum(dim=(2, 3))
        new[2 * layer] = fresh_rows(new[2 * layer], mask, generator, bound)
        new[2 * layer + 1] = new[2 * layer + 1].masked_fill(mask, 0)
        new[2 * layer + 2] = view.masked_fill(columns, 0).reshape(new[2 * layer + 2].shape)
    return tuple(new)


def activity(h: Tensor, units: int) -> Tensor:
    """Activations [R, N, n] or [R, N, n, H, W] as [R, N·H·W, n]: positions of a map count as samples."""
    if h.ndim < 3 or h.shape[2] != units:
        raise ValueError(f"activations of shape {tuple(h.shape)} for a layer of {units} units: give [R, N, {units}, …]")
    return h if h.ndim == 3 else h.flatten(3).transpose(2, 3).flatten(1, 2)


# -- ReDo ------------------------------------------------------------------------------------------------------------------


class ResetState(NamedTuple):
    """The state of the optimiser inside; when to reset follows from ``ctx.step``."""

    inner: Any


def dormancy(h: Tensor) -> Tensor:
    """ReDo, Eq. 1: s_i = mean_n |h_ni| / mean_j mean_n |h_nj| [R, n] of activations [R, N, n].

    A layer without any activity has s = 0: all of its units are dormant.

    >>> dormancy(torch.tensor([[[0.0, 1.0, -3.0, 0.0]]]))
    tensor([[0., 1., 3., 0.]])
    """
    size = h.abs().mean(dim=1)
    total = size.mean(dim=1, keepdim=True)
    return torch.where(total > 0, size / torch.where(total > 0, total, 1), 0.0)


def redo(inner: Algorithm, threshold: Scalar = 0.025, period: int = 1000, bound: Bound = kaiming_bound) -> Algorithm:
    """ReDo (2302.12902, Algorithm 1): after every ``period`` updates replace the units with :func:`dormancy` ≤ ``threshold``.

    The activity is that of the current minibatch, before the update. There is no transfer to the next bias.

    >>> from lop_theory.algorithms.descent import sgd
    >>> redo(sgd(0.1), 0.1, period=500).name
    'redo(sgd)'
    """
    check_scalar("threshold", threshold)
    _check_period(period)

    def update(params: Params, grads: Params, state: ResetState, ctx: Context) -> tuple[Params, ResetState]:
        params, after = inner.update(params, grads, state.inner, ctx)
        if (ctx.step + 1) % period:
            return params, ResetState(after)
        scores = [dormancy(activity(h, n)) for h, n in zip(ctx.trace.h, hidden_units(params), strict=True)]
        masks = [s <= per_replica(threshold, s) for s in scores]
        return replace_units(params, masks, ctx.generator, bound), ResetState(forget(after, touched(params, masks)))

    def init(params: Params) -> ResetState:
        hidden_units(params)
        return ResetState(inner.init(params))

    return Algorithm(f"redo({inner.name})", init, update)


# -- layers ----------------------------------------------------------------------------------------------------------------


def layer_reset(
    inner: Algorithm, layers: Sequence[int] | None, period: int, bound: Bound = kaiming_bound, name: str = "layer_reset"
) -> Algorithm:
    """New weights U(−b, b), zero biases and shifts, and gains 1 for the given layers after every ``period`` updates.

    Layer 0 is the first, −1 the last, ``None`` means all. If all layers start again, so does the optimiser
    (``inner.init``); else it forgets the replaced weights.

    >>> from lop_theory.algorithms.descent import sgd
    >>> layer_reset(sgd(0.1), layers=(-1, -2), period=500).name
    'layer_reset(sgd)'
    """
    _check_period(period)

    def chosen(params: Params) -> set[int]:
        count = len(hidden_units(params)) + 1
        for layer in layers or ():
            if not -count <= layer < count:
                raise ValueError(f"layer {layer} of a net with {count} layers: give numbers in [{-count}, {count})")
        return set(range(count)) if layers is None else {layer % count for layer in layers}

    def init(params: Params) -> ResetState:
        chosen(params)
        return ResetState(inner.init(params))

    def update(params: Params, grads: Params, state: ResetState, ctx: Context) -> tuple[Params, ResetState]:
        params, after = inner.update(params, grads, state.inner, ctx)
        if (ctx.step + 1) % period:
            return params, ResetState(after)
        selected, new, first = chosen(params), list(params), len(split_affine(params)[0])
        for layer in sorted(selected):
            weight, bias = params[2 * layer], params[2 * layer + 1]
            new[2 * layer] = fresh_rows(weight, torch.ones_like(bias, dtype=torch.bool), ctx.generator, bound)
            new[2 * layer + 1] = torch.zeros_like(bias)
            for k in range(first + 2 * layer, min(first + 2 * layer + 2, len(params))):
                new[k] = torch.full_like(params[k], 1 - k % 2)
        if 2 * len(selected) == first:
            return tuple(new), ResetState(inner.init(tuple(new)))
        layers_of = [(k if k < first else k - first) // 2 for k in range(len(params))]
        masks = tuple(torch.full_like(p, l in selected, dtype=torch.bool) for l, p in zip(layers_of, params))
        return tuple(new), ResetState(forget(after, masks))

    return Algorithm(f"{name}({inner.name})", init, update)


def head_reset(inner: Algorithm, period: int, bound: Bound = kaiming_bound) -> Algorithm:
    """A new last layer after every ``period`` updates.

    >>> from lop_theory.algorithms.descent import sgd
    >>> head_reset(sgd(0.1), period=500, bound=zero_bound).name
    'head_reset(sgd)'
    """
    return layer_reset(inner, (-1,), period, bound, "head_reset")


def full_reset(inner: Algorithm, period: int, bound: Bound = kaiming_bound) -> Algorithm:
    """A new net and a new optimiser after every ``period`` updates.

    >>> from lop_theory.algorithms.base import Context, LayerTrace, generators
    >>> from lop_theory.algorithms.descent import sgd
    >>> params = (torch.ones(1, 1, 2), torch.ones(1, 1))
    >>> ctx = Context(lambda p: p[1][:, 0], lambda p: (), LayerTrace((), (), params[1]), 0, generators([0]))
    >>> rule = full_reset(sgd(0.1), period=1)
    >>> rule.update(params, params, rule.init(params), ctx)[0][1]
    tensor([[0.]])
    """
    return layer_reset(inner, None, period, bound, "full_reset")


def _check_period(period: int) -> None:
    if not isinstance(period, int) or period < 1:
        raise ValueError(
            f"period = {period!r}: resets happen after every period-th update; give an integer of at least 1"
        )
