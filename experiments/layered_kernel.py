r"""Layered ReLU nets with small minibatches, one replica at a time: a compiled step without autograd, in place.

With one or a few examples per update the time of the usual recipe goes into bookkeeping and memory traffic. Here the weights
of layer l are stored **transposed**, row j holding what unit j of layer l − 1 sends to layer l, because then a unit that is
silent (h_j = 0: about half of all ReLU units, four fifths of the pixels of MNIST) costs nothing. With a minibatch of B,

    forward     z_s = b + Σ_j h_sj W_j,      h' = max(z, 0)
    loss        δ_s = (softmax(z_s) − 1[y_s]) / B                                          at the outputs
    backward    δ'_sj = Σ_i W_ji δ_si,                                                     only where h_sj ≠ 0
    gradient    G_j = Σ_s h_sj δ_s                                                         of row j, Σ_s δ_s of the bias
    update      W_j −= η (G_j + λ W_j)                                                     or the row's moments, as ``descent``

need only the rows j with some h_sj ≠ 0, and the last three are one pass over the row if B = 1. No gradient is stored.

Weight decay multiplies all weights by 1 − ηλ, so that factor is kept aside: the weights are c W̃ with c ← (1 − ηλ) c, the
gradient step on W̃ is η / c, and W̃ is touched no more than without decay. The sums of |w| that Continual Backprop
(:mod:`experiments.layered_units`) wants change in the same pass.

Replicas never meet, so each runs through a block of minibatches alone while its weights stay in the cache, and the bits of a
replica depend neither on its neighbours nor on the number of threads (``torch.get_num_threads()``) that share them.
What does not fit the cache is bound by memory: such nets gain nothing from one program, run them in processes, one or few
seeds each (``experiments.sweep``). ``python -m benchmarks.bench_run`` measures both.

Same mathematics as ``run_update`` and ``lop_theory.algorithms`` up to rounding (``tests/experiments/test_layered_kernel.py``):
backprop by SGD, momentum and Adam, L2 with SGD, and Continual Backprop around any of the three.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.layered_net import (
    ADAM,
    MOMENTUM,
    SGD,
    Floats,
    Ints,
    Net,
    Rule,
    add,
    add_four,
    compiled,
    count_size,
    dot,
    dot_then_add,
    dot_then_add_counted,
    inlined,
    layer_of,
    offset,
    scale_weights,
    size_of,
)
from experiments.layered_units import Units, empty_units, observe_layers, release, sum_weights

__all__ = [
    "DONE",
    "LOSS",
    "GRADIENT",
    "REPLACE",
    "SGD",
    "MOMENTUM",
    "ADAM",
    "Net",
    "Rule",
    "Units",
    "empty_units",
    "release",
    "train",
]

DONE, LOSS, GRADIENT, REPLACE = range(4)  # why train() came back; the middle two are positions in run_update.REASONS


class Scratch(NamedTuple):
    """Memory for minibatches of up to ``most`` examples; of a smaller one the beginning of each part is used."""

    most: int
    acts: Floats  # activations of layer 1, then of layer 2, …: ``most`` n_l numbers each
    signal: Floats  # error signals at the output and at the input of a layer [most · widest]
    signal_before: Floats
    row: Floats  # [widest]
    active: Ints  # [widest + 1] units that are not silent
    members: Ints  # [most + 1] examples in which a unit is not silent


@compiled
def empty_scratch(widths: Ints, most: int, like: Floats) -> Scratch:
    """Memory of the dtype of ``like``."""
    widest, numbers = widths.max(), most * widths[1:].sum()
    return Scratch(
        most,
        np.empty(numbers, like.dtype),
        np.empty(most * widest, like.dtype),
        np.empty(most * widest, like.dtype),
        np.empty(widest, like.dtype),
        np.empty(widest + 1, np.int64),
        np.empty(most + 1, np.int64),
    )


# -- forward ---------------------------------------------------------------------------------------------------------------


@compiled
def multiply(weight: Floats, bias: Floats, h: Floats, z: Floats, scale: float, active: Ints) -> None:
    """z = b + scale · h W for a batch h [B, n], over the h_j that are not 0, four at a time."""
    for s in range(h.shape[0]):
        count, own = 0, h[s]
        for j in range(own.size):
            active[count] = j
            count += own[j] != 0
        z[s] = bias
        whole = count - count % 4
        for k in range(0, whole, 4):
            j0, j1, j2, j3 = active[k], active[k + 1], active[k + 2], active[k + 3]
            a = (scale * own[j0], scale * own[j1], scale * own[j2], scale * own[j3])
            add_four(z[s], a, weight[j0], weight[j1], weight[j2], weight[j3])
        for k in range(whole, count):
            add(z[s], scale * own[active[k]], weight[active[k]])


@compiled
def rectify(z: Floats) -> None:
    """max(z, 0), in place."""
    for s in range(z.shape[0]):
        for i in range(z.shape[1]):
            z[s, i] = z[s, i] * (z[s, i] > 0) if z[s, i] == z[s, i] else z[s, i]  # what is not a number stays so


@compiled
def cross_entropy(output: Floats, y: Ints, counted: Ints, delta: Floats) -> tuple[float, int]:
    """Mean loss and number of right answers among the ``counted`` outputs; δ = (softmax − 1[y]) / B."""
    batch, loss, right = output.shape[0], 0.0, 0
    delta[:] = 0
    for s in range(batch):
        best = counted[0]
        for c in counted:
            if output[s, c] > output[s, best]:
                best = c
        total, top = 0.0, np.float64(output[s, best])
        for c in counted:
            total += math.exp(output[s, c] - top)
        for c in counted:
            delta[s, c] = (math.exp(output[s, c] - top) / total - (c == y[s])) / batch
        loss += math.log(total) + top - output[s, y[s]]
        right += best == y[s]
    return loss / batch, right


@compiled
def forward(net: Net, scale: float, x: Floats, scratch: Scratch) -> Floats:
    """Outputs [B, n_L] of the net with weights ``scale`` · W; the activations of all layers stay in ``scratch.acts``."""
    layers, size, begin, h = net.widths.size - 1, len(x), 0, x
    for layer in range(layers):
        weight, bias = layer_of(net, net.theta, layer)
        z = scratch.acts[begin : begin + size * bias.size].reshape(size, bias.size)
        multiply(weight, bias, h, z, scale, scratch.active)
        if layer < layers - 1:
            rectify(z)
        h, begin = z, begin + scratch.most * bias.size
    return h


# -- update of a row -------------------------------------------------------------------------------------------------------


@compiled
def momentum_row(row: Floats, v: Floats, g: Floats, rule: Rule) -> None:
    for i in range(row.size):
        v[i] = rule.mu * v[i] + g[i]
        row[i] -= rule.step_size * v[i]


@compiled
def adam_row(row: Floats, m: Floats, s: Floats, g: Floats, rate: float, root: float, rule: Rule) -> None:
    for i in range(row.size):
        m[i] += (g[i] - m[i]) * rule.beta1_complement
        s[i] = rule.beta2_own * s[i] + (g[i] * g[i]) * rule.beta2_complement
        row[i] -= rate * (m[i] / (math.sqrt(s[i]) / root + rule.adam_eps))


@compiled
def gather(row: Floats, factor: float, h: Floats, j: int, delta: Floats, members: Ints, count: int) -> None:
    """row += factor · Σ_s h_sj δ_s over the ``count`` members."""
    whole = count - count % 4
    for k in range(0, whole, 4):
        s0, s1, s2, s3 = members[k], members[k + 1], members[k + 2], members[k + 3]
        a = (factor * h[s0, j], factor * h[s1, j], factor * h[s2, j], factor * h[s3, j])
        add_four(row, a, delta[s0], delta[s1], delta[s2], delta[s3])
    for k in range(whole, count):
        add(row, factor * h[members[k], j], delta[members[k]])


@compiled
def moments(net: Net, row: Floats, begin: int, g: Floats, rate: float, root: float, rule: Rule) -> None:
    """A row, or a bias, that begins at ``begin`` of the flat arrays: moments of its gradient g, and the step."""
    own = slice(begin, begin + row.size)
    if rule.optimizer == MOMENTUM:
        momentum_row(row, net.first[own], g, rule)
    else:
        adam_row(row, net.first[own], net.second[own], g, rate, root, rule)


@compiled
def corrections(rule: Rule, count: int) -> tuple[float, float]:
    """η / (1 − β₁ᵗ) and √(1 − β₂ᵗ) of Adam; else η and 1."""
    rate, root = rule.step_size, rule.one
    if rule.optimizer == ADAM:
        rate = rule.step_size / (rule.one * (1.0 - rule.beta1**count))
        root = rule.one * math.sqrt(1.0 - rule.beta2**count)
    return rate * rule.one, root * rule.one


# -- backward --------------------------------------------------------------------------------------------------------------


@inlined
def descend(
    net: Net, layer: int, h: Floats, delta: Floats, before: Floats, scale: float, rate: float, root: float,
    rule: Rule, into: Floats, out: Floats, members: Ints, g: Floats,
) -> None:  # fmt: skip
    """Update layer ``layer`` by δ [B, n_l], and write the error signal ``before`` [B, n_{l−1}] at its input (but for layer 0).

    ``into`` [n_l] and ``out`` [n_{l−1}] follow Σ|w|, if they are not empty; ``members`` [B] and ``g`` [n_l] are scratch.
    """
    weight, bias = layer_of(net, net.theta, layer)
    batch, factor = h.shape[0], -rule.step_size / (scale - rule.step_size * rule.weight_decay * scale)
    for j in range(weight.shape[0]):
        row, count = weight[j], 0
        for s in range(batch):
            members[count] = s
            count += h[s, j] != 0
            before[s, j] = 0
        if count == 0 and rule.optimizer == SGD:
            continue
        if rule.optimizer == SGD and count == 1 and layer > 0:
            s = members[0]
            if into.size:
                total, out[j] = dot_then_add_counted(row, factor * h[s, j], delta[s], into)
            else:
                total = dot_then_add(row, factor * h[s, j], delta[s])
                if out.size:
                    out[j] = size_of(row)
            before[s, j] = scale * total
        else:
            if into.size:
                count_size(row, -rule.one, into)
            if layer > 0:
                for k in range(count):
                    before[members[k], j] = scale * dot(row, delta[members[k]])
            if rule.optimizer == SGD:
                gather(row, factor, h, j, delta, members, count)
            else:
                g[:] = 0
                gather(g, rule.one, h, j, delta, members, count)
                begin = offset(net.widths, layer) + j * row.size
                moments(net, row, begin, g, rate, root, rule)
            if into.size:
                count_size(row, rule.one, into)
            if out.size:
                out[j] = size_of(row)
    g[:] = 0
    for s in range(batch):
        add(g, rule.one, delta[s])
    if rule.optimizer == SGD:
        for i in range(bias.size):
            bias[i] -= rule.step_size * (g[i] + rule.weight_decay * bias[i])
    else:
        moments(net, bias, offset(net.widths, layer) + weight.size, g, rate, root, rule)


@inlined
def backward(
    net: Net, units: Units, rule: Rule, x: Floats, scale: float, rate: float, root: float, scratch: Scratch
) -> bool:
    """Error signals and updates from the last layer to the first; ``scratch.signal`` holds δ of the outputs.

    False, with the layers above updated, where a gradient is not finite: ‖δ‖₁ ‖h‖₁ is Σ|G| or more.
    """
    widths, size = net.widths, len(x)
    layers, signal, signal_before = widths.size - 1, scratch.signal, scratch.signal_before
    begin = widths[1:-1].sum()  # of the units of the layer, among those of all layers
    for layer in range(layers - 1, -1, -1):
        width, h = widths[layer], x
        delta = signal[: size * widths[layer + 1]].reshape(size, widths[layer + 1])
        before = signal_before[: size * width].reshape(size, width)
        first = begin - width
        if layer > 0:
            h = scratch.acts[first * scratch.most : first * scratch.most + size * width].reshape(size, width)
        if not np.isfinite(size_of(delta.reshape(-1)) * size_of(h.reshape(-1))):
            return False
        into = units.into[begin : begin + widths[layer + 1]] if layer < layers - 1 else units.into[:0]
        out = units.out[first:begin] if layer > 0 else units.out[:0]
        descend(net, layer, h, delta, before, scale, rate, root, rule, into, out[: width * rule.replaces],
                scratch.members, scratch.row[: widths[layer + 1]])  # fmt: skip
        signal, signal_before, begin = signal_before, signal, first
    return True


# -- the loop --------------------------------------------------------------------------------------------------------------


@compiled
def train(
    net: Net, units: Units, rule: Rule, x: Floats, y: Ints, batch: int, counted: Ints, first: int, made: int,
    losses: NDArray[np.float64], rights: Ints,
) -> tuple[int, int]:  # fmt: skip
    """Updates on the minibatches number ``first``, … of x [N, d] and y [N], ``batch`` examples each (the last may be smaller).

    ``made``: updates before minibatch 0 (Adam's count). Loss and right answers of each minibatch, before its update, go to
    ``losses`` and ``rights`` [K]; ``counted``: the outputs that take part. Returns the minibatch at which it stopped, and why:
    DONE after the last; LOSS or GRADIENT that is not finite, before the update; REPLACE after an update that made units due
    (call :func:`~experiments.layered_units.release`, then go on with the next).
    """
    scratch = empty_scratch(net.widths, min(batch, len(x)), x)
    if rule.replaces and first == 0:
        sum_weights(net, units.into, units.out, rule)
    scale, status, k = rule.one, DONE, first
    while k < losses.size and status == DONE:
        own, labels = x[k * batch : (k + 1) * batch], y[k * batch : (k + 1) * batch]
        output = forward(net, scale, own, scratch)
        delta = scratch.signal[: output.size].reshape(output.shape)
        losses[k], rights[k] = cross_entropy(output, labels, counted, delta)
        if not np.isfinite(losses[k]):
            status = LOSS
            break
        rate, root = corrections(rule, made + k + 1)
        if not backward(net, units, rule, own, scale, rate, root, scratch):
            status = GRADIENT
            break
        scale -= rule.step_size * rule.weight_decay * scale
        if scale < 1e-6:
            scale_weights(net, scale)
            scale = rule.one
        k += 1
        if rule.replaces and observe_layers(net, units, rule, scratch.acts, scratch.most, len(own)):
            status = REPLACE
    if scale != rule.one:
        scale_weights(net, scale)
    return k, status
