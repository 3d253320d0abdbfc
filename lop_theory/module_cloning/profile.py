"""Profiles of interfaces: which base feature every feature of a clone copies, and the errors of modular cloning.

Source: *Barriers* (arXiv 2510.00304) v1, §2 and App. A: a module's profile is a pair of surjections onto the interfaces of
its base; their fibres are the blocks. Two modules match if the profile that one gives is the one that the next takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class UnsupportedModuleError(TypeError):
    """A module for which no cloning rule is known."""


class ShapeMismatchError(ValueError):
    """A module takes another number of features than the one before it gives."""


class ProfileMismatchError(ValueError):
    """Two features of one block of a module come from different blocks of the module before it (profiles do not match)."""


class NotTheBaseFunctionError(ValueError):
    """The clone would stay cloned but compute another function than the base."""


@dataclass(frozen=True)
class Profile:
    """``of[u]`` is the base feature that feature u copies: a surjection onto 0 … base_width − 1.

    >>> p = Profile.repeat(2, 3)
    >>> p.of, p.width, p.base_width, p.copies.tolist()
    ((0, 0, 0, 1, 1, 1), 6, 2, [3, 3])
    """

    of: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.of or sorted(set(self.of)) != list(range(max(self.of) + 1)):
            raise ValueError(
                f"profile {self.of} is not onto 0 … {max(self.of, default=0)}; every base feature needs a copy; number the "
                "base features from 0 without gaps"
            )

    @staticmethod
    def identity(width: int) -> Profile:
        """Nothing is cloned."""
        return Profile(tuple(range(width)))

    @staticmethod
    def repeat(width: int, copies: int) -> Profile:
        """Every feature ``copies`` times, copies side by side."""
        return Profile.from_copies([copies] * width)

    @staticmethod
    def from_copies(copies: Sequence[int]) -> Profile:
        """copies[j] of base feature j, side by side.

        >>> Profile.from_copies([2, 1]).of
        (0, 0, 1)
        """
        if any(not isinstance(c, int) or isinstance(c, bool) or c < 1 for c in copies):
            raise ValueError(f"copies {list(copies)} are not whole numbers ≥ 1; use 1 to keep a feature as it is")
        return Profile(tuple(j for j, c in enumerate(copies) for _ in range(c)))

    def expanded(self, positions: int) -> Profile:
        """The profile after flattening [C, positions] → [C · positions]: feature (c, p) copies (of[c], p).

        >>> Profile((0, 0, 1)).expanded(2).of
        (0, 1, 0, 1, 2, 3)
        """
        return Profile(tuple(c * positions + p for c in self.of for p in range(positions)))

    @property
    def width(self) -> int:
        """Number of features of the clone."""
        return len(self.of)

    @property
    def base_width(self) -> int:
        """Number of features of the base, which is the number of blocks."""
        return max(self.of) + 1

    @cached_property
    def index(self) -> Tensor:
        """``of`` as int64 [width], to gather from base features."""
        return torch.tensor(self.of)

    @cached_property
    def copies(self) -> Tensor:
        """Block sizes, int64 [base_width]."""
        return torch.bincount(self.index)

    @property
    def is_trivial(self) -> bool:
        """Are all blocks of size one?"""
        return self.width == self.base_width

    @property
    def is_uniform(self) -> bool:
        """Are all blocks of one size?"""
        return len(set(self.copies.tolist())) == 1

    @cached_property
    def fibres(self) -> tuple[int, ...]:
        """The partition alone: blocks numbered in the order of their first features."""
        names: dict[int, int] = {}
        return tuple(names.setdefault(j, len(names)) for j in self.of)

    @cached_property
    def one_hot(self) -> Tensor:
        """Block indicator, float64 [width, base_width]."""
        return torch.nn.functional.one_hot(self.index, self.base_width).to(torch.float64)

    def spread(self, values: Tensor) -> float:
        """Largest difference of two values of one block; ``values`` [width, …]; 0 if no block has two members.

        >>> Profile((0, 0, 1)).spread(torch.tensor([1., 3., 9.]))
        2.0
        """
        if self.is_trivial or not values.numel():
            return 0.0
        rows = values.detach().cpu().reshape(self.width, -1)
        where = self.index[:, None].expand_as(rows)
        blank = rows.new_zeros(self.base_width, rows.shape[1])
        high = blank.scatter_reduce(0, where, rows, "amax", include_self=False)
        low = blank.scatter_reduce(0, where, rows, "amin", include_self=False)
        return float((high - low).max())

    def composition(self, groups: int) -> list[list[int]]:
        """How often each block occurs in each of ``groups`` consecutive groups of equal size."""
        size = self.width // groups
        return [
            torch.bincount(self.index[g * size : (g + 1) * size], minlength=self.base_width).tolist()
            for g in range(groups)
        ]

    def split_block(self, groups: int) -> int | None:
        """A block with members in two groups that do not hold the same blocks equally often, or ``None``.

        Statistics of such groups differ, so the members of the block do too.

        >>> Profile((0, 0, 0, 1, 1, 1)).split_block(2), Profile((0, 0, 0, 1, 1, 1)).split_block(3)
        (None, 0)
        """
        found = self.composition(groups)
        for block in range(self.base_width):
            if len({tuple(c) for c in found if c[block]}) > 1:
                return block
        return None


class Interface(NamedTuple):
    """The profiles on the two sides of a module."""

    incoming: Profile
    outgoing: Profile


class Wire(NamedTuple):
    """What flows between two modules. ``profile`` is ``None`` for the raw input of the network (no clones, any width);

    ``axis`` is where the features are: "channels" (dim 1), "last", or "any" (not known yet); ``flat`` says that every
    feature of ``profile`` stands for as many consecutive positions as the next module shows.
    """

    profile: Profile | None = None
    axis: str = "any"
    flat: bool = False
