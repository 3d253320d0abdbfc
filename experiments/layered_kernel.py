r"""Layered ReLU nets with small minibatches, one replica at a time: a compiled step without autograd, in place.

With one or a few examples per update the time of the usual recipe goes into bookkeeping and memory traffic. Here the weights
of layer l are stored **transposed**, row j holding what unit j of layer l − 1 sends to layer l, because then a unit that is
silent (h_j = 0: about half of all ReLU units, four fifths of the pixels of MNIST) costs nothing: forward, error signal and
update of a row,

    z_i += h_j W_ji,      δ'_j = Σ_i W_ji δ_i      and      W_ji −= η h_j δ_i,

need only rows with h_j ≠ 0, and the last two are one pass over the row. No gradient is stored. Weight decay multiplies all weights
by 1 − ηλ; that factor is kept aside and weights are touched no more than without. The sums of |w| that Continual Backprop
wants change in the same pass.

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
from numba import njit
from numpy.typing import NDArray

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
    "train",
]

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

DONE, LOSS, GRADIENT, REPLACE = range(4)  # why train() came back; the middle two are positions in run_update.REASONS
SGD, MOMENTUM, ADAM = range(3)

compiled = njit(nogil=True, cache=True, error_model="numpy")
reduced = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz"})  # sums in vector lanes


class Net(NamedTuple):
    """One replica. Layer l owns W [n_{l−1}, n_l] (transposed) and then b [n_l] of ``theta`` [P]; moments are stored alike."""

    widths: Ints  # [L + 1]
    theta: Floats
    first: Floats  # [P] velocity, or first moments; [0] if the optimiser has none
    second: Floats  # [P] second moments, or [0]


class Rule(NamedTuple):
    """The learning rule; floats have the dtype of the net where nothing else is said."""

    optimizer: int
    step_size: float
    weight_decay: float  # λ of L2, SGD only
    mu: float
    beta1: float  # float64, like the next: powers are taken of these
    beta2: float
    beta1_complement: float
    beta2_complement: float
    beta2_own: float
    adam_eps: float
    replaces: bool  # whether units are observed and replaced (Continual Backprop)
    replacement_rate: float  # float64
    maturity: float  # float64
    decay: float  # η
    decay_complement: float
    one: float


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


# -- rows ------------------------------------------------------------------------------------------------------------------


@compiled
def _add(row: Floats, a: float, d: Floats) -> None:
    for i in range(row.size):
        row[i] += a * d[i]


@compiled
def _add_four(row: Floats, a: tuple[float, ...], d0: Floats, d1: Floats, d2: Floats, d3: Floats) -> None:
    for i in range(row.size):
        row[i] += (a[0] * d0[i] + a[1] * d1[i]) + (a[2] * d2[i] + a[3] * d3[i])


@reduced
def _dot(row: Floats, d: Floats) -> float:
    total = row[0] - row[0]
    for i in range(row.size):
        total += row[i] * d[i]
    return total


@reduced
def _dot_then_add(row: Floats, a: float, d: Floats) -> float:
    """Σ w_i d_i, and w_i += a d_i afterwards: each weight is read and written once."""
    total = row[0] - row[0]
    for i in range(row.size):
        w = row[i]
        total += w * d[i]
        row[i] = w + a * d[i]
    return total


@reduced
def _dot_then_add_counted(row: Floats, a: float, d: Floats, into: Floats) -> tuple[float, float]:
    """The same, while Σ|w| over the columns follows; also the new Σ|w| of the row."""
    total = row[0] - row[0]
    size = total
    for i in range(row.size):
        w = row[i]
        total += w * d[i]
        new = w + a * d[i]
        into[i] += abs(new) - abs(w)
        size += abs(new)
        row[i] = new
    return total, size


@reduced
def _size(row: Floats) -> float:
    total = abs(row[0]) - abs(row[0])
    for i in range(row.size):
        total += abs(row[i])
    return total


@compiled
def _count_size(row: Floats, sign: float, total: Floats) -> None:
    for i in range(row.size):
        total[i] += sign * abs(row[i])


@compiled
def _momentum_row(row: Floats, v: Floats, g: Floats, rule: Rule) -> None:
    for i in range(row.size):
        v[i] = rule.mu * v[i] + g[i]
        row[i] -= rule.step_size * v[i]


@compiled
def _adam_row(row: Floats, m: Floats, s: Floats, g: Floats, rate: float, root: float, rule: Rule) -> None:
    for i in range(row.size):
        m[i] += (g[i] - m[i]) * rule.beta1_complement
        s[i] = rule.beta2_own * s[i] + (g[i] * g[i]) * rule.beta2_complement
        row[i] -= rate * (m[i] / (math.sqrt(s[i]) / root + rule.adam_eps))


# -- forward ---------------------------------------------------------------------------------------------------------------


@compiled
def _offset(widths: Ints, layer: int) -> int:
    """Where the weights of a layer begin."""
    return ((widths[:layer] + 1) * widths[1 : layer + 1]).sum()


@compiled
def _layer(net: Net, flat: Floats, layer: int) -> tuple[Floats, Floats]:
    """W [n_{l−1}, n_l] and b [n_l] of a layer, as views of ``flat``."""
    begin, into, out = _offset(net.widths, layer), net.widths[layer], net.widths[layer + 1]
    end = begin + into * out
    return flat[begin:end].reshape(into, out), flat[end : end + out]


@compiled
def _multiply(weight: Floats, bias: Floats, h: Floats, z: Floats, scale: float, active: Ints) -> None:
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
            _add_four(z[s], a, weight[j0], weight[j1], weight[j2], weight[j3])
        for k in range(whole, count):
            _add(z[s], scale * own[active[k]], weight[active[k]])


@compiled
def _rectify(z: Floats) -> None:
    for s in range(z.shape[0]):
        for i in range(z.shape[1]):
            z[s, i] = z[s, i] * (z[s, i] > 0) if z[s, i] == z[s, i] else z[s, i]  # what is not a number stays so


@compiled
def _cross_entropy(output: Floats, y: Ints, counted: Ints, delta: Floats) -> tuple[float, int]:
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


# -- backward and update -----------------------------------------------------------------------------------------------------


@compiled
def _descend(
    net: Net, layer: int, h: Floats, delta: Floats, before: Floats, scale: float, rate: float, root: float,
    rule: Rule, into: Floats, out: Floats, members: Ints, g: Floats,
) -> None:  # fmt: skip
    """Update layer ``layer`` by δ [B, n_l], and write the error signal ``before`` [B, n_{l−1}] at its input (but for layer 0).

    ``into`` [n_l] and ``out`` [n_{l−1}] follow Σ|w|, if they are not empty; ``members`` [B] and ``g`` [n_l] are scratch.
    """
    weight, bias = _layer(net, net.theta, layer)
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
                total, out[j] = _dot_then_add_counted(row, factor * h[s, j], delta[s], into)
            else:
                total = _dot_then_add(row, factor * h[s, j], delta[s])
                if out.size:
                    out[j] = _size(row)
            before[s, j] = scale * total
        else:
            if into.size:
                _count_size(row, -rule.one, into)
            if layer > 0:
                for k in range(count):
                    before[members[k], j] = scale * _dot(row, delta[members[k]])
            if rule.optimizer == SGD:
                _gather(row, factor, h, j, delta, members, count)
            else:
                g[:] = 0
                _gather(g, rule.one, h, j, delta, members, count)
                begin = _offset(net.widths, layer) + j * row.size
                _moments(net, row, begin, g, rate, root, rule)
            if into.size:
                _count_size(row, rule.one, into)
            if out.size:
                out[j] = _size(row)
    g[:] = 0
    for s in range(batch):
        _add(g, rule.one, delta[s])
    if rule.optimizer == SGD:
        for i in range(bias.size):
            bias[i] -= rule.step_size * (g[i] + rule.weight_decay * bias[i])
    else:
        _moments(net, bias, _offset(net.widths, layer) + weight.size, g, rate, root, rule)


@compiled
def _gather(row: Floats, factor: float, h: Floats, j: int, delta: Floats, members: Ints, count: int) -> None:
    """row += factor · Σ_s h_sj δ_s over the ``count`` members."""
    whole = count - count % 4
    for k in range(0, whole, 4):
        s0, s1, s2, s3 = members[k], members[k + 1], members[k + 2], members[k + 3]
        a = (factor * h[s0, j], factor * h[s1, j], factor * h[s2, j], factor * h[s3, j])
        _add_four(row, a, delta[s0], delta[s1], delta[s2], delta[s3])
    for k in range(whole, count):
        _add(row, factor * h[members[k], j], delta[members[k]])


@compiled
def _moments(net: Net, row: Floats, begin: int, g: Floats, rate: float, root: float, rule: Rule) -> None:
    own = slice(begin, begin + row.size)
    if rule.optimizer == MOMENTUM:
        _momentum_row(row, net.first[own], g, rule)
    else:
        _adam_row(row, net.first[own], net.second[own], g, rate, root, rule)


# -- continual backprop ------------------------------------------------------------------------------------------------------


@compiled
def _observe(h: Floats, into: Floats, out: Floats, units: Units, begin: int, layer: int, rule: Rule) -> int:
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
def release(net: Net, units: Units, fresh: Floats) -> None:
    """Replace the chosen units: f̂ to the next bias, ``fresh`` incoming weights, no outgoing ones, no history.

    ``fresh`` holds their incoming weights one after the other.
    """
    begin, taken = 0, 0
    for layer in range(net.widths.size - 2):
        weight, bias = _layer(net, net.theta, layer)
        next_weight, next_bias = _layer(net, net.theta, layer + 1)
        for i in range(bias.size):
            k = begin + i
            if units.chosen[k]:
                _add(next_bias, units.transfer[k], next_weight[i])
        for i in range(bias.size):
            k = begin + i
            if not units.chosen[k]:
                continue
            units.into[k] = _size(fresh[taken : taken + weight.shape[0]])
            for j in range(weight.shape[0]):
                if layer > 0:
                    units.out[begin - weight.shape[0] + j] += abs(fresh[taken + j]) - abs(weight[j, i])
                weight[j, i] = fresh[taken + j]
            taken += weight.shape[0]
            bias[i] = 0
            for o in range(next_bias.size):
                if layer < net.widths.size - 3:
                    units.into[begin + bias.size + o] -= abs(next_weight[i, o])
                next_weight[i, o] = 0
            units.out[k] = 0
            for moments in (net.first, net.second):
                if moments.size:
                    own, own_bias = _layer(net, moments, layer)
                    own[:, i] = 0
                    own_bias[i] = 0
                    _layer(net, moments, layer + 1)[0][i] = 0
            units.utility[k] = units.mean[k] = 0
            units.power[k], units.age[k] = 1, 0
        begin += bias.size


# -- the loop ----------------------------------------------------------------------------------------------------------------


@compiled
def _scaled(net: Net, scale: float) -> None:
    """Multiply the weights, not the biases."""
    for layer in range(net.widths.size - 1):
        weight, _ = _layer(net, net.theta, layer)
        for j in range(weight.shape[0]):
            for i in range(weight.shape[1]):
                weight[j, i] *= scale


@compiled
def train(
    net: Net, units: Units, rule: Rule, x: Floats, y: Ints, batch: int, counted: Ints, first: int, made: int,
    losses: NDArray[np.float64], rights: Ints,
) -> tuple[int, int]:  # fmt: skip
    """Updates on the minibatches number ``first``, … of x [N, d] and y [N], ``batch`` examples each (the last may be smaller).

    ``made``: updates before minibatch 0 (Adam's count). Loss and right answers of each minibatch, before its update, go to
    ``losses`` and ``rights`` [K]; ``counted``: the outputs that take part. Returns the minibatch at which it stopped, and why:
    DONE after the last; LOSS or GRADIENT that is not finite, before the update; REPLACE after an update that made units due
    (call :func:`release`, then go on with the next).
    """
    layers, hidden = net.widths.size - 1, net.widths[1:-1]
    most, widest = min(batch, len(x)), net.widths.max()
    acts = np.empty(most * net.widths[1:].sum(), x.dtype)
    signal, signal_before = np.empty(most * widest, x.dtype), np.empty(most * widest, x.dtype)
    scratch, active, members = np.empty(widest, x.dtype), np.empty(widest + 1, np.int64), np.empty(most + 1, np.int64)
    into, out = units.into, units.out
    if rule.replaces and first == 0:
        _sums(net, into, out, rule)
    scale, status, k = rule.one, DONE, first
    while k < losses.size:
        own = x[k * batch : (k + 1) * batch]
        size, begin, h = len(own), 0, own
        for layer in range(layers):
            weight, bias = _layer(net, net.theta, layer)
            z = acts[begin * most : begin * most + size * bias.size].reshape(size, bias.size)
            _multiply(weight, bias, h, z, scale, active)
            if layer < layers - 1:
                _rectify(z)
            h, begin = z, begin + bias.size
        delta = signal[: size * h.shape[1]].reshape(size, h.shape[1])
        losses[k], rights[k] = _cross_entropy(h, y[k * batch : (k + 1) * batch], counted, delta)
        if not np.isfinite(losses[k]):
            status = LOSS
            break
        rate, root, count = rule.step_size, rule.one, made + k + 1
        if rule.optimizer == ADAM:
            rate = rule.step_size / (rule.one * (1.0 - rule.beta1**count))
            root = rule.one * math.sqrt(1.0 - rule.beta2**count)
        rate, root = rate * rule.one, root * rule.one
        begin -= h.shape[1]
        for layer in range(layers - 1, -1, -1):
            width = net.widths[layer]
            h = own
            if layer > 0:
                h = acts[(begin - width) * most : (begin - width) * most + size * width].reshape(size, width)
            if not np.isfinite(_size(delta.reshape(-1)) * _size(h.reshape(-1))):
                status = GRADIENT
                break
            before = signal_before[: size * width].reshape(size, width)
            ends = into[begin : begin + net.widths[layer + 1]] if layer < layers - 1 else into[:0]
            starts = out[begin - width : begin] if layer > 0 else out[:0]
            _descend(net, layer, h, delta, before, scale, rate, root, rule, ends, starts[: width * rule.replaces],
                     members, scratch[: net.widths[layer + 1]])  # fmt: skip
            delta, begin = before, begin - width
            signal, signal_before = signal_before, signal
        if status == GRADIENT:
            break
        scale -= rule.step_size * rule.weight_decay * scale
        if scale < 1e-6:
            _scaled(net, scale)
            scale = rule.one
        k += 1
        if rule.replaces:
            begin, due = 0, 0
            for layer in range(layers - 1):
                width = hidden[layer]
                h = acts[begin * most : begin * most + size * width].reshape(size, width)
                units_of = slice(begin, begin + width)
                due += _observe(h, into[units_of], out[units_of], units, begin, layer, rule)
                begin += width
            if due:
                status = REPLACE
                break
    if scale != rule.one:
        _scaled(net, scale)
    return k, status


@compiled
def _sums(net: Net, into: Floats, out: Floats, rule: Rule) -> None:
    """Σ|w_in| and Σ|w_out| of all hidden units [H]."""
    begin, into[:] = 0, 0
    for layer in range(net.widths.size - 1):
        weight, bias = _layer(net, net.theta, layer)
        for j in range(weight.shape[0]):
            if layer < net.widths.size - 2:
                _count_size(weight[j], rule.one, into[begin : begin + bias.size])
            if layer > 0:
                out[begin - weight.shape[0] + j] = _size(weight[j])
        begin += bias.size
