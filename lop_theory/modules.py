r"""Modular cloning of ``nn.Module`` trees: a wider network that computes the base function, and the certificate of a clone.

:func:`clone_module` copies every feature of every hidden interface and divides weights by the size of the *source* block;
:func:`certify` reads a network and a partition of its interfaces and reports how far each parameter is from row and column
equitable (RE, CE), which conditions fail, and so whether training keeps the clones equal. :func:`observe` measures it.

Barriers (arXiv 2510.00304) v1, Theorem 2.2, Definition A.1, Theorem A.3, Remarks A.5 and A.6. The coverage that the paper claims
has exceptions, which raise here: LayerNorm over blocks of unequal sizes, GroupNorm with a block split over its groups, and
attention whose heads grow without a change of scale (q·k over f copies and 1/√(f·head_dim) leave the logits √f times larger;
q and k are therefore divided by f^{1/4}).

>>> from lop_theory.vision import small_vit
>>> base = small_vit(torch.Generator().manual_seed(0)).double()
>>> clone = clone_module(base, 2)
>>> x = torch.linspace(-1, 1, 128, dtype=torch.float64).reshape(2, 1, 8, 8)
>>> bool((clone.module(x) - base(x)).abs().max() < 1e-12), certify(clone.module, clone.partition).cloned
(True, True)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lop_theory.module_cloning.attention import ATTENTION_MODES, certify_attention, clone_attention
from lop_theory.module_cloning.profile import (
    Interface,
    NotTheBaseFunctionError,
    Profile,
    ProfileMismatchError,
    ShapeMismatchError,
    UnsupportedModuleError,
    Wire,
)
from lop_theory.module_cloning.residuals import BlockResiduals
from lop_theory.module_cloning.rules import RULES, Rule, TiedDropout, name
from lop_theory.module_cloning.tree import Request, Walk, require_plain
from lop_theory.vision import Attention

__all__ = [
    "clone_module",
    "certify",
    "observe",
    "Clone",
    "CloneReport",
    "BlockResiduals",
    "Interface",
    "Profile",
    "Partition",
    "Rule",
    "RULES",
    "TiedDropout",
    "UnsupportedModuleError",
    "ShapeMismatchError",
    "ProfileMismatchError",
    "NotTheBaseFunctionError",
]

Partition = dict[str, Interface]
"""The profiles of every leaf and attention, by its name in ``named_modules``; modules on the raw input are left out."""


class Clone(NamedTuple):
    """A cloned module, the profiles of all its interfaces, and that of its output."""

    module: nn.Module
    partition: Partition
    output: Profile


# -- cloning ---------------------------------------------------------------------------------------------------------


def clone_module(
    module: nn.Module,
    factor: int = 2,
    *,
    copies: Mapping[str, Sequence[int] | Profile] | None = None,
    incoming: Profile | None = None,
    keep_output: bool = True,
    attention: str = "head_dim",
    exact: bool = True,
    rules: Mapping[type[nn.Module], Rule] | None = None,
) -> Clone:
    """A network in which every hidden feature of ``module`` has ``factor`` copies, and that computes the same function.

    ``copies`` names modules (as in ``named_modules``) whose features are copied by other numbers, one number each (side by
    side), or in the order of a profile. The raw input is not cloned unless ``incoming`` gives its profile, nor the output if
    ``keep_output``. ``attention`` says how attention grows: more "heads" or a larger "head_dim". With ``exact=False`` the clone
    may compute another function (unequal blocks under a LayerNorm, or the unscaled head_dim expansion of the published code);
    its clones still are clones.
    Parameters are copied (dtype, device, mode and ``requires_grad`` are kept); the base is not changed.

    Raises ``UnsupportedModuleError``, ``ShapeMismatchError``, ``ProfileMismatchError`` or ``NotTheBaseFunctionError``.

    >>> base = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> clone = clone_module(base, copies={"0": [1, 2, 3]})
    >>> clone.module[0].out_features, clone.partition["2"].incoming.of
    (6, (0, 1, 1, 2, 2, 2))
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"{module!r} is not an nn.Module; pass the network itself")
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
        raise ValueError(f"factor {factor!r} is not a whole number ≥ 1; 2 gives every feature a twin")
    if attention not in ATTENTION_MODES:
        raise ValueError(f"attention {attention!r} is not known; use one of {', '.join(ATTENTION_MODES)}")
    require_plain(module)
    walk = _CloneWalk({**RULES, **(rules or {})}, {}, factor, dict(copies or {}), attention, exact)
    with torch.random.fork_rng(devices=[]):  # building containers draws initial weights that are thrown away
        clone, wire = walk.run(module, "", Wire(incoming), Profile.identity if keep_output else None)
    unused = sorted(set(walk.copies) - walk.used)
    if unused:
        raise ValueError(
            f"copies for {unused}, which choose no width here; the modules that do are {sorted(walk.free)}"
        )
    output = wire.profile
    if output is None:
        raise UnsupportedModuleError("no module of this network has features of its own; there is nothing to clone")
    if keep_output and not output.is_trivial:
        raise ProfileMismatchError(
            f"the output has the profile {output.of}: the last part passes cloned features on; end with a module that "
            "chooses its width (a Linear), or ask for keep_output=False"
        )
    return Clone(clone, walk.interfaces, output)


@dataclass
class _CloneWalk(Walk):
    factor: int
    copies: dict[str, Sequence[int] | Profile]
    mode: str
    exact: bool
    used: set[str] = field(default_factory=set)
    free: set[str] = field(default_factory=set)

    def size(self, profile: Profile) -> int:
        return profile.base_width

    def choose(self, path: str, width: int, request: Request | None) -> Profile:
        self.free.add(path)
        if path in self.copies:
            self.used.add(path)
            given = self.copies[path]
            profile = given if isinstance(given, Profile) else Profile.from_copies(given)
            if profile.base_width != width:
                raise ValueError(f"{profile.base_width} copies for the {width} features of {path!r}; give one for each")
            if request is not None and request(width) != profile:
                raise ProfileMismatchError(
                    f"copies {profile.of} of {path!r} do not match what follows: {request(width).of}; leave them out"
                )
            return profile
        return Profile.repeat(width, self.factor) if request is None else request(width)

    def leaf(self, module: nn.Module, path: str, rule: Rule, wire: Wire, at: Interface) -> nn.Module:
        return rule.clone(module, wire, at.incoming, at.outgoing, self.exact)

    def attention(self, module: Attention, path: str, at: Interface, request: Request | None) -> nn.Module:
        scaled = self.exact or self.mode == "heads"
        return clone_attention(module, path, at, self.factor, self.mode, scaled, self.interfaces)


# -- certificate -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CloneReport:
    """What :func:`certify` found, one row for each parameter tensor or failing condition."""

    rows: tuple[BlockResiduals, ...]
    tolerance: float

    @property
    def cloned(self) -> bool:
        """Do RE, CE and all conditions hold, so that the clones are equal and first-order training keeps them so?"""
        return all(row.holds(self.tolerance) for row in self.rows)

    @property
    def violations(self) -> tuple[str, ...]:
        """Conditions and equations that fail, with the place where they do."""
        lines = [f"{row.path}: {text}" for row in self.rows for text in row.violations]
        for row in self.rows:
            scale = self.tolerance * max(1.0, row.scale)
            lines += [f"{row.path}: row sums differ by {row.row:.3g}"] if row.row > scale else []
            lines += [f"{row.path}: column sums differ by {row.column:.3g}"] if row.column > scale else []
        return tuple(lines)

    @property
    def worst(self) -> float:
        """The largest RE or CE residual."""
        return max((max(row.row, row.column) for row in self.rows), default=0.0)

    def __str__(self) -> str:
        head = f"{'parameter':28} {'row':>9} {'column':>9} {'constant':>9}"
        lines = [f"{r.path:28} {r.row:9.2e} {r.column:9.2e} {r.block_constant:9.2e}" for r in self.rows]
        return "\n".join([head, *lines, *self.violations])


def certify(
    module: nn.Module,
    partition: Partition,
    *,
    tolerance: float = 1e-9,
    incoming: Profile | None = None,
    rules: Mapping[type[nn.Module], Rule] | None = None,
) -> CloneReport:
    """Residuals of RE and CE for every weight (for every tap of a kernel), and the conditions that the paper's checklist omits.

    Conditions: profiles of neighbours match, edge sets are biregular (grouped convolutions), activations are shared in blocks
    (PReLU), no block is split over unlike groups (GroupNorm, heads), dropout masks are tied. Barriers, Remark A.6, completed.
    ``partition`` has the form of ``Clone.partition``; residuals are float64, relative to the largest weight of the tensor.

    Raises ``ShapeMismatchError`` if a profile does not have the width of its module, ``ValueError`` if one is missing.

    >>> base = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> clone = clone_module(base, 2)
    >>> clone.module[2].weight.data[0, 0] += 1
    >>> certify(clone.module, clone.partition).violations
    ('2.weight: row sums differ by 1',)
    """
    walk = _CertifyWalk({**RULES, **(rules or {})}, {}, partition)
    with torch.random.fork_rng(devices=[]):
        walk.run(module, "", Wire(incoming), None)
    return CloneReport(tuple(walk.rows), tolerance)


@dataclass
class _CertifyWalk(Walk):
    partition: Partition
    rows: list[BlockResiduals] = field(default_factory=list)

    def size(self, profile: Profile) -> int:
        return profile.width

    def at(self, path: str) -> Interface:
        if path not in self.partition:
            raise ValueError(f"the partition has no profiles for {path!r}; take Clone.partition, or add the module")
        return self.partition[path]

    def choose(self, path: str, width: int, request: Request | None) -> Profile:
        profile = self.at(path).outgoing
        if profile.width != width:
            raise ShapeMismatchError(
                f"{path!r} gives {width} features, but its profile has {profile.width}; correct it"
            )
        return profile

    def resolve(self, path: str, module: nn.Module, wire: Wire, takes: int, axis: str) -> Profile:
        given = super().resolve(path, module, wire, takes, axis)
        stated = self.at(path).incoming
        if stated.width != takes:
            raise ShapeMismatchError(f"{path!r} takes {takes} features, but its profile has {stated.width}; correct it")
        if wire.profile is not None and not self.same(stated, given):
            self.mismatch(path, module, f"given {given.of}, taken {stated.of}")
        return stated

    def same(self, left: Profile, right: Profile) -> bool:
        return left.fibres == right.fibres

    def mismatch(self, path: str, module: nn.Module, text: str) -> None:
        row = BlockResiduals(path, name(module), violations=(f"profiles do not match: {text}",))
        self.rows.append(row)

    def leaf(self, module: nn.Module, path: str, rule: Rule, wire: Wire, at: Interface) -> nn.Module:
        self.rows += rule.check(module, path, at.incoming, at.outgoing)
        return module

    def attention(self, module: Attention, path: str, at: Interface, request: Request | None) -> nn.Module:
        self.rows += certify_attention(module, path, self.partition)
        return module


# -- measurement -----------------------------------------------------------------------------------------------------


class Observed(NamedTuple):
    """What a leaf gave on a batch: ``spread`` = largest difference within blocks of its outputs, and of their error signals."""

    outputs: Tensor
    errors: Tensor
    profile: Profile
    forward_spread: float
    backward_spread: float


def observe(
    module: nn.Module, partition: Partition, x: Tensor, loss: Callable[[Tensor], Tensor]
) -> dict[str, Observed]:
    """Outputs h and error signals ∂loss/∂h of every leaf as [samples · positions, features], with their spreads in blocks.

    The mode of the module is left as it is (dropout masks are drawn in training mode). Leaves whose output loses its
    features (a flatten) are left out.

    >>> clone = clone_module(nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1)), 2)
    >>> seen = observe(clone.module, clone.partition, torch.ones(3, 1), torch.sum)
    >>> sorted(seen), seen["1"].outputs.shape, seen["1"].forward_spread
    (['0', '1', '2'], torch.Size([3, 4]), 0.0)
    """
    taken: dict[str, Tensor] = {}

    def keep(path: str, part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
        taken[path] = output

    parts = dict(module.named_modules())
    hooks = [parts[path].register_forward_hook(partial(keep, path)) for path in partition]
    try:
        gradients = {p: p.grad for p in module.parameters()}
        loss(module(x)).backward()
        for p, gradient in gradients.items():
            p.grad = gradient
    finally:
        for hook in hooks:
            hook.remove()
    return {
        path: _observed(taken[path], at.outgoing)
        for path, at in partition.items()
        if path in taken and at.outgoing.width in taken[path].shape[1:]
    }


def _observed(output: Tensor, profile: Profile) -> Observed:
    images = output.dim() == 4
    grad = torch.zeros_like(output) if output.grad is None else output.grad
    h, delta = (
        (t.detach().movedim(1, -1) if images else t.detach()).reshape(-1, profile.width) for t in (output, grad)
    )
    return Observed(h, delta, profile, profile.spread(h.T), profile.spread(delta.T))
