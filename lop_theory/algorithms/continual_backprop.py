r"""Continual Backprop (Dohare et al.; arXiv 2306.13812 v1–v3 Algorithm 1, Nature 632 (2024) 768): replace useless units.

After each step of an optimiser, for every hidden layer l with activations h, W_l its incoming and W_{l+1} its outgoing
weights (after the step), and for every unit i of the layer:

    a ← a + 1                                   age, in updates since the unit was new
    f ← η f + (1−η) mean_n h_ni                 running mean;  f̂ = f / (1 − η^a)
    u ← η u + (1−η) y_i                         running utility;  û = u / (1 − η^a);  y from the table below
    E = {i : a_i > m}                           the mature units; ``offered`` ← ``offered`` + |E|
    k = ⌊ρ · offered⌋ − replaced                so that after any number of updates exactly ⌊ρ Σ_t |E_t|⌋ units were replaced
    replace the k units of E with smallest û    (:func:`~lop_theory.algorithms.resets.replace_units`, transfer f̂)
    u, f, a ← 0 there, and the optimiser forgets the incoming weights, bias and outgoing weights of these units

===================  ==================================================  =====================================================
utility              y_i                                                 where
===================  ==================================================  =====================================================
contribution         mean_n |h_ni| Σ_k |w_ki|                            Nature, Eq. 1
mean_corrected       mean_n |h_ni − f̂_i| Σ_k |w_ki|                      2306.13812 §4
adaptation           1 / Σ_j |w_ij|                                      2306.13812 §4
overall              mean_n |h_ni − f̂_i| Σ_k |w_ki| / Σ_j |w_ij|         2306.13812 §4 (the algorithm of the paper)
weight               Σ_k |w_ki|                                          ablation
by_input             mean_n |h_ni − f̂_i| / Σ_j |w_ij|                    ablation
random               uniform on [0, 1)                                   ablation
===================  ==================================================  =====================================================

w_ki are outgoing, w_ij incoming weights. Sums or means of |w| rank the units of a layer in the same way.

*Bias correction.* arXiv prints f̂ = f_{t−1}/(1−η^{a_t}), one update out of step: for a constant activation that is not the
activation, e.g. h/(1+η) at age 2 (claim ``cbp.utility-bias-correction.printed``). ``correction="matched"`` (default) divides
f_t, as the authors' code does; ``"printed"`` is the formula of the paper, for u as well.

*Rate.* The paper adds ρ|E| to a counter; Nature replaces one unit when it exceeds 1, which falls behind if ρ|E| > 1. Here all
units that are due are replaced, and the count is kept in integers. ``schedule="bernoulli"`` replaces ⌊ρ|E|⌋ units, and one more
with the probability that is left. No debt arises before the first unit is mature, so there is no burst at a = m.

*Undefined utility.* While y_i is not finite (no incoming weight under "overall", a diverged net) unit i is not ranked, not
counted in E, and its averages wait: 1 − η^a then counts the updates that they contain. Ties go to the lowest index.

Published rules of other papers that go by the same name, as literally as their code: :func:`cbp_published_spectral`,
:func:`cbp_published_bitflip`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lop_theory.algorithms.base import Algorithm, Context, Params, Scalar, check_scalar, forget, per_replica
from lop_theory.algorithms.descent import MomentState
from lop_theory.algorithms.resets import (
    Bound,
    _generator,
    activity,
    fresh_rows,
    hidden_units,
    kaiming_bound,
    outgoing,
    replace_units,
    touched,
)

__all__ = [
    "UTILITIES",
    "CbpState",
    "smallest",
    "continual_backprop",
    "cbp_published_spectral",
    "cbp_published_bitflip",
]

_Utility = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _deviation(h: Tensor, mean: Tensor) -> Tensor:
    return (h - mean.unsqueeze(1)).abs().mean(dim=1)


UTILITIES: dict[str, _Utility] = {
    # name            h [R,N,n]  f̂ [R,n]  Σ|w_in| [R,n]  Σ|w_out| [R,n]  →  y [R,n]
    "contribution": lambda h, mean, into, out: h.abs().mean(dim=1) * out,
    "mean_corrected": lambda h, mean, into, out: _deviation(h, mean) * out,
    "adaptation": lambda h, mean, into, out: 1 / into,
    "overall": lambda h, mean, into, out: _deviation(h, mean) * out / into,
    "weight": lambda h, mean, into, out: out,
    "by_input": lambda h, mean, into, out: _deviation(h, mean) / into,
}
"""The utilities that need no random numbers; "random" is the seventh name."""


class CbpState(NamedTuple):
    """State of the optimiser, and per hidden layer: running utility u, running mean f, η^a and age a (int64) [R, n];
    Σ_t |E_t| and the number of replacements that were due so far [R] (int64)."""

    inner: Any
    utility: Params
    mean: Params
    power: Params
    age: Params
    offered: Params
    paid: Params

    def forget(self, masks: Params) -> CbpState:
        """Units all of whose incoming weights are under the masks are new; a layer of new units owes no replacement."""
        new = [masks[2 * l].flatten(2).all(dim=2) for l in range(len(self.age))]
        whole = tuple(unit.all(dim=1) for unit in new)
        return self._newborn(tuple(new))._replace(
            inner=forget(self.inner, masks),
            offered=tuple(t.masked_fill(w, 0) for t, w in zip(self.offered, whole, strict=True)),
            paid=tuple(t.masked_fill(w, 0) for t, w in zip(self.paid, whole, strict=True)),
        )

    def _newborn(self, masks: Params) -> CbpState:
        """Age, utility and mean of the masked units [R, n] as at the beginning."""
        fills = {"utility": 0.0, "mean": 0.0, "power": 1.0, "age": 0}
        cleared = {
            name: tuple(t.masked_fill(m, fill) for t, m in zip(getattr(self, name), masks, strict=True))
            for name, fill in fills.items()
        }
        return self._replace(**cleared)


def _initial(inner: Algorithm) -> Callable[[Params], CbpState]:
    def init(params: Params) -> CbpState:
        units, first = hidden_units(params), params[0]
        zeros = tuple(first.new_zeros(first.shape[0], n) for n in units)
        counts = tuple(torch.zeros(first.shape[0], dtype=torch.int64, device=first.device) for _ in units)
        ages = tuple(z.to(torch.int64) for z in zeros)
        return CbpState(inner.init(params), zeros, zeros, tuple(z + 1 for z in zeros), ages, counts, counts)

    return init


def smallest(score: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """Mask [R, n] of the ``count`` [R] eligible entries with the smallest score; ties go to the lowest index.

    >>> smallest(torch.tensor([[3.0, 1.0, 0.0, 1.0]]), torch.tensor([[True, True, False, True]]), torch.tensor([1]))
    tensor([[False,  True, False, False]])
    """
    order = torch.where(eligible, score, torch.inf).argsort(dim=1, stable=True)
    place = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return eligible & (place < count.unsqueeze(1))


def _running(old: Tensor, value: Tensor, decay: Scalar) -> Tensor:
    eta = per_replica(decay, old)
    return eta * old + (1 - eta) * value


def _due(rate: Scalar, offered: Tensor, paid: Tensor) -> Tensor:
    """⌊ρ · offered⌋ − paid [R], in float64 and integers."""
    return (per_replica(rate, offered.double()) * offered.double()).floor().to(torch.int64) - paid


def _check(rate: Scalar, maturity: Scalar, decay: Scalar) -> None:
    check_scalar("replacement_rate", rate, 0.0, 1.0)
    check_scalar("maturity", maturity)
    check_scalar("decay", decay, 0.0, 1.0)


def continual_backprop(
    inner: Algorithm,
    replacement_rate: Scalar = 1e-4,
    maturity: Scalar = 100,
    decay: Scalar = 0.99,
    utility: str = "overall",
    schedule: str = "accumulate",
    correction: str = "matched",
    bias_transfer: bool = True,
    bound: Bound = kaiming_bound,
) -> Algorithm:
    """Continual Backprop around the optimiser ``inner``; see the module docstring.

    ``replacement_rate`` ρ in [0, 1), ``maturity`` m in updates, ``decay`` η in [0, 1) (0: the utility of the minibatch
    alone); ``utility``, ``schedule`` ("accumulate" or "bernoulli"), ``correction`` ("matched" or "printed") as above;
    ``bound`` of the initial distribution, as in ``resets``. Uses the activations of ``ctx.trace``. With ρ = 0 the
    parameters are those of ``inner``, bit for bit.

    >>> from lop_theory.algorithms.descent import sgd
    >>> rule = continual_backprop(sgd(0.01), replacement_rate=1e-3)
    >>> state = rule.init((torch.zeros(2, 3, 5), torch.zeros(2, 3), torch.zeros(2, 1, 3), torch.zeros(2, 1)))
    >>> rule.name, state.age[0].shape
    ('cbp(sgd)', torch.Size([2, 3]))
    >>> continual_backprop(sgd(0.01), utility="zero_contribution")
    Traceback (most recent call last):
    ...
    ValueError: utility = 'zero_contribution': use one of contribution, mean_corrected, adaptation, overall, weight, ...
    """
    _check(replacement_rate, maturity, decay)
    _check_name("utility", utility, [*UTILITIES, "random"])
    _check_name("schedule", schedule, ["accumulate", "bernoulli"])
    _check_name("correction", correction, ["matched", "printed"])
    rule = _Rule(inner, replacement_rate, maturity, decay, utility, schedule, correction, bias_transfer, bound)
    return Algorithm(f"cbp({inner.name})", _initial(inner), rule.update)


@dataclass(frozen=True)
class _Rule:
    """The settings of :func:`continual_backprop`, and its update."""

    inner: Algorithm
    rate: Scalar
    maturity: Scalar
    decay: Scalar
    utility: str
    schedule: str
    correction: str
    bias_transfer: bool
    bound: Bound

    def update(self, params: Params, grads: Params, state: CbpState, ctx: Context) -> tuple[Params, CbpState]:
        params, after = self.inner.update(params, grads, state.inner, ctx)
        columns: list[tuple[Tensor, ...]] = []
        for l, (h, n) in enumerate(zip(ctx.trace.h, hidden_units(params), strict=True)):
            running, mean, power, ranked, centre = self.statistics(params, l, activity(h, n), state, ctx)
            age = state.age[l] + 1
            mature = (age > per_replica(self.maturity, age)) & ranked.isfinite()
            offered = state.offered[l] + mature.sum(dim=1)
            k = self.number(mature, offered, state.paid[l], ctx)
            chosen = smallest(ranked, mature, k) if bool(k.any()) else torch.zeros_like(mature)
            columns.append((running, mean, power, age, offered, state.paid[l] + k, chosen, centre))
        if not columns:
            return params, state._replace(inner=after)
        *fields, masks, transfer = (tuple(column) for column in zip(*columns, strict=True))
        state = CbpState(after, *fields)
        if not any(bool(mask.any()) for mask in masks):
            return params, state
        new = replace_units(params, masks, ctx.generator, self.bound, transfer if self.bias_transfer else None)
        return new, state._newborn(masks)._replace(inner=forget(after, touched(new, masks)))

    def statistics(self, params: Params, l: int, h: Tensor, state: CbpState, ctx: Context) -> tuple[Tensor, ...]:
        """(u, f, η^a, û, f̂) of layer l after this update, from its activations h [R, N, n]."""
        matched = self.correction == "matched"
        power = state.power[l] * per_replica(self.decay, state.power[l])
        mean = _running(state.mean[l], h.mean(dim=1), self.decay)
        centre = (mean if matched else state.mean[l]) / (1 - power)
        if self.utility == "random":
            value = _uniform(h[:, 0], ctx)
        else:
            into, out = params[2 * l].flatten(2).abs().sum(dim=2), outgoing(params, l).abs().sum(dim=(1, 3))
            value = UTILITIES[self.utility](h, centre, into, out)
        running, defined = _running(state.utility[l], value, self.decay), value.isfinite()
        ranked = torch.where(defined, (running if matched else state.utility[l]) / (1 - power), torch.inf)
        old = (state.utility[l], state.mean[l], state.power[l])
        averages = [torch.where(defined, new, kept) for new, kept in zip((running, mean, power), old, strict=True)]
        return *averages, ranked, centre

    def number(self, mature: Tensor, offered: Tensor, paid: Tensor, ctx: Context) -> Tensor:
        """How many units to replace now [R]."""
        if self.schedule == "accumulate":
            return _due(self.rate, offered, paid)
        wanted = mature.sum(dim=1).double()
        wanted = per_replica(self.rate, wanted) * wanted
        return (wanted + _uniform(wanted, ctx)).floor().to(torch.int64)


def _uniform(like: Tensor, ctx: Context) -> Tensor:
    """Uniform numbers on [0, 1) shaped as ``like`` [R, ...], replica r from generator r."""
    rows = torch.empty_like(like)
    for r in range(len(rows)):
        rows[r].uniform_(generator=_generator(ctx.generator, r, like))
    return rows


def _check_name(name: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} = {value!r}: use one of {', '.join(known)}")


# -- published rules of the same name --------------------------------------------------------------------------------------


def cbp_published_spectral(
    inner: Algorithm, replacement_rate: Scalar = 1e-4, maturity: Scalar = 100, decay: Scalar = 0.99
) -> Algorithm:
    """The "CBP" baseline of Spectral Collapse (2509.22335; public code of May 2026), as its code does it. Not Continual Backprop.

    It differs in: the units of **largest** utility are replaced (all eligible above the (k+1)-th largest value, so that ties
    replace fewer, while the counter is charged k); outgoing weights are drawn anew, U(±√(6/fan-in)), not zeroed; nothing is
    transferred to the next bias; the utility |mean_n h_ni| · mean_k |w_ki| is not bias-corrected; the optimiser forgets only if it
    is Adam. (One benchmark also skips the incoming weights of its third layer; that is not modelled.)

    >>> from lop_theory.algorithms.descent import sgd
    >>> cbp_published_spectral(sgd(0.01)).name
    'cbp_published_spectral(sgd)'
    """
    _check(replacement_rate, maturity, decay)

    def largest(score: Tensor, mature: Tensor, k: Tensor) -> Tensor:
        masked = torch.where(mature, score, -torch.inf)
        ordered = masked.sort(dim=1, descending=True).values
        threshold = ordered.gather(1, k.clamp(max=ordered.shape[1] - 1).unsqueeze(1))
        return (masked > threshold) & mature

    def update(params: Params, grads: Params, state: CbpState, ctx: Context) -> tuple[Params, CbpState]:
        params, after = inner.update(params, grads, state.inner, ctx)
        columns: list[tuple[Tensor, ...]] = []
        for l, (h, n) in enumerate(zip(ctx.trace.h, hidden_units(params), strict=True)):
            value = activity(h, n).mean(dim=1).abs() * outgoing(params, l).abs().mean(dim=(1, 3))
            running, age = _running(state.utility[l], value, decay), state.age[l] + 1
            mature = age > per_replica(maturity, age)
            offered = state.offered[l] + mature.sum(dim=1)
            k = _due(replacement_rate, offered, state.paid[l])
            columns.append(
                (running, state.mean[l], state.power[l], age, offered, state.paid[l] + k, largest(running, mature, k))
            )
        if not columns:
            return params, state._replace(inner=after)
        *fields, masks = (tuple(column) for column in zip(*columns, strict=True))
        state = CbpState(after, *fields)
        if not any(bool(mask.any()) for mask in masks):
            return params, state
        new = _redrawn(params, masks, ctx)
        kept = forget(after, touched(new, masks)) if isinstance(after, MomentState) else after
        return new, state._newborn(masks)._replace(inner=kept)

    return Algorithm(f"cbp_published_spectral({inner.name})", _initial(inner), update)


def _redrawn(params: Params, masks: Params, ctx: Context) -> Params:
    """Incoming and outgoing weights of the masked units drawn anew, biases zero."""
    new = list(params)
    for l, mask in enumerate(masks):
        if not bool(mask.any()):
            continue
        every = torch.ones_like(new[2 * l + 3], dtype=torch.bool)
        drawn = fresh_rows(new[2 * l + 2], every, ctx.generator, kaiming_bound).reshape(outgoing(tuple(new), l).shape)
        view = torch.where(mask[:, None, :, None], drawn, outgoing(tuple(new), l))
        new[2 * l + 2] = view.reshape(new[2 * l + 2].shape)
        new[2 * l] = fresh_rows(new[2 * l], mask, ctx.generator, kaiming_bound)
        new[2 * l + 1] = new[2 * l + 1].masked_fill(mask, 0)
    return tuple(new)


def cbp_published_bitflip(
    inner: Algorithm, replacement_rate: Scalar = 1e-4, maturity: Scalar = 100, decay: Scalar = 0.99
) -> Algorithm:
    """The "CBP" of the bit-flipping figures of Barriers (2510.00304), as its script does it. Not Continual Backprop.

    It differs in: incoming weights are **kept** (the script initialises a copy); **all** biases of the layer are zeroed; as soon as
    a unit is mature, max(1, ⌊n ρ⌋) units are replaced at **every** update; the optimiser forgets nothing; 10⁻¹⁰ is added to
    Σ|w_in|; nothing at all happens in the first update. Utility "overall", from the activations *after* the step
    (``ctx.features``). The transfer to the next bias works. The script has one hidden layer; here each one is treated so.

    >>> from lop_theory.algorithms.descent import sgd
    >>> cbp_published_bitflip(sgd(0.01)).name
    'cbp_published_bitflip(sgd)'
    """
    _check(replacement_rate, maturity, decay)

    def layer(params: Params, l: int, h: Tensor, state: CbpState) -> tuple[Tensor, ...]:
        age, power = state.age[l] + 1, state.power[l] * per_replica(decay, state.power[l])
        mean = _running(state.mean[l], h.mean(dim=1), decay)
        centre = mean / (1 - power)
        into, out = params[2 * l].flatten(2).abs().sum(dim=2) + 1e-10, outgoing(params, l).abs().sum(dim=(1, 3))
        running = _running(state.utility[l], UTILITIES["overall"](h, centre, into, out), decay)
        mature = age > per_replica(maturity, age)
        rate = per_replica(replacement_rate, age.double()) * torch.ones_like(age[:, :1], dtype=torch.float64)
        each = (rate * h.shape[2]).floor().clamp(min=1).to(torch.int64) * (rate > 0)
        k = torch.minimum(each[:, 0], mature.sum(dim=1))
        chosen = smallest(running / (1 - power), mature, k)
        return running, mean, power, age, state.offered[l] + mature.sum(dim=1), state.paid[l] + k, chosen, centre

    def update(params: Params, grads: Params, state: CbpState, ctx: Context) -> tuple[Params, CbpState]:
        params, after = inner.update(params, grads, state.inner, ctx)
        if ctx.step == 0 or not state.age:
            return params, state._replace(inner=after)
        features = zip(ctx.features(params), hidden_units(params), strict=True)
        columns = [layer(params, l, activity(h, n), state) for l, (h, n) in enumerate(features)]
        *fields, masks, transfer = (tuple(column) for column in zip(*columns, strict=True))
        new = list(params)
        for l, mask in enumerate(masks):
            columns_of = mask[:, None, :, None]
            view = outgoing(tuple(new), l)
            given = torch.where(columns_of, view * transfer[l][:, None, :, None], 0.0)
            new[2 * l + 3] = new[2 * l + 3] + given.sum(dim=(2, 3))
            new[2 * l + 2] = view.masked_fill(columns_of, 0).reshape(new[2 * l + 2].shape)
            new[2 * l + 1] = new[2 * l + 1].masked_fill(mask.any(dim=1, keepdim=True), 0)
        return tuple(new), CbpState(after, *fields)._newborn(masks)

    return Algorithm(f"cbp_published_bitflip({inner.name})", _initial(inner), update)
