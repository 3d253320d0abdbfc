"""Instances and checks of the claims on modular cloning: a base, a wider network, its partition, and data.

Checks are in float64. Values up to 1e-9 of the scale are rounding, differences above 1e-6 are real, and what is between is
undecided. Networks of linear maps and ReLU hold small multiples of 12, so that division by up to four copies is exact.
A refutation of a forward statement is written as networks of scalar units, which the independent checker evaluates exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from lop_theory.modules import Observed, Partition, Profile, certify, observe
from proofs_checks.claim import Evidence, Verdict
from proofs_checks.claims.module_networks import UnitNetwork, lower, lowerable
from proofs_checks.instances import assertion, quantity, witness

ROUNDING, REAL = 1e-9, 1e-6
STEPS = 2


@dataclass(frozen=True, eq=False)
class ModuleInstance:
    """``wide`` with ``partition`` is meant to copy ``base``; ``x`` [N, …] is the input of the base, ``y`` its targets.

    ``incoming`` is the profile of the input on dim ``axis`` (``None``: not cloned), ``output`` that of the output, on its
    last dim or, for images, on dim 1. ``rule`` trains: "sgd" or "adam". ``extra`` holds what an assumption asks for.
    """

    base: nn.Module
    wide: nn.Module
    partition: Partition
    output: Profile
    x: Tensor
    y: Tensor
    incoming: Profile | None = None
    axis: int = 1
    rule: str = "sgd"
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def wide_x(self) -> Tensor:
        """The input of ``wide``: cloned if it has a profile."""
        return self.x if self.incoming is None else self.x.index_select(self.axis, self.incoming.index)

    def __repr__(self) -> str:
        sizes = {path: at.outgoing.copies.tolist() for path, at in self.partition.items()}
        return f"ModuleInstance({self.base}, copies {sizes}, x {tuple(self.x.shape)}, {self.rule}, {self.extra})"


def run(module: nn.Module, x: Tensor, seed: int) -> Tensor:
    """The output, with the dropout masks of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out: Tensor = module(x)
    return out


def copied(values: Tensor, profile: Profile) -> Tensor:
    """Values of the base as the clone should have them."""
    return values.index_select(1 if values.dim() == 4 else values.dim() - 1, profile.index)


def integers(draw: DrawFn, *shape: int, bound: int = 2) -> Tensor:
    """Integers in [−bound, bound] as float64, from one drawn seed: instances shrink in structure, not number by number."""
    generator = np.random.default_rng(draw(st.integers(0, 2**12)))
    return torch.from_numpy(generator.integers(-bound, bound + 1, shape).astype(np.float64))


def fill(draw: DrawFn, module: nn.Module, unit: float, bound: int = 2, gain: float = 1.0) -> nn.Module:
    """float64 parameters: small multiples of ``unit``; those of norms are 1 + γ and β with ``gain`` × integers."""
    module.double()
    drawn = integers(draw, sum(p.numel() for p in module.parameters()), bound=bound)
    start = 0
    with torch.no_grad():
        for part in module.modules():
            norm = isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm)
            for key, p in part.named_parameters(recurse=False):
                values = drawn[start : start + p.numel()].reshape(p.shape)
                start += p.numel()
                p.copy_(values * gain + (key == "weight") if norm else values * unit)
    return module


@st.composite
def data(draw: DrawFn, shape: tuple[int, ...], outputs: tuple[int, ...], samples: tuple[int, int] = (1, 2)) -> Any:
    """x [N, *shape] and y [N, *outputs], integers."""
    n = draw(st.integers(*samples))
    return integers(draw, n, *shape, bound=3), integers(draw, n, *outputs, bound=3)


@st.composite
def surjections(draw: DrawFn, width: int, most: int = 3) -> Profile:
    """Blocks of sizes 1 … ``most`` in any order; shrinks towards pairs side by side."""
    sizes = [draw(st.sampled_from((2, 1, 3, 4)[:most])) for _ in range(width)]
    return Profile(tuple(draw(st.permutations(Profile.from_copies(sizes).of))))


def redistribute(draw: DrawFn, instance: ModuleInstance, paths: list[str], taps: bool = True) -> None:
    """Move weights inside block pairs without changing row or column sums, so that they are no longer block constant.

    With ``taps`` = False the sums over all taps of a kernel are kept, but not those of each tap.
    """
    parts = dict(instance.wide.named_modules())
    for path in paths:
        at, weight = instance.partition[path], parts[path].weight.data
        if weight.shape[1] != at.incoming.width:
            continue  # a grouped convolution
        rows, columns = (_pair(draw, p) for p in (at.outgoing, at.incoming))
        if rows is None or columns is None or weight.numel() == 0:
            continue
        amount = 12.0 * draw(st.sampled_from((1, -1, 2)))
        tap = (0,) * (weight.dim() - 2)
        if taps:
            for v, sign in zip(rows, (1, -1), strict=True):
                for u, other in zip(columns, (1, -1), strict=True):
                    weight[(v, u, *tap)] += amount * sign * other
        else:
            weight[(rows[0], columns[0], *tap)] += amount
            weight[(rows[0], columns[0], *(n - 1 for n in weight.shape[2:]))] -= amount


def _pair(draw: DrawFn, profile: Profile) -> tuple[int, int] | None:
    """Two members of the first block that has two."""
    for block in range(profile.base_width):
        members = [u for u, j in enumerate(profile.of) if j == block]
        if len(members) > 1:
            return members[0], members[1]
    return None


# -- checks --------------------------------------------------------------------------------------------------------------


def judged(difference: float, scale: float, text: str, build: Callable[[], dict[str, Any]] | None = None) -> Evidence:
    """HOLDS below rounding, FAILS above what is real, with the witness that ``build`` writes."""
    relative = difference / max(1.0, scale)
    note = f"{text}: {difference:.3g} at scale {scale:.3g}"
    if relative <= ROUNDING:
        return Evidence(Verdict.HOLDS, difference, 0.0, note=note)
    verdict = Verdict.FAILS if relative > REAL else Verdict.UNDECIDED
    return Evidence(verdict, difference, 0.0, note=note, witness=build if verdict is Verdict.FAILS else None)


def equals_base(instance: ModuleInstance) -> Evidence:
    """Does the wide network compute copies of the output of the base (on one seed of the masks)?"""
    with torch.no_grad():
        wanted = copied(run(instance.base, instance.x, instance.seed), instance.output)
        found = run(instance.wide, instance.wide_x, instance.seed)
    gap = (found - wanted).abs()
    return judged(
        float(gap.max()),
        float(wanted.abs().max()),
        "the outputs of clone and base differ by",
        (lambda: _function_witness(instance, gap)) if lowerable(instance.wide) else None,
    )


def _function_witness(instance: ModuleInstance, gap: Tensor) -> dict[str, Any]:
    """One output of the clone that is not the output of the base."""
    wide, base = lower(instance.wide, instance.wide_x), lower(instance.base, instance.x)
    place = [int(i) for i in torch.unravel_index(gap.argmax(), gap.shape)]
    unit = int(wide.units[""][tuple(place[1:])])
    feature = 0 if gap.dim() == 4 else len(place) - 2
    origin = list(place[1:])
    origin[feature] = instance.output.of[origin[feature]]
    other = int(base.units[""][tuple(origin)])
    zero = torch.zeros_like
    documents = {
        "clone": wide.document(instance.wide_x, zero(gap)),
        "base": base.document(instance.x, zero(instance.base(instance.x))),
    }
    line = assertion(
        quantity("value", "clone", unit=unit, sample=place[0]),
        "!=",
        quantity("value", "base", unit=other, sample=place[0]),
    )
    return witness("an output of the clone is not that of the base", documents, [line])


def loss_of(instance: ModuleInstance) -> Callable[[Tensor], Tensor]:
    """½ Σ (f − y)², with targets equal in blocks."""
    target = copied(instance.y, instance.output)
    return lambda out: 0.5 * (out - target).square().sum()


def train(instance: ModuleInstance, steps: int = STEPS) -> nn.Module:
    """A copy of the wide network after steps of the instance's rule; the rate makes the first step at most 1/8."""
    module = copy.deepcopy(instance.wide)
    loss = loss_of(instance)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer | None = None
    for k in range(steps):
        module.zero_grad()
        loss(run(module, instance.wide_x, instance.seed + k)).backward()
        if optimizer is None:
            steepest = max((float(p.grad.abs().max()) for p in parameters if p.grad is not None), default=0.0)
            rate = 0.125 / max(1.0, steepest)
            optimizer = (
                torch.optim.SGD(parameters, rate, momentum=0.5)
                if instance.rule == "sgd"
                else torch.optim.Adam(parameters, 0.125, eps=1e-3)  # rounding of zero gradients must not be scaled up
            )
        optimizer.step()
    return module


class Spread(NamedTuple):
    """Where the clones differ most: the leaf, the two features, by how much at which scale, and in h or in ∂L/∂h."""

    size: float = 0.0
    scale: float = 1.0
    path: str = ""
    pair: tuple[int, int] = (0, 0)
    name: str = "h"

    def __str__(self) -> str:
        return f"{self.name} of features {self.pair[0]} and {self.pair[1]} of {self.path!r}, which are in one block, differ by"


def largest_spread(instance: ModuleInstance, module: nn.Module, seed: int) -> Spread:
    """The largest difference within a block relative to its scale: of h if some h differ, else of ∂L/∂h."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        seen = observe(module, instance.partition, instance.wide_x, loss_of(instance))
    worst = {"h": Spread(), "∂L/∂h": Spread(name="∂L/∂h")}
    for path, found in seen.items():
        sides = (("h", found.outputs, found.forward_spread), ("∂L/∂h", found.errors, found.backward_spread))
        for name, values, size in sides:
            scale = max(1.0, float(values.abs().max()))
            if size / scale > worst[name].size / worst[name].scale:
                worst[name] = Spread(size, scale, path, _members(found, values), name)
    h, delta = worst.values()
    return h if h.size > ROUNDING * h.scale else delta


def _members(found: Observed, values: Tensor) -> tuple[int, int]:
    """The two features of a block that differ most."""
    best = (0.0, 0, 0)
    for u, i in enumerate(found.profile.of):
        for v in range(u):
            if found.profile.of[v] == i:
                best = max(best, (float((values[:, u] - values[:, v]).abs().max()), v, u))
    return best[1], best[2]


def equal_clones(instance: ModuleInstance) -> Evidence:
    """Are h and the error signals equal within all blocks at the start?"""
    found = largest_spread(instance, instance.wide, instance.seed)
    shown = found.name == "h" and lowerable(instance.wide)
    return judged(found.size, found.scale, str(found), (lambda: _spread_witness(instance, found)) if shown else None)


def _spread_witness(instance: ModuleInstance, found: Spread) -> dict[str, Any]:
    """Two activations of one block that differ."""
    network = lower(instance.wide, instance.wide_x)
    units = network.units[found.path]
    axis = 0 if units.ndim == 3 else units.ndim - 1
    outputs = observe(instance.wide, instance.partition, instance.wide_x, loss_of(instance))[found.path].outputs
    gaps = (outputs[:, found.pair[0]] - outputs[:, found.pair[1]]).abs()
    sample, position = divmod(int(gaps.argmax()), len(gaps) // len(instance.x))
    left, right = (int(units.take(w, axis).reshape(-1)[position]) for w in found.pair)
    document = network.document(instance.wide_x, torch.zeros_like(instance.wide(instance.wide_x)))
    line = assertion(quantity("value", unit=left, sample=sample), "!=", quantity("value", unit=right, sample=sample))
    return witness(f"two features of a block of {found.path!r} differ", {"net": document}, [line])


def stays_cloned(instance: ModuleInstance) -> Evidence:
    """Equal in blocks at the start, after two steps, and with row and column equitable weights after them."""
    start = equal_clones(instance)
    if start.verdict is not Verdict.HOLDS:
        return start
    module = train(instance)
    found = largest_spread(instance, module, instance.seed + STEPS)
    after = judged(found.size, found.scale, f"after {STEPS} steps {found}")
    if after.verdict is not Verdict.HOLDS:
        return after
    report = certify(module, instance.partition, incoming=instance.incoming, tolerance=ROUNDING)
    if not report.cloned:
        return Evidence(Verdict.FAILS, report.worst, 0.0, note="; ".join(report.violations[:2]))
    return Evidence(Verdict.HOLDS, max(found.size, report.worst), 0.0, note="equal in blocks before and after training")


def all_of(*checks: Callable[[ModuleInstance], Evidence]) -> Callable[[ModuleInstance], Evidence]:
    """The first part that does not hold."""

    def check(instance: ModuleInstance) -> Evidence:
        evidence = Evidence(Verdict.UNDECIDED)
        for part in checks:
            evidence = part(instance)
            if evidence.verdict is not Verdict.HOLDS:
                return evidence
        return evidence

    return check


CLONE_OF_BASE = all_of(equals_base, stays_cloned)


def certified(instance: ModuleInstance, *texts: str) -> bool:
    """Has the certificate of the wide network no violation that speaks of one of the texts?"""
    report = certify(instance.wide, instance.partition, incoming=instance.incoming, tolerance=ROUNDING)
    return not any(text in line for line in report.violations for text in texts)


def after_masked_step(
    network: UnitNetwork, x: Tensor, y: Tensor, masks: dict[int, int], i: int, j: int
) -> dict[str, Any]:
    """Parameters i and j are equal before one step of gradient descent with fixed dropout masks, and differ after it."""
    training = {
        "steps": 1,
        "rate": "1/4",
        "rule": {"name": "sgd"},
        "unit_mask": {str(unit): str(factor) for unit, factor in masks.items()},
    }
    before = {**training, "steps": 0}
    lines = [
        assertion(quantity("param_after", index=i, **steps), op, quantity("param_after", index=j, **steps))
        for steps, op in ((before, "=="), (training, "!="))
    ]
    return witness("one step with unlike masks parts two clones", {"net": network.document(x, y)}, lines)
