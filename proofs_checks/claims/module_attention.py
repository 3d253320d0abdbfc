r"""Barriers, coverage of modular cloning (2): attention, embeddings, flatten and dropout."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from lop_theory.modules import TiedDropout
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.claims import module_classes as classes
from proofs_checks.claims import module_proofs as proofs
from proofs_checks.claims import module_strategies as nets
from proofs_checks.claims.module_cases import (
    CLONE_OF_BASE,
    ModuleInstance,
    after_masked_step,
    certified,
    equal_clones,
    equals_base,
    judged,
    loss_of,
    stays_cloned,
)
from proofs_checks.claims.module_networks import lower

_PAPER = "2510.00304"


def _row(row: str, note: str = "") -> Source:
    return Source(_PAPER, "v1", f"Remark A.5 (coverage), {row}", note)


def _scale_of_heads(instance: ModuleInstance) -> torch.Tensor:
    """The factor on W_q and b_q, over f^{-1/4}; 1 if all of them are zero."""
    base, wide = instance.base.get_submodule("q"), instance.wide.get_submodule("q")
    incoming, outgoing = instance.partition["q"]
    found = torch.cat([(wide.weight.detach() * incoming.copies[incoming.index]).reshape(-1), wide.bias.detach()])
    wanted = torch.cat(
        [base.weight.detach()[outgoing.index][:, incoming.index].reshape(-1), base.bias.detach()[outgoing.index]]
    )
    if not wanted.any():
        return torch.tensor(float(instance.extra.get("scale", 1.0)), dtype=torch.float64)
    copies = outgoing.copies[0].double()
    return found[wanted != 0][0] / wanted[wanted != 0][0] * copies**0.25


TIED_MAPS = Assumption("tied maps", "copies of a head share the dropout mask", lambda i: certified(i, "not tied"))
FOURTH_ROOT = Assumption(
    "scaled",
    "rows of W_q, W_k, b_q, b_k are multiplied by f^{-1/4}",
    lambda i: bool((_scale_of_heads(i) - 1).abs() < 1e-12),
)
AWARE = Assumption("aware", "the next layer is tiled by (channel, position)", lambda i: i.extra.get("aware", True))

HEADS = Claim(
    id="barriers.modules.attention.heads",
    title="Attention with copied heads",
    source=_row("attention, more heads"),
    kind="remark",
    statement=r"\text{Heads copied } f \text{ times, } W_o \text{ divided by } f: \text{ the same function, "
    r"and clones stay equal.}",
    quantifier="for all",
    assumptions=(TIED_MAPS,),
    instances=st.one_of(nets.attention_nets("heads"), nets.attention_nets("heads", drop=0.5, factor=2)),
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="A copied head has the map and the values of its original, so the inner features are copies and W_o is a linear layer. "
    "Backward the same holds for the adjoints. Dropout on the maps needs one mask for all copies of a head.",
    without={"tied maps": nets.untied_maps()},
    mutants=(
        Mutant("undivided", "W_o is copied without division", equals_base, nets.undivided_heads()),
        Mutant("own masks", "copied heads may have dropout masks of their own", equal_clones, nets.untied_maps()),
    ),
    certificates=(classes.HEADS,),
    depends_on=("barriers.modules.linear",),
    cost=5,
)

HEAD_DIM = Claim(
    id="barriers.modules.attention.head-dim",
    title="Attention with expanded heads computes the base, as published",
    source=_row("attention; the authors' ViT clone, fixed heads"),
    kind="remark",
    statement=r"\text{With every coordinate of every head copied } f \text{ times (tiled weights) and logits divided by } "
    r"\sqrt{f d}\text{, attention computes the base.}",
    quantifier="for all",
    assumptions=(),
    instances=nets.attention_nets("head_dim", exact=False, factor=2),
    check=equals_base,
    expected=Verdict.FAILS,
    proof="The f copies of each product q_i k_i add up to f q·k, which is divided by √(f d): the logits are √f times those of the "
    "base. (Clones stay equal nevertheless.)",
    mutants=(
        Mutant("half", "it does with the factor f^{-1/2} on q and k", equals_base, nets.rescaled_heads(-0.5)),
        Mutant("double", "it does with the factor f^{1/4} on q and k", equals_base, nets.rescaled_heads(0.25)),
    ),
)

HEAD_DIM_REPAIRED = Claim(
    id="barriers.modules.attention.head-dim.repaired",
    title="Attention with expanded heads and f^{-1/4} on q and k",
    source=Source(_PAPER, "v1", "Remark A.5 (coverage), attention", "repair, ours: the factor"),
    kind="ours",
    statement=r"\text{With } W_q, b_q, W_k, b_k \text{ tiled and multiplied by } f^{-1/4} \text{ attention computes the base.}",
    quantifier="for all",
    assumptions=(FOURTH_ROOT,),
    instances=nets.attention_nets("head_dim"),
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="f · f^{-1/2} q·k / √(f d) = q·k/√d. The factors are the same for all copies, so equality in blocks is untouched.",
    without={"scaled": nets.rescaled_heads(0.0)},
    mutants=(
        Mutant("no factor", "no factor is needed (the published code)", equals_base, nets.rescaled_heads(0.0)),
        Mutant("square root", "the factor is f^{-1/2}", equals_base, nets.rescaled_heads(-0.5)),
    ),
    certificates=(proofs.HEAD_DIM,),
    depends_on=("barriers.modules.linear",),
    repairs="barriers.modules.attention.head-dim",
    cost=5,
)

HEAD_DIM_CLONES = Claim(
    id="barriers.modules.attention.head-dim.clones",
    title="Expanded heads stay clones, with any factor on q and k",
    source=_row("attention; the authors' ViT clone, fixed heads"),
    kind="remark",
    statement=r"\text{Attention with tiled weights satisfies MC1–MC3, although it computes another function than the base.}",
    quantifier="for all",
    assumptions=(),
    instances=st.one_of(
        nets.attention_nets("head_dim", exact=False), nets.rescaled_heads(-0.25), nets.rescaled_heads(0.5)
    ),
    check=stays_cloned,
    expected=Verdict.HOLDS,
    proof="q, k and v are copies with one profile. The logits of a head are one number for all its coordinates, and "
    "∂L/∂q_i = Σ_t s_t k_i(t)/√d' is equal for coordinates with equal k.",
    mutants=(
        Mutant(
            "base function",
            "the clone computes the base",
            equals_base,
            nets.attention_nets("head_dim", exact=False, factor=2),
        ),
        Mutant("any maps", "copied heads with masks of their own stay clones", stays_cloned, nets.untied_maps()),
    ),
    certificates=(classes.HEAD_DIM_CLONES,),
    depends_on=("barriers.modules.linear",),
    cost=5,
)

EMBEDDING = Claim(
    id="barriers.modules.embedding",
    title="Embeddings, positions and the class token: copied, not divided",
    source=_row("embeddings"),
    kind="remark",
    statement=r"\text{Columns of an embedding, of positional vectors and of the class token are copied: "
    r"outputs are copies of the base's.}",
    quantifier="for all",
    assumptions=(
        Assumption("equal columns", "the vectors are equal within blocks", lambda i: certified(i, "sums differ")),
    ),
    instances=nets.token_nets(),
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="The input is an index, so an embedding is a linear layer whose sources are not cloned; positions and the class "
    "token are biases.",
    without={"equal columns": nets.parted_positions()},
    mutants=(
        Mutant("divided", "columns are divided by the number of copies", equals_base, nets.token_nets(divided=True)),
        Mutant("positions", "positional vectors may differ within blocks", equal_clones, nets.parted_positions()),
    ),
    certificates=(classes.EMBEDDING,),
    depends_on=("barriers.modules.linear",),
    cost=4,
)

# -- flatten, dropout -------------------------------------------------------------------------------------------------------------

FLATTEN = Claim(
    id="barriers.modules.flatten",
    title="A plain flatten between cloned channels and a tiled linear layer",
    source=_row("flatten", "read without conditions"),
    kind="remark",
    statement=r"\text{Channels cloned side by side, flattened, and followed by a linear layer tiled side by "
    r"side compute the base.}",
    quantifier="for all",
    assumptions=(),
    instances=nets.flat_nets(aware=False),
    check=equals_base,
    expected=Verdict.FAILS,
    proof="Flattened, the copies of feature (channel, position) stand as far apart as there are positions, not side by side: the "
    "profiles do not match, and weights meet the wrong positions.",
    mutants=(
        Mutant("one channel", "… at least for one channel", equals_base, nets.flat_nets(False, channels=(1, 1))),
        Mutant("clones", "… or clones at least stay clones", stays_cloned, nets.flat_nets(aware=False)),
    ),
)

FLATTEN_REPAIRED = Claim(
    id="barriers.modules.flatten.repaired",
    title="A clone-aware flatten",
    source=Source(_PAPER, "v1", "Remark A.5 (coverage), flatten", "the profile for any number of positions is ours"),
    kind="ours",
    statement=r"\text{With the profile } (c', p) \mapsto (a(c'), p) \text{ behind the flatten the clone computes the "
    r"base and stays cloned.}",
    quantifier="for all",
    assumptions=(AWARE,),
    instances=nets.flat_nets(),
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="Flattening reorders features; the profile is reordered with them, so that profiles match.",
    without={"aware": nets.flat_nets(aware=False)},
    mutants=(
        Mutant("side by side", "the profile is as for channels", equals_base, nets.flat_nets(aware=False)),
        Mutant("two positions", "… at least for two positions", equals_base, nets.flat_nets(aware=False, positions=2)),
    ),
    certificates=(proofs.LINEAR,),
    depends_on=("barriers.modules.linear",),
    repairs="barriers.modules.flatten",
    cost=2,
)


def _masked_step(instance: ModuleInstance) -> Evidence:
    """Do clones stay equal in one step with the masks of the instance, one for each feature?"""
    masks, x = instance.extra["masks"], instance.wide_x
    first, second = (instance.wide.get_submodule(key) for key in ("0", "3"))
    instance.wide.zero_grad()
    h = first(x).relu()
    loss_of(instance)(second(h * torch.tensor(masks, dtype=h.dtype))).backward()
    profile = instance.partition["0"].outgoing
    slopes = first.bias.grad
    pairs = [(u, v) for u in range(profile.width) for v in range(u) if profile.of[u] == profile.of[v]]
    gaps = {pair: float((slopes[pair[0]] - slopes[pair[1]]).abs()) for pair in pairs}
    if not gaps or (first(x) == 0).any():  # at a kink: no derivative
        return Evidence(Verdict.UNDECIDED)
    i, j = max(gaps, key=lambda pair: gaps[pair])

    def document() -> dict[str, Any]:
        network = lower(instance.wide, x)
        relu, bias = network.units["1"].tolist(), network.params["0.bias"].tolist()
        units = dict(zip(relu, masks, strict=True))
        return after_masked_step(network, x, instance.y, units, int(bias[i]), int(bias[j]))

    text = f"the gradients of the biases of {i} and {j}, which are in one block, differ by"
    return judged(gaps[i, j], float(slopes.abs().max()), text, document)


DROPOUT = Claim(
    id="barriers.modules.dropout",
    title="Clones stay clones under dropout",
    source=Source(_PAPER, "v1", "Remark A.5 (coverage), dropout", "the statement for independent masks"),
    kind="remark",
    statement=r"\text{With an independent mask for every feature, clones stay equal under a step of gradient descent.}",
    quantifier="for all",
    assumptions=(),
    instances=nets.dropout_nets(tied=False),
    check=_masked_step,
    expected=Verdict.FAILS,
    proof="A clone that is dropped has no gradient, its twin has one.",
    mutants=(
        Mutant("forward", "clones are equal behind the mask", equal_clones, nets.dropout_nets(tied=False)),
        Mutant("training", "clones are equal again after two steps", stays_cloned, nets.dropout_nets(tied=False)),
    ),
)

DROPOUT_REPAIRED = Claim(
    id="barriers.modules.dropout.repaired",
    title="Dropout with one mask for each block",
    source=Source(_PAPER, "v1", "Remark A.5 (coverage), dropout", "repair, ours: tied masks"),
    kind="ours",
    statement=r"\text{With one mask for each block clones stay equal, and the clone computes the base with the same masks.}",
    quantifier="for all",
    assumptions=(
        Assumption(
            "tied masks",
            "the features of a block share their mask",
            lambda i: isinstance(i.wide.get_submodule("2"), TiedDropout),
        ),
    ),
    instances=nets.dropout_nets(),
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="A mask that is constant in blocks multiplies copies alike: it is an elementwise map that is the same in a block.",
    without={"tied masks": nets.dropout_nets(tied=False)},
    mutants=(
        Mutant("independent", "masks may be independent", stays_cloned, nets.dropout_nets(tied=False)),
        Mutant("base", "… and the function is that of the base", equals_base, nets.dropout_nets(tied=False)),
    ),
    certificates=(classes.DROPOUT,),
    depends_on=("barriers.modules.elementwise",),
    repairs="barriers.modules.dropout",
    cost=2,
)


CLAIMS = (
    HEADS,
    HEAD_DIM,
    HEAD_DIM_REPAIRED,
    HEAD_DIM_CLONES,
    EMBEDDING,
    FLATTEN,
    FLATTEN_REPAIRED,
    DROPOUT,
    DROPOUT_REPAIRED,
)
