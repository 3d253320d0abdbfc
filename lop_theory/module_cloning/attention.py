r"""Cloning attention: by copying heads, or by copying the coordinates of each head.

*Heads.* Copies of a head have its attention map and its values; W_o is divided by the number of copies.

*Head_dim.* With m_i copies of coordinate i of a head, d' = Σ m_i and c the factor on rows i of (W_q, b_q) and (W_k, b_k),

    q'·k'/√d' = Σ_i m_i c_i² q_i k_i / √d'  =  q·k/√d     iff     c_i = (d'/d)^{1/4} / √m_i,

which is f^{-1/4} for f copies of everything. Without the factor the logits are √f times those of the base (*Barriers*,
arXiv 2510.00304, Remark A.5 claims equality; the clones do stay clones).
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from lop_theory.module_cloning.profile import Interface, Profile, ShapeMismatchError, Wire
from lop_theory.module_cloning.residuals import BlockResiduals
from lop_theory.module_cloning.rules import LinearRule, TiedDropout, name
from lop_theory.vision import Attention

ATTENTION_MODES = ("heads", "head_dim")
_LINEAR = LinearRule()


def head_profile(heads: int, head_dim: int, factor: int, mode: str) -> Profile:
    """The profile of the inner features (head, coordinate), heads outermost.

    >>> head_profile(2, 2, 2, "heads").of
    (0, 1, 0, 1, 2, 3, 2, 3)
    >>> head_profile(2, 2, 2, "head_dim").of
    (0, 0, 1, 1, 2, 2, 3, 3)
    """
    if mode == "heads":
        return Profile.repeat(heads, factor).expanded(head_dim)
    return Profile.repeat(heads * head_dim, factor)


def clone_attention(
    module: Attention,
    path: str,
    at: Interface,
    factor: int,
    mode: str,
    scaled: bool,
    interfaces: dict[str, Interface],
) -> Attention:
    """The cloned attention; profiles of q, k, v and out are added to ``interfaces``. ``scaled`` applies f^{-1/4}."""
    inner = head_profile(module.heads, module.head_dim, factor, mode)
    out = copy.copy(module)
    out._modules = dict(module._modules)
    for key in ("q", "k", "v", "out"):
        sides = Interface(inner, at.outgoing) if key == "out" else Interface(at.incoming, inner)
        interfaces[f"{path}.{key}" if path else key] = sides
        setattr(out, key, _LINEAR.clone(getattr(module, key), Wire(sides.incoming, "last"), *sides, True))
    if mode == "heads":
        out.heads = module.heads * factor
        out.dropout = _tied_maps(module, factor)
        return out
    out.dropout = copy.deepcopy(module.dropout)
    out.head_dim = module.head_dim * factor
    if scaled:
        with torch.no_grad():
            for part in (out.q, out.k):
                for parameter in part.parameters():
                    parameter.mul_(factor**-0.25)
    return out


def _tied_maps(module: Attention, factor: int) -> nn.Module:
    """Copies of a head share the dropout mask of their attention map [B, heads, N, N]."""
    old = module.dropout
    before = old.profile if isinstance(old, TiedDropout) else Profile.identity(module.heads)
    copied = Profile(tuple(before.of[h] for h in Profile.repeat(module.heads, factor).of))
    return TiedDropout(float(getattr(old, "p", 0.0)), copied, axis=1).train(old.training)


def certify_attention(module: Attention, path: str, partition: dict[str, Interface]) -> list[BlockResiduals]:
    """Residuals of the four linear maps, and: one inner profile, heads that share a block hold the same blocks, tied maps.

    Then heads that share a block have equal logits, because the pairs (q_i, k_i) in them are the same up to order.
    """
    rows: list[BlockResiduals] = []
    inner = partition[f"{path}.out" if path else "out"].incoming
    for key in ("q", "k", "v", "out"):
        full = f"{path}.{key}" if path else key
        sides, part = partition[full], getattr(module, key)
        if (sides.incoming.width, sides.outgoing.width) != (part.in_features, part.out_features):
            raise ShapeMismatchError(
                f"{full!r} maps {part.in_features} to {part.out_features} features, but its profiles have "
                f"{sides.incoming.width} and {sides.outgoing.width}; correct them"
            )
        own = sides.incoming if key == "out" else sides.outgoing
        other, stated = (
            (sides.outgoing, partition[path].outgoing)
            if key == "out"
            else (
                sides.incoming,
                partition[path].incoming,
            )
        )
        if own.fibres != inner.fibres or other.fibres != stated.fibres:
            rows.append(BlockResiduals(full, name(part), violations=("profiles do not match",)))
        rows += _LINEAR.check(part, full, *sides)
    texts = [] if inner.split_block(module.heads) is None else ["a block is split over heads with different members"]
    if getattr(module.dropout, "p", 0.0) > 0 and not _maps_tied(module, inner):
        texts.append("dropout masks of copied heads are not tied")
    if texts:
        rows.append(BlockResiduals(path, name(module), violations=tuple(texts)))
    return rows


def _maps_tied(module: Attention, inner: Profile) -> bool:
    """Do heads that hold the same blocks share a mask?"""
    held = [tuple(row) for row in inner.composition(module.heads)]
    names: dict[tuple[int, ...], int] = {}
    wanted = tuple(names.setdefault(row, len(names)) for row in held)
    given = module.dropout.profile.fibres if isinstance(module.dropout, TiedDropout) else tuple(range(module.heads))
    return given == wanted
