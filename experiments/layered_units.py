r"""Continual Backprop in the compiled step: which units are due, and their replacement.

After an update, with the activations h [B, n] of a hidden layer before it and the weights after it, unit i has

    mean       m ← η m + (1 − η) · (1/B) Σ_s h_si            power   π ← η π  (ηᵗ after t updates; t restarts with the unit)
    centre     f̂ = m / (1 − π)
    utility    u ← η u + (1 − η) · (1/B) Σ_s |h_si − f̂| · Σ|w_out| / Σ|w_in|,       ranked by u / (1 − π)

and of the units older than ``maturity``, the ⌊ρ · offered⌋ − paid lowest are due, where offered counts mature units over
all updates and paid those that were due. A replaced unit leaves f̂ · w_out to the next bias, gets fresh incoming and zero
outgoing weights, and is forgotten by the moments of the optimiser.

As ``lop_theory.algorithms.continual_backprop`` with its defaults: utility "overall", schedule "accumulate", "matched". The
sums Σ|w| are not taken anew for each update: :func:`sum_weights` makes them, and whoever changes a weight keeps them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.layered_net import Floats, Ints, Net, Rule, add, compiled, count_size, inlined, layer_of, size_of

__all__ = ["Units", "empty_units", "observe", "observe_layers", "release", "sum_weights"]


class Units(NamedTuple):
    """Continual Backprop's state: of all hidden units, layer after layer [H], and of the hidden layers [L − 1]."""

    utility: Floats
    mean: Floats
    power: Floats
    age: Ints
    offered: Ints
    paid: Ints
    chosen: NDArray[np.bool_]  # [H] units that are to be replaced now, and what each is worth to the next bias
    transfer: Floats
    into: Floats  # [H] Σ|w_in| and Σ|w_out|: exact at the first minibatch of a block, then kept up to date
    out: Floats


def empty_units(dtype: np.dtype) -> Units:
    """For rules that do not replace units.

    >>> empty_units(np.dtype("float32")).age.shape
    (0,)
    """
    none, counts = np.zeros(0, dtype), np.zeros(0, np.int64)
    return Units(none, none, none, counts, counts, counts, np.zeros(0, np.bool_), none, none, none)


@inlined
def sum_weights(net: Net, into: Floats, out: Floats, rule: Rule) -> None:
    """Σ|w_in| and Σ|w_out| of all hidden units [H]."""
    begin, into[:] = 0, 0
    for layer in range(net.widths.size - 1):
        weight, bias = layer_of(net, net.theta, layer)
        for j in range(weight.shape[0]):
            if layer < net.widths.size - 2:
                count_size(weight[j], rule.one, into[begin : begin + bias.size])
            if layer > 0:
                out[begin - weight.shape[0] + j] = size_of(weight[j])
        begin += bias.size


# -- after an update -------------------------------------------------------------------------------------------------------


@compiled
def observe(h: Floats, into: Floats, out: Floats, units: Units, begin: int, layer: int, rule: Rule) -> int:
    """Averages, utility and age of a hidden layer after an update; marks the units that are due and returns their number.

    As ``lop_theory.algorithms.continual_backprop`` with its defaults: utility "overall", schedule "accumulate", "matched".
    """
    batch, mature = h.shape[0], 0
    ranked = np.empty(h.shape[1], h.dtype)
    for i in range(h.shape[1]):
        k = begin + i
        total = rule.one - rule.one
        for s in range(batch):
            total += h[s, i]
        power = units.power[k] * rule.decay
        mean = rule.decay * units.mean[k] + rule.decay_complement * (total / batch)
        centre = mean / (rule.one - power)
        total = rule.one - rule.one
        for s in range(batch):
            total += abs(h[s, i] - centre)
        value = total / batch * out[i] / into[i]
        ranked[i] = np.inf
        if np.isfinite(value):
            units.power[k], units.mean[k] = power, mean
            units.utility[k] = rule.decay * units.utility[k] + rule.decay_complement * value
            ranked[i] = units.utility[k] / (rule.one - power)
        units.transfer[k], units.chosen[k] = centre, False
        units.age[k] += 1
        if units.age[k] <= rule.maturity:
            ranked[i] = np.inf
        mature += np.isfinite(ranked[i])
    units.offered[layer] += mature
    due = math.floor(rule.replacement_rate * units.offered[layer]) - units.paid[layer]
    units.paid[layer] += due
    for _ in range(min(due, mature)):
        worst = np.argmin(ranked)
        units.chosen[begin + worst], ranked[worst] = True, np.inf
    return due


@compiled
def observe_layers(net: Net, units: Units, rule: Rule, acts: Floats, most: int, size: int) -> int:
    """:func:`observe` on all hidden layers; ``acts`` as in :class:`~experiments.layered_kernel.Scratch`."""
    begin, due = 0, 0
    for layer in range(net.widths.size - 2):
        width = net.widths[layer + 1]
        h = acts[begin * most : begin * most + size * width].reshape(size, width)
        own = slice(begin, begin + width)
        due += observe(h, units.into[own], units.out[own], units, begin, layer, rule)
        begin += width
    return due


# -- replacement -----------------------------------------------------------------------------------------------------------


@inlined
def renew(net: Net, units: Units, layer: int, begin: int, i: int, fresh: Floats) -> None:
    """Unit i of a hidden layer, number ``begin`` + i of all: ``fresh`` incoming weights, bias 0, no outgoing weights."""
    weight, bias = layer_of(net, net.theta, layer)
    next_weight, _ = layer_of(net, net.theta, layer + 1)
    units.into[begin + i] = size_of(fresh)
    for j in range(weight.shape[0]):
        if layer > 0:
            units.out[begin - weight.shape[0] + j] += abs(fresh[j]) - abs(weight[j, i])
        weight[j, i] = fresh[j]
    bias[i] = 0
    for o in range(next_weight.shape[1]):
        if layer < net.widths.size - 3:
            units.into[begin + bias.size + o] -= abs(next_weight[i, o])
        next_weight[i, o] = 0
    units.out[begin + i] = 0


@compiled
def forget(net: Net, units: Units, layer: int, begin: int, i: int) -> None:
    """No moments of the unit's weights and no history of its use."""
    for flat in (net.first, net.second):
        if flat.size:
            weight, bias = layer_of(net, flat, layer)
            weight[:, i] = 0
            bias[i] = 0
            layer_of(net, flat, layer + 1)[0][i] = 0
    k = begin + i
    units.utility[k] = units.mean[k] = 0
    units.power[k], units.age[k] = 1, 0


@compiled
def release(net: Net, units: Units, fresh: Floats) -> None:
    """Replace the chosen units: f̂ to the next bias, ``fresh`` incoming weights, no outgoing ones, no history.

    ``fresh`` holds their incoming weights one after the other.
    """
    begin, taken = 0, 0
    for layer in range(net.widths.size - 2):
        fan_in, width = net.widths[layer], net.widths[layer + 1]
        next_weight, next_bias = layer_of(net, net.theta, layer + 1)
        for i in range(width):
            if units.chosen[begin + i]:
                add(next_bias, units.transfer[begin + i], next_weight[i])
        for i in range(width):
            if units.chosen[begin + i]:
                renew(net, units, layer, begin, i, fresh[taken : taken + fan_in])
                forget(net, units, layer, begin, i)
                taken += fan_in
        begin += width
