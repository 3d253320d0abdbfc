"""Strategies: small module trees with clones, one for each row of the coverage table, and the ways in which a row breaks.

Everything shrinks towards few features, pairs of clones side by side, zero weights and one sample.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import nn

from lop_theory.module_cloning.profile import Wire
from lop_theory.module_cloning.rules import LinearRule
from lop_theory.modules import Interface, Profile, clone_module
from lop_theory.vision import Attention, ClassToken, MeanTokens, PositionalEmbedding, Residual
from proofs_checks.claims.module_cases import ModuleInstance, data, fill, integers, redistribute, surjections

UNIT = 0.75  # weights are multiples of 3/4: division by 1, 2, 3 or 4 copies is exact in binary
SMOOTH: tuple[Callable[[], nn.Module], ...] = (nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid)
RULES_OF_TRAINING = st.sampled_from(("sgd", "adam"))


@st.composite
def cloned(
    draw: DrawFn,
    base: nn.Module,
    shape: tuple[int, ...],
    outputs: tuple[int, ...],
    *,
    samples: tuple[int, int] = (1, 2),
    x: torch.Tensor | None = None,
    **options: Any,
) -> ModuleInstance:
    """Data for a base and its clone."""
    found_x, y = draw(data(shape, outputs, samples))
    clone = clone_module(base, **options)
    return ModuleInstance(
        base,
        clone.module,
        clone.partition,
        clone.output,
        found_x if x is None else x,
        y,
        options.get("incoming"),
        rule=draw(RULES_OF_TRAINING),
        seed=draw(st.integers(0, 3)),
    )


# -- linear and convolution ----------------------------------------------------------------------------------------------


@st.composite
def linear_nets(draw: DrawFn, moved: bool = True, activation: Callable[[], nn.Module] = nn.ReLU) -> ModuleInstance:
    """Linear – activation – Linear between any profiles; with ``moved`` also off block constant."""
    inputs, hidden, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    base = fill(draw, nn.Sequential(nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, outputs)), UNIT)
    incoming = draw(surjections(inputs)) if draw(st.booleans()) else None
    profile = draw(surjections(hidden, 4))
    instance = draw(cloned(base, (inputs,), (outputs,), copies={"0": profile}, incoming=incoming))
    if moved and draw(st.booleans()):
        redistribute(draw, instance, ["0", "2"])
    return instance


@st.composite
def undivided(draw: DrawFn, by_targets: bool = False) -> ModuleInstance:
    """The last weights are not divided by the number of copies of their sources (or by those of their targets instead)."""
    instance = draw(linear_nets(moved=False))
    wide = copy.deepcopy(instance.wide)
    incoming, outgoing = instance.partition["2"]
    weight = wide.get_submodule("2").weight.data
    weight *= incoming.copies[incoming.index]
    if by_targets:
        weight /= outgoing.copies[outgoing.index][:, None]
    return replace(instance, wide=wide, extra={"divided": False})


@st.composite
def conv_nets(draw: DrawFn, per_tap: bool = True) -> ModuleInstance:
    """Conv – ReLU – Conv on 1×3 images, in one or two groups; with ``per_tap`` = False only sums over all taps are kept."""
    groups = draw(st.sampled_from((1, 2))) if per_tap else 1
    hidden = groups * draw(st.integers(1, 2))
    outputs = groups * draw(st.integers(1, 2))
    first = nn.Conv2d(1, hidden, (1, draw(st.integers(1, 2))))
    base = fill(draw, nn.Sequential(first, nn.ReLU(), nn.Conv2d(hidden, outputs, (1, 2), groups=groups)), UNIT)
    factor = draw(st.sampled_from((2, 3)))
    profile = Profile.repeat(hidden, factor) if groups > 1 else draw(surjections(hidden))
    if not per_tap:
        profile = Profile.repeat(hidden, factor)
    incoming = draw(surjections(1)) if draw(st.booleans()) else None
    length = 4 - first.kernel_size[1]
    instance = draw(
        cloned(
            base,
            (1, 1, 3),
            (outputs, 1, length - 1),
            copies={"0": profile},
            incoming=incoming,
            keep_output=per_tap,
            factor=factor,
        )
    )
    if not per_tap or draw(st.booleans()):
        redistribute(draw, instance, ["2"], taps=per_tap)
    return instance


@st.composite
def scaled_by_kernel(draw: DrawFn) -> ModuleInstance:
    """The kernel is divided by the number of taps as well."""
    instance = draw(conv_nets())
    wide = copy.deepcopy(instance.wide)
    kernel = wide.get_submodule("2").weight.data
    kernel /= kernel.shape[-1]
    return replace(instance, wide=wide)


@st.composite
def scattered_groups(draw: DrawFn) -> ModuleInstance:
    """A grouped convolution between blocks that cross its groups: blocks {0, 2, 3} and {1} in two groups of two."""
    base = fill(draw, nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1)), UNIT)
    for p in base.get_submodule("2").parameters():
        p.data.zero_()
    hidden = Profile((0, 1, 0, 0))
    instance = draw(cloned(base, (1, 1, 1), (1, 1, 1), copies={"0": hidden}))
    wide = copy.deepcopy(instance.wide)
    grouped = nn.Conv2d(4, 2, 1, groups=2).double()
    grouped.weight.data.zero_()  # the only equitable weights
    grouped.bias.data.zero_()
    wide._modules["2"] = grouped
    pair = Profile((0, 0))
    return replace(instance, wide=wide, partition={**instance.partition, "2": Interface(hidden, pair)}, output=pair)


# -- elementwise, residual -------------------------------------------------------------------------------------------------


@st.composite
def residual_nets(draw: DrawFn, matching: bool = True, relu: bool = False) -> ModuleInstance:
    """Linear – activation – residual (linear – activation) – ReLU – linear; or two profiles on the branches."""
    hidden = draw(st.integers(1, 3)) if matching else draw(st.integers(2, 3))
    kind = nn.ReLU if relu or not matching else draw(st.sampled_from(SMOOTH))
    body = nn.Sequential(nn.Linear(hidden, hidden), kind())
    base = nn.Sequential(nn.Linear(1, hidden), kind(), Residual(body), nn.ReLU(), nn.Linear(hidden, 1))
    fill(draw, base, UNIT)
    profile = draw(surjections(hidden)) if matching else Profile.repeat(hidden, 2)
    instance = draw(cloned(base, (1,), (1,), copies={"0": profile, "2.body.0": profile}))
    if matching:
        return instance
    other = Profile(tuple(range(hidden)) * 2)  # the same copies in another order
    wide, source = copy.deepcopy(instance.wide), base.get_submodule("2.body.0")
    wide.get_submodule("2.body")._modules["0"] = LinearRule().clone(source, Wire(profile), profile, other, True)
    sides = {"2.body.0": Interface(profile, other), "2.body.1": Interface(other, other)}
    return replace(instance, wide=wide, partition={**instance.partition, **sides})


@st.composite
def image_nets(draw: DrawFn) -> ModuleInstance:
    """Conv – activation – pool – residual – conv on 2×4 images, or with a 1×1 convolution as the shortcut."""
    channels = draw(st.integers(1, 2))
    pool: nn.Module = draw(st.sampled_from((nn.MaxPool2d, nn.AvgPool2d)))(2)
    shortcut = nn.Conv2d(channels, channels, 1) if draw(st.booleans()) else None
    body = nn.Sequential(nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)), draw(st.sampled_from(SMOOTH))())
    base = nn.Sequential(
        nn.Conv2d(1, channels, 1), nn.ReLU(), pool, Residual(body, shortcut), nn.Conv2d(channels, 1, 1)
    )
    fill(draw, base, UNIT)
    return draw(cloned(base, (1, 2, 4), (1, 1, 2), factor=draw(st.sampled_from((2, 3)))))


# -- norms -----------------------------------------------------------------------------------------------------------------


@st.composite
def batch_nets(
    draw: DrawFn, copied: tuple[str, ...] = ("weight", "bias", "running_mean", "running_var")
) -> ModuleInstance:
    """Linear – BatchNorm – ReLU – linear, in training or evaluation mode; tensors not in ``copied`` are left at defaults."""
    hidden = draw(st.integers(1, 3))
    base = fill(
        draw, nn.Sequential(nn.Linear(1, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 1)), UNIT
    )
    norm = base.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(integers(draw, hidden))
    norm.running_var.copy_(1 + integers(draw, hidden).abs())
    base.train(draw(st.booleans()) and "running_mean" in copied)
    instance = draw(cloned(base, (1,), (1,), samples=(2, 4), copies={"0": draw(surjections(hidden))}))
    for key in {"weight", "bias", "running_mean", "running_var"} - set(copied):
        getattr(instance.wide.get_submodule("1"), key).data.fill_(float(key in ("weight", "running_var")))
    return instance


def statistics_copied(instance: ModuleInstance) -> bool:
    """Do the tensors of the norm equal those of the base?"""
    base, wide = (m.get_submodule("1").state_dict() for m in (instance.base, instance.wide))
    index = instance.partition["1"].incoming.index
    keys = [k for k in base if k != "num_batches_tracked"]
    return all(torch.equal(base[k][index], wide[k]) for k in keys)


@st.composite
def layer_nets(
    draw: DrawFn, sizes: str = "any", plain: bool = False, features: tuple[int, int] = (2, 3)
) -> ModuleInstance:
    """Linear – LayerNorm – ReLU – linear. ``sizes``: "equal", "any", or "close" (one copy more or less)."""
    hidden = draw(st.integers(*features))
    base = nn.Sequential(nn.Linear(1, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, 1))
    fill(draw, base, UNIT, gain=0.0 if plain else 1.0)
    if sizes == "equal":
        count = draw(st.sampled_from((2, 3, 4)))
        profile = Profile(tuple(draw(st.permutations(Profile.repeat(hidden, count).of))))
    elif sizes == "close":
        profile = Profile.from_copies([2] * (hidden - 1) + [1])
    else:
        profile = draw(surjections(hidden))
    return draw(cloned(base, (1,), (1,), copies={"0": profile}, exact=False))


def sizes_equal(instance: ModuleInstance) -> bool:
    """Have all blocks under the norm one size?"""
    return instance.partition["1"].incoming.is_uniform


@st.composite
def parted_affine(draw: DrawFn) -> ModuleInstance:
    """The γ of one clone is moved."""
    instance = draw(layer_nets("equal"))
    wide = copy.deepcopy(instance.wide)
    wide.get_submodule("1").weight.data[draw(st.integers(0, 1))] += 1.0
    return replace(instance, wide=wide)


def affine_shared(instance: ModuleInstance) -> bool:
    """Are γ and β of the norm equal within blocks?"""
    norm, profile = instance.wide.get_submodule("1"), instance.partition["1"].incoming
    return all(profile.spread(p) == 0 for p in norm.parameters())


_ALIGNED = ((2, (0, 0, 1, 1), 1), (2, (0, 1, 0, 1), 2), (2, (0, 1, 1, 0), 2), (3, (0, 1, 2, 2, 1, 0), 2))
_SPLIT = ((2, (0, 0, 0, 1, 1, 1), 3), (2, (0, 0, 1, 0, 1, 1), 2), (3, (0, 0, 1, 1, 2, 2), 2))
_UNEQUAL = ((2, (0, 0, 1), 1), (2, (0, 0, 1, 0, 1, 0), 2))


@st.composite
def group_nets(draw: DrawFn, kind: str = "aligned") -> ModuleInstance:
    """Linear – GroupNorm – ReLU – linear. The base has one group, or as many as the clone if copies are side by side.

    ``kind``: "aligned", "split" (a block lies in unlike groups), "unequal" (block sizes) or "any".
    """
    cases = {"aligned": _ALIGNED, "split": _SPLIT, "unequal": _UNEQUAL, "any": (*_ALIGNED, *_SPLIT, *_UNEQUAL)}[kind]
    hidden, of, groups = draw(st.sampled_from(cases))
    own = 2 if kind == "aligned" and draw(st.booleans()) else 1  # several groups in the base: copies side by side
    if own == 2:
        hidden, of, groups = 4, (0, 0, 1, 1, 2, 2, 3, 3), 2
    base = nn.Sequential(nn.Linear(1, hidden), nn.GroupNorm(own, hidden), nn.ReLU(), nn.Linear(hidden, 1))
    fill(draw, base, UNIT)
    instance = draw(cloned(base, (1,), (1,), copies={"0": Profile(of)}, exact=False))
    wide = copy.deepcopy(instance.wide)
    wide.get_submodule("1").num_groups = groups
    return replace(instance, wide=wide)


def groups_alike(instance: ModuleInstance) -> bool:
    """Do all groups with members of one block hold the same blocks equally often?"""
    norm = instance.wide.get_submodule("1")
    return instance.partition["1"].incoming.split_block(norm.num_groups) is None


# -- attention, tokens -----------------------------------------------------------------------------------------------------


@st.composite
def attention_nets(
    draw: DrawFn, mode: str = "heads", exact: bool = True, drop: float = 0.0, factor: int = 0, tokens: int = 2
) -> ModuleInstance:
    """One attention with a few heads on two tokens; the input is cloned or not."""
    heads, head_dim = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    dim = draw(st.integers(1, 2))
    base = fill(draw, Attention(dim, heads, head_dim, dropout=drop), UNIT)
    incoming = draw(surjections(dim)) if exact and draw(st.booleans()) else None
    instance = draw(
        cloned(
            base,
            (tokens, dim),
            (tokens, dim),
            factor=factor or draw(st.sampled_from((2, 3, 4))),
            incoming=incoming,
            attention=mode,
            exact=exact,
        )
    )
    return replace(instance, axis=2)


@st.composite
def untied_maps(draw: DrawFn) -> ModuleInstance:
    """Copied heads with masks of their own."""
    instance = draw(attention_nets("heads", drop=0.5, factor=2))
    wide = copy.deepcopy(instance.wide)
    wide.dropout = nn.Dropout(0.5)
    return replace(instance, wide=wide)


@st.composite
def undivided_heads(draw: DrawFn) -> ModuleInstance:
    """W_o is not divided by the number of copies of a head."""
    instance = draw(attention_nets("heads"))
    wide = copy.deepcopy(instance.wide)
    profile = instance.partition["out"].incoming
    wide.get_submodule("out").weight.data *= profile.copies[profile.index]
    return replace(instance, wide=wide)


@st.composite
def rescaled_heads(draw: DrawFn, power: float) -> ModuleInstance:
    """Expanded heads with f^power on q and k instead of f^{-1/4}."""
    instance = draw(attention_nets("head_dim", exact=False, factor=2))
    wide = copy.deepcopy(instance.wide)
    for key in ("q", "k"):
        for p in wide.get_submodule(key).parameters():
            p.data *= 2.0**power
    return replace(instance, wide=wide)


@st.composite
def token_nets(draw: DrawFn, divided: bool = False) -> ModuleInstance:
    """Embedding – class token – positions – mean – linear; or with embeddings divided by the number of copies."""
    dim, tokens = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    base = nn.Sequential(
        nn.Embedding(3, dim),
        ClassToken(dim),
        PositionalEmbedding(tokens + 1, dim),
        nn.ReLU(),
        MeanTokens(),
        nn.Linear(dim, 1),
    )
    fill(draw, base, UNIT)
    words = integers(draw, 2, tokens).long() % 3
    instance = draw(cloned(base, (tokens,), (1,), samples=(2, 2), x=words, copies={"0": draw(surjections(dim, 4))}))
    if divided:
        profile = instance.partition["0"].outgoing
        instance.wide.get_submodule("0").weight.data /= profile.copies[profile.index]
    return instance


@st.composite
def parted_positions(draw: DrawFn) -> ModuleInstance:
    """The position vectors of one clone are moved."""
    instance = draw(token_nets())
    wide = copy.deepcopy(instance.wide)
    wide.get_submodule("2").weight.data[0, draw(st.integers(0, 1))] += 1.0
    return replace(instance, wide=wide)


# -- flatten, dropout --------------------------------------------------------------------------------------------------------


@st.composite
def flat_nets(
    draw: DrawFn, aware: bool = True, channels: tuple[int, int] = (1, 2), positions: int = 0
) -> ModuleInstance:
    """Conv – ReLU – flatten – linear. Unaware: flattened features are taken to be cloned side by side, as channels are."""
    c, length = draw(st.integers(*channels)), positions or draw(st.integers(2, 3))
    base = fill(draw, nn.Sequential(nn.Conv2d(1, c, 1), nn.ReLU(), nn.Flatten(), nn.Linear(c * length, 1)), UNIT)
    factor = draw(st.sampled_from((2, 3)))
    instance = draw(cloned(base, (1, 1, length), (1,), factor=factor))
    if aware:
        return instance
    side_by_side = Profile.repeat(c * length, factor)
    wide = copy.deepcopy(instance.wide)
    source = base.get_submodule("3")
    wide._modules["3"] = LinearRule().clone(source, Wire(side_by_side), side_by_side, Profile((0,)), True)
    return replace(instance, wide=wide, extra={"aware": False})


@st.composite
def dropout_nets(draw: DrawFn, tied: bool = True) -> ModuleInstance:
    """Linear – ReLU – dropout ½ – linear."""
    hidden = draw(st.integers(1, 2))
    base = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, 1))
    fill(draw, base, UNIT)
    if tied:
        return draw(cloned(base, (1,), (1,), copies={"0": draw(surjections(hidden))}))
    base.get_submodule("0").get_parameter("bias").data += UNIT / 2  # off the kink
    instance = draw(cloned(base, (1,), (1,), factor=2))
    wide = copy.deepcopy(instance.wide)
    wide._modules["2"] = nn.Dropout(0.5)
    flags = draw(st.integers(0, 2**8 - 1))
    masks = [2 * ((flags ^ 1) >> u & 1) for u in range(instance.partition["0"].outgoing.width)]
    return replace(instance, wide=wide, extra={"masks": masks})


# -- compositions ------------------------------------------------------------------------------------------------------------


def _part(draw: DrawFn, width: int, norms: bool) -> nn.Module:
    """A module that keeps the width."""
    kinds: list[Callable[[], nn.Module]] = [lambda: nn.Linear(width, width), nn.ReLU]
    kinds.append(lambda: Residual(nn.Sequential(nn.Linear(width, width), nn.ReLU())))
    kinds += [lambda: nn.LayerNorm(width)] if norms else []
    return draw(st.sampled_from(kinds))()


@st.composite
def compositions(
    draw: DrawFn, sizes: str = "any", norms: bool = True, matching: bool = True, planted: bool = False
) -> ModuleInstance:
    """Linear – up to three modules – linear, wired by any profiles, the same on both sides of every interface.

    ``sizes`` "equal": all blocks have one size, in any order. Not ``matching``: the last module takes another order.
    ``planted``: a LayerNorm over blocks of sizes 2 and 1 comes first.
    """
    width = draw(st.integers(1, 2)) if matching and not planted else 2
    parts = [_part(draw, width, norms) for _ in range(draw(st.integers(0, 1 if planted else 3)))]
    parts = [nn.LayerNorm(width), *parts] if planted else parts
    base = fill(draw, nn.Sequential(nn.Linear(1, width), *parts, nn.ReLU(), nn.Linear(width, 1)), UNIT)
    count = draw(st.sampled_from((2, 3)))

    def profile() -> Profile:
        if sizes == "equal":
            return Profile(tuple(draw(st.permutations(Profile.repeat(width, count).of))))
        return draw(surjections(width))

    current = Profile((0, 0, 1)) if planted else profile()
    copies = {"0": current}
    for k, part in enumerate(parts, start=1):
        if isinstance(part, nn.Linear):
            current = copies[str(k)] = profile()
        elif isinstance(part, Residual):
            copies[f"{k}.body.0"] = current
    instance = draw(cloned(base, (1,), (1,), copies=copies, exact=False))
    if matching:
        return instance
    wide, last = copy.deepcopy(instance.wide), str(len(parts) + 2)
    given = instance.partition[last].incoming
    other = Profile((*given.of[1:], given.of[0]))
    rebuilt = LinearRule().clone(base.get_submodule(last), Wire(other), other, Profile((0,)), True)
    wide._modules[last] = rebuilt
    return replace(instance, wide=wide, partition={**instance.partition, last: Interface(other, Profile((0,)))})


@st.composite
def uncertified(draw: DrawFn) -> ModuleInstance:
    """One weight of the last module of a composition is moved."""
    instance = draw(compositions("equal", norms=False))
    last = list(instance.wide.children())[-1]
    last.get_parameter("weight").data[0, 0] += 1.0
    return instance


@st.composite
def perfect_clones(draw: DrawFn) -> ModuleInstance:
    """Pairs of units with distinct features 2 j x + 2 j − 1 on x ≥ 0, off the kink, and an output that is not its target."""
    hidden = draw(st.integers(2, 3))
    base = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1)).double()
    steps = torch.arange(1, hidden + 1, dtype=torch.float64)
    for p, values in zip(base.parameters(), (2 * steps[:, None], 2 * steps - 1, 2 * steps[None], 0 * steps[:1])):
        p.data.copy_(values)
    x = integers(draw, draw(st.integers(1, 2)), 1, bound=3).abs()
    instance = draw(cloned(base, (1,), (1,), x=x))
    return replace(instance, y=-torch.ones(len(x), 1, dtype=torch.float64))


@st.composite
def imperfect_clones(draw: DrawFn) -> ModuleInstance:
    """One bias of one clone is moved by 1."""
    instance = draw(perfect_clones())
    instance.wide.get_submodule("0").bias.data[0] += 1.0
    return instance
