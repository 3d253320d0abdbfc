r"""Compiled kernels of the online streams: the stream itself, the step of a one-hidden-layer learner, and the replacement of units.

Everything happens inside one loop over the examples, and replicas (seeds) are the **last** axis S of every array, so that
the innermost loop of each line runs over replicas and becomes vector instructions. Replicas never meet: no sum runs over
S, and without fast-math each operation is the IEEE operation of that replica alone. Therefore a replica gives the same
bits whichever replicas stand beside it.

**Random numbers** are a pure function of (seed, purpose, counter): number n of SplitMix64 (Steele, Lea & Flood 2014)
started at k is mix(k + (n + 1) γ), which needs no state. Nothing depends on how the steps were cut into calls.

**The stream** (slowly-changing regression, Dohare et al. 2306.13812, called bit flipping in 2510.00304). An example has
m bits, of which f are slow and m − f are drawn anew each time, and perhaps a constant 1. Every T examples one random slow
bit flips (``FLIP_ONE``) or all are redrawn (``FLIP_ALL``). The target is a net of U threshold units with weights ±1,

    y = c + Σ_i v_i 1[w_i·x + b_i > θ_i],   θ_i = β (m + 1) − S_i,   S_i = #{j : w_ij < 0} + σ b_i / 2,

with σ = +1 in Dohare's code and σ = −1 in that of 2510.00304. As w_i·x = a_i − #{j : w_ij < 0}, where a_i counts the bits
that agree with the sign of their weight, unit i fires iff a_i > β (m + 1) − (1 + σ/2) b_i: a count of bits against a whole
number, the ``quorum``. Within one period there are only 2^(m−f) different inputs, so their targets are tabulated.

**The learner** is f(x) = b_2 + Σ_k w_2k φ(z_k), z_k = b_1k + Σ_i W_ki x_i. With the squared error e², e = f(x) − y,

    ∂/∂b_2 = 2e,   ∂/∂w_2k = 2e h_k,   ∂/∂b_1k = δ_k = 2e w_2k φ′(z_k),   ∂/∂W_ki = δ_k x_i.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

# With Intel's SVML, vector and scalar exponentials differ in the last bit, and a replica would see its neighbours.
os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "FLIP_ALL",
    "FLIP_ONE",
    "Learner",
    "Rule",
    "Stream",
    "Units",
    "advance",
    "hidden",
    "key",
    "number",
    "uniform",
]

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

FLIP_ONE, FLIP_ALL = 0, 1
RELU, LEAKY_RELU, TANH, SIGMOID, ELU, SWISH, LINEAR = range(7)
SGD, ADAM = range(2)
BP, CBP, CBP_PUBLISHED_BITFLIP = range(3)
TARGET, SLOW, FAST, INIT, RESET, PROBE = (np.uint64(k) for k in range(6))  # what random numbers are used for


class Stream(NamedTuple):
    """The target nets and the keys of the inputs of S replicas."""

    slow_key: Words  # [S]
    fast_key: Words  # [S]
    signs: Words  # [U, S]  bit j is set iff w_ij = +1
    quorum: Ints  # [U, S]  unit i fires iff at least so many bits agree with the sign of their weight
    out: Ints  # [U, S]  v_i, ±1
    out_bias: Ints  # [S]  c, ±1


class Learner(NamedTuple):
    """Parameters of S learners; also their gradients' first and second moments (Adam). float32 or float64."""

    w1: Floats  # [H, I, S]
    b1: Floats  # [H, S]
    w2: Floats  # [H, S]
    b2: Floats  # [S]


class Units(NamedTuple):
    """What is known of each hidden unit, and how many units are due for replacement."""

    steps: Ints  # [H, S]  optimiser steps since the unit was made (Adam's bias correction)
    age: Ints  # [H, S]  steps since the unit was made, as continual backprop counts them
    utility: Floats  # [H, S]  running average, not corrected
    mean: Floats  # [H, S]  running average of the activation, not corrected
    due: NDArray[np.float64]  # [S]  accumulated number of units to replace
    replaced: Ints  # [S]  units replaced so far
    reset_key: Words  # [S]


class Rule(NamedTuple):
    """The learning rule. Floats have the dtype of the learner, so that float32 stays float32."""

    activation: int
    optimizer: int
    algorithm: int
    cbp_from: int  # first step at which units are tested
    train_readout: bool  # False: w_2 and b_2 stay as they are (a linear model: one linear unit, w_2 = 1, b_2 = 0)
    maturity: int
    replacement_rate: float  # float64
    one: float
    leak: float  # slope of the leaky ReLU below 0
    step_size: float
    weight_decay: float  # L2: λθ is added to the gradient of every weight and bias
    beta1_complement: float  # 1 − β_1
    beta2: float
    adam_eps: float
    decay: float  # η
    tiny: float  # added to Σ|w_in|, as the published bit-flipping code does; no effect unless all weights vanish
    init_bound: float  # new incoming weights are uniform on [−bound, bound]
    adam_step: Floats  # [K]  step size / (1 − β_1^t), t = 0 … K−1 (t = 0 unused); constant from K on
    adam_root: Floats  # [K]  1 / √(1 − β_2^t)
    averaged: Floats  # [K']  1 − η^a


compiled = njit(
    nogil=True, cache=True, error_model="numpy"
)  # "numpy": x / 0 is inf, not an exception (which blocks vectors)


# -- random numbers --------------------------------------------------------------------------------------------------------

GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_1, _11, _27, _30, _31, _64 = (np.uint64(k) for k in (1, 11, 27, 30, 31, 64))


@compiled
def number(start: np.uint64, n: np.uint64) -> np.uint64:
    """Number n = 0, 1, … of SplitMix64 started at ``start``.

    >>> hex(number(np.uint64(0), np.uint64(0)))    # published first output for seed 0
    '0xe220a8397b1dcdaf'
    """
    z = start + (n + _1) * GAMMA
    z = (z ^ (z >> _30)) * MIX_1
    z = (z ^ (z >> _27)) * MIX_2
    return z ^ (z >> _31)


@compiled
def key(seed: np.uint64, purpose: np.uint64) -> np.uint64:
    """Where the numbers of one purpose start, for one seed.

    >>> hex(key(np.uint64(0), TARGET))
    '0xe220a8397b1dcdaf'
    """
    return number(seed, purpose)


@compiled
def uniform(start: np.uint64, n: np.uint64) -> float:
    """A multiple of 2⁻⁵³ in [0, 1).

    >>> round(uniform(np.uint64(0), np.uint64(0)), 6)
    0.883311
    """
    return np.float64(number(start, n) >> _11) * 2.0**-53


# -- the stream ------------------------------------------------------------------------------------------------------------


@compiled
def slow_bits(start: np.uint64, period: int, slow: int, flip: int) -> np.uint64:
    """The slow bits in a period, from the start of the run on: pure, and cheap once in 10⁴ steps.

    >>> words = [slow_bits(np.uint64(1), p, 15, FLIP_ONE) for p in range(4)]
    >>> [(a ^ b).bit_count() for a, b in zip(words, words[1:])]
    [1, 1, 1]
    """
    width = np.uint64(slow)
    if flip == FLIP_ALL:
        return number(start, np.uint64(period)) >> (_64 - width)
    word = number(start, np.uint64(0)) >> (_64 - width)
    for p in range(1, period + 1):
        word ^= _1 << (number(start, np.uint64(p)) % width)
    return word


@compiled
def ones(word: np.uint64) -> int:
    """How many bits are set.

    >>> ones(np.uint64(0b1011))
    3
    """
    word = word - ((word >> _1) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def target(stream: Stream, word: np.uint64, bits: int, s: int) -> int:
    """y of replica s on the input whose bit j is bit j of ``word``."""
    y = stream.out_bias[s]
    for i in range(stream.signs.shape[0]):
        if bits - ones(word ^ stream.signs[i, s]) >= stream.quorum[i, s]:
            y += stream.out[i, s]
    return y


@compiled
def _enter_period(stream: Stream, period: int, bits: int, slow: int, flip: int, x: Floats, table: Floats) -> None:
    """Set the slow rows (and the constant row) of the inputs x [I, S], and the targets [2^(m−f), S] of all fast bits."""
    for s in range(x.shape[1]):
        word = slow_bits(stream.slow_key[s], period, slow, flip)
        for i in range(slow):
            x[i, s] = (word >> np.uint64(i)) & _1
        for i in range(bits, x.shape[0]):
            x[i, s] = _1
        for p in range(table.shape[0]):
            table[p, s] = target(stream, word | (np.uint64(p) << np.uint64(slow)), bits, s)


# -- the learner -----------------------------------------------------------------------------------------------------------


@compiled
def _activate(z: Floats, h: Floats, slope: Floats, rule: Rule) -> None:
    """h = φ(z) and slope = φ′(z) [S]; φ′(0) of the piecewise linear ones is the left slope, as in torch."""
    zero, one = rule.one - rule.one, rule.one
    if rule.activation == RELU or rule.activation == LEAKY_RELU:
        leak = rule.leak if rule.activation == LEAKY_RELU else zero
        for s in range(z.size):
            slope[s] = one if z[s] > zero else leak
            h[s] = z[s] * slope[s]
    elif rule.activation == TANH:
        for s in range(z.size):
            h[s] = math.tanh(z[s])
            slope[s] = one - h[s] * h[s]
    elif rule.activation == SIGMOID:
        for s in range(z.size):
            h[s] = one / (one + math.exp(-z[s]))
            slope[s] = h[s] * (one - h[s])
    elif rule.activation == ELU:
        for s in range(z.size):
            h[s] = z[s] if z[s] > zero else math.expm1(z[s])
            slope[s] = one if z[s] > zero else h[s] + one
    elif rule.activation == SWISH:
        for s in range(z.size):
            gate = one / (one + math.exp(-z[s]))
            h[s] = z[s] * gate
            slope[s] = gate * (one + z[s] * (one - gate))
    else:
        for s in range(z.size):
            h[s] = z[s]
            slope[s] = one


@compiled
def _forward(net: Learner, x: Floats, rule: Rule, z: Floats, h: Floats, slope: Floats) -> None:
    """z, h and φ′(z) [H, S] of one input x [I, S] per replica."""
    units, inputs, replicas = net.w1.shape
    for k in range(units):
        for s in range(replicas):
            z[k, s] = net.b1[k, s]
        for i in range(inputs):
            for s in range(replicas):
                z[k, s] += net.w1[k, i, s] * x[i, s]
        _activate(z[k], h[k], slope[k], rule)


@compiled
def _sgd(net: Learner, x: Floats, h: Floats, slope: Floats, e: Floats, rule: Rule) -> None:
    """p ← p − step (∂/∂p + λ p) for every parameter; e [S] is f(x) − y."""
    hidden_units, inputs, replicas = net.w1.shape
    step, decay = rule.step_size, rule.weight_decay
    delta = np.empty_like(e)
    for k in range(hidden_units):
        for s in range(replicas):
            delta[s] = (e[s] + e[s]) * net.w2[k, s] * slope[k, s]
        for i in range(inputs):
            for s in range(replicas):
                net.w1[k, i, s] -= step * (delta[s] * x[i, s] + decay * net.w1[k, i, s])
        for s in range(replicas):
            net.b1[k, s] -= step * (delta[s] + decay * net.b1[k, s])
        if rule.train_readout:
            for s in range(replicas):
                net.w2[k, s] -= step * ((e[s] + e[s]) * h[k, s] + decay * net.w2[k, s])
    if rule.train_readout:
        for s in range(replicas):
            net.b2[s] -= step * ((e[s] + e[s]) + decay * net.b2[s])


@compiled
def _moments_step(p: Floats, m: Floats, v: Floats, grad: Floats, step: Floats, root: Floats, rule: Rule) -> None:
    """Adam (1412.6980, algorithm 1) on one row [S], with step = α / (1 − β_1^t) and root = 1 / √(1 − β_2^t)."""
    for s in range(p.size):
        g = grad[s] + rule.weight_decay * p[s]
        m[s] += rule.beta1_complement * (g - m[s])
        v[s] = rule.beta2 * v[s] + (rule.one - rule.beta2) * (g * g)
        p[s] -= step[s] * m[s] / (math.sqrt(v[s]) * root[s] + rule.adam_eps)


@compiled
def _adam(
    net: Learner, first: Learner, second: Learner, units: Units, x: Floats, h: Floats, slope: Floats, e: Floats, t: int,
    rule: Rule,
) -> None:  # fmt: skip
    """Adam on every parameter; those of a unit count the steps since the unit was made, b_2 counts all."""
    hidden_units, inputs, replicas = net.w1.shape
    grad, delta, step, root = np.empty_like(e), np.empty_like(e), np.empty_like(e), np.empty_like(e)
    last = rule.adam_step.size - 1
    for k in range(hidden_units):
        for s in range(replicas):
            units.steps[k, s] += 1
        for s in range(replicas):
            age = min(units.steps[k, s], last)
            step[s], root[s] = rule.adam_step[age], rule.adam_root[age]
        for s in range(replicas):
            delta[s] = (e[s] + e[s]) * net.w2[k, s] * slope[k, s]
        for i in range(inputs):
            for s in range(replicas):
                grad[s] = delta[s] * x[i, s]
            _moments_step(net.w1[k, i], first.w1[k, i], second.w1[k, i], grad, step, root, rule)
        _moments_step(net.b1[k], first.b1[k], second.b1[k], delta, step, root, rule)
        if rule.train_readout:
            for s in range(replicas):
                grad[s] = (e[s] + e[s]) * h[k, s]
            _moments_step(net.w2[k], first.w2[k], second.w2[k], grad, step, root, rule)
    if rule.train_readout:
        step[:], root[:] = rule.adam_step[min(t + 1, last)], rule.adam_root[min(t + 1, last)]
        for s in range(replicas):
            grad[s] = e[s] + e[s]
        _moments_step(net.b2, first.b2, second.b2, grad, step, root, rule)


# -- continual backprop ----------------------------------------------------------------------------------------------------


@compiled
def _observe(net: Learner, units: Units, h: Floats, rule: Rule, mature: Ints) -> None:
    """Age, averages and utility after one example; ``mature`` [S] counts the units that may be replaced.

    Overall utility of 2306.13812: y = |h − f̂| |w_out| / Σ|w_in|, averaged with decay η, f̂ = f / (1 − η^age).
    """
    hidden_units, inputs, replicas = net.w1.shape
    total = np.empty_like(net.b2)
    last = rule.averaged.size - 1
    mature[:] = 0
    for k in range(hidden_units):
        total[:] = rule.tiny
        for i in range(inputs):
            for s in range(replicas):
                total[s] += abs(net.w1[k, i, s])
        for s in range(replicas):
            units.age[k, s] += 1
            mature[s] += units.age[k, s] > rule.maturity
        for s in range(replicas):
            units.mean[k, s] = rule.decay * units.mean[k, s] + (rule.one - rule.decay) * h[k, s]
        for s in range(replicas):
            expected = units.mean[k, s] / rule.averaged[min(units.age[k, s], last)]
            new = abs(h[k, s] - expected) * abs(net.w2[k, s]) / total[s]
            units.utility[k, s] = rule.decay * units.utility[k, s] + (rule.one - rule.decay) * new


@compiled
def _least_useful(units: Units, s: int, rule: Rule) -> int:
    """The mature unit of replica s with the smallest corrected utility, the first of several; −1 if none is mature."""
    last = rule.averaged.size - 1
    best, lowest = -1, rule.one
    for k in range(units.age.shape[0]):
        if units.age[k, s] > rule.maturity:
            corrected = units.utility[k, s] / rule.averaged[min(units.age[k, s], last)]
            if best < 0 or corrected < lowest:
                best, lowest = k, corrected
    return best


@compiled
def _release(net: Learner, units: Units, k: int, s: int, rule: Rule) -> None:
    """Move the unit's mean contribution to the output bias, cut its outgoing weight, and forget its history."""
    last = rule.averaged.size - 1
    net.b2[s] += net.w2[k, s] * (units.mean[k, s] / rule.averaged[min(units.age[k, s], last)])
    net.w2[k, s] = units.utility[k, s] = units.mean[k, s] = rule.one - rule.one
    units.age[k, s] = 0
    units.replaced[s] += 1


@compiled
def _renew(net: Learner, first: Learner, second: Learner, units: Units, k: int, s: int, rule: Rule) -> None:
    """New incoming weights, own bias 0, and an optimiser that has never seen the unit (2306.13812, appendix D)."""
    zero = rule.one - rule.one
    inputs = net.w1.shape[1]
    drawn = units.replaced[s] * inputs  # counted before this replacement
    for i in range(inputs):
        unit_interval = uniform(units.reset_key[s], np.uint64(drawn + i))
        net.w1[k, i, s] = rule.init_bound * (2.0 * unit_interval - 1.0)
    net.b1[k, s] = zero
    if rule.optimizer == ADAM:
        units.steps[k, s] = 0
        for moment in (first, second):
            moment.w1[k, :, s] = zero
            moment.b1[k, s] = moment.w2[k, s] = zero


@compiled
def _replace(net: Learner, first: Learner, second: Learner, units: Units, mature: Ints, rule: Rule) -> None:
    """Continual backprop: ρ times the mature units fall due at each step, the least useful is replaced when one is due."""
    for s in range(mature.size):
        units.due[s] += rule.replacement_rate * mature[s]
        while units.due[s] >= 1.0:
            units.due[s] -= 1.0
            k = _least_useful(units, s, rule)
            _renew(net, first, second, units, k, s, rule)
            _release(net, units, k, s, rule)


@compiled
def _replace_published_bitflip(net: Learner, units: Units, mature: Ints, rule: Rule) -> None:
    """The rule that the code of 2510.00304 runs: max(1, ⌊ρH⌋) units as soon as one is mature, at every step.

    Its re-initialisation of the incoming weights writes to a copy, so they stay; and it sets *all* hidden biases to 0.
    """
    count = max(1, int(rule.replacement_rate * net.w1.shape[0]))
    for s in range(mature.size):
        for _ in range(min(count, mature[s])):
            _release(net, units, _least_useful(units, s, rule), s, rule)
            net.b1[:, s] = rule.one - rule.one


# -- the loop --------------------------------------------------------------------------------------------------------------


@compiled
def advance(
    stream: Stream, shape: tuple[int, int, int, int], net: Learner, first: Learner, second: Learner, units: Units,
    rule: Rule, start: int, stop: int, loss: NDArray[np.float64],
) -> None:  # fmt: skip
    """Steps start … stop − 1 of every replica, in place; adds the squared errors before each update to ``loss`` [S].

    ``shape`` = (m, f, T, flip): bits, slow bits, length of a period, ``FLIP_ONE`` or ``FLIP_ALL``.
    """
    bits, slow, period, flip = shape
    hidden_units, inputs, replicas = net.w1.shape
    x = np.zeros((inputs, replicas), net.w1.dtype)
    table = np.zeros((1 << (bits - slow), replicas), net.w1.dtype)
    z, h, slope = np.empty_like(net.b1), np.empty_like(net.b1), np.empty_like(net.b1)
    e = np.empty_like(net.b2)
    fast = np.empty(replicas, np.uint64)
    mature = np.empty(replicas, np.int64)
    for t in range(start, stop):
        if t == start or t % period == 0:
            _enter_period(stream, t // period, bits, slow, flip, x, table)
        for s in range(replicas):
            fast[s] = number(stream.fast_key[s], np.uint64(t)) >> np.uint64(64 - bits + slow)
        for i in range(slow, bits):
            for s in range(replicas):
                x[i, s] = (fast[s] >> np.uint64(i - slow)) & _1
        _forward(net, x, rule, z, h, slope)
        for s in range(replicas):
            e[s] = net.b2[s]
        for k in range(hidden_units):
            for s in range(replicas):
                e[s] += net.w2[k, s] * h[k, s]
        for s in range(replicas):
            e[s] -= table[fast[s], s]
        for s in range(replicas):
            loss[s] += np.float64(e[s]) * np.float64(e[s])
        if rule.optimizer == ADAM:
            _adam(net, first, second, units, x, h, slope, e, t, rule)
        else:
            _sgd(net, x, h, slope, e, rule)
        if rule.algorithm == BP or t < rule.cbp_from:
            continue
        if rule.algorithm == CBP:
            _observe(net, units, h, rule, mature)
            _replace(net, first, second, units, mature, rule)
        else:  # the published code looks at the features after the step
            _forward(net, x, rule, z, h, slope)
            _observe(net, units, h, rule, mature)
            _replace_published_bitflip(net, units, mature, rule)


@compiled
def hidden(net: Learner, x: Floats, rule: Rule, z: Floats, h: Floats) -> None:
    """z and h [N, H, S] of the learners on N inputs x [N, I, S] per replica."""
    slope = np.empty_like(net.b1)
    for n in range(x.shape[0]):
        _forward(net, x[n], rule, z[n], h[n], slope)
