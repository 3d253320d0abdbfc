"""How far weights are from row equitable, column equitable and block constant, for one matrix or one kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lop_theory.module_cloning.profile import Profile


@dataclass(frozen=True)
class BlockResiduals:
    """One parameter tensor of a module: largest spreads over its block pairs (and taps), and conditions that fail.

    ``row`` (RE): sums over targets, within source blocks; ``column`` (CE): sums over sources, within target blocks;
    ``block_constant``: the entries themselves. ``scale`` is the largest |entry|. ``violations`` are conditions on the
    structure: biregularity, shared activation, matching profiles, tied masks.
    """

    path: str
    kind: str
    row: float = 0.0
    column: float = 0.0
    block_constant: float = 0.0
    scale: float = 1.0
    violations: tuple[str, ...] = ()

    def holds(self, tolerance: float) -> bool:
        """Are RE and CE satisfied up to ``tolerance`` × max(1, scale), and no condition violated?"""
        return max(self.row, self.column) <= tolerance * max(1.0, self.scale) and not self.violations


def equitable_spreads(weight: Tensor, incoming: Profile, outgoing: Profile) -> tuple[float, float, float]:
    r"""(RE, CE, BC) of W [out, in, taps], one matrix for each tap, in float64.

    RE: for u ∈ S_i the sum Σ_{v∈S_j} W[v, u]; CE: for v ∈ S_j the sum Σ_{u∈S_i} W[v, u]. In the layout of torch, RE
    sums over dim 0 and CE over dim 1.

    >>> equitable_spreads(torch.tensor([[1., 2.], [2., 1.]])[..., None], Profile((0, 0)), Profile((0, 0)))
    (0.0, 0.0, 1.0)
    """
    w = weight.detach().cpu().to(torch.float64)
    columns = torch.einsum("vut,ui->vit", w, incoming.one_hot)
    rows = torch.einsum("vut,vj->ujt", w, outgoing.one_hot)
    blocks = incoming.base_width * outgoing.index[:, None] + incoming.index[None, :]
    pairs = Profile(tuple(blocks.reshape(-1).tolist()))
    return incoming.spread(rows), outgoing.spread(columns), pairs.spread(w.reshape(pairs.width, -1))


def irregular(mask: Tensor, incoming: Profile, outgoing: Profile) -> bool:
    """Is some block pair of the edges ``mask`` [out, in] neither empty nor biregular?"""
    row, column, _ = equitable_spreads(mask[..., None], incoming, outgoing)
    return row > 0 or column > 0
