"""Rank of a sparse symmetric matrix: exact over the rationals, a proven interval for balls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm

from proofs_checks.recheck_core.numbers import Number, is_certainly_equal, lift

Entries = Mapping[tuple[int, int], Number]
"""Upper entries (i, j), i <= j, of a symmetric matrix; absent entries are zero."""


@dataclass(frozen=True)
class RankInterval:
    """A rank known to lie between two whole numbers.

    >>> str(RankInterval(26, 32))
    'between 26 and 32'
    """

    lower: int
    upper: int

    def __str__(self) -> str:
        return f"between {self.lower} and {self.upper}"


def dense_rows(entries: Entries) -> list[list[Number]]:
    """The symmetric matrix without its zero rows and columns.

    >>> dense_rows({(0, 3): 2, (1, 1): 0})
    [[0, 2], [2, 0]]
    """
    nonzero = {key: value for key, value in entries.items() if not is_certainly_equal(value, 0)}
    used = sorted({index for key in nonzero for index in key})
    return [[nonzero.get((min(i, j), max(i, j)), 0) for j in used] for i in used]


def rational_rank(entries: Entries) -> int:
    """Exact rank over Q by Bareiss elimination on integers (rows cleared of denominators first).

    Bareiss: after step k every entry is a (k+1)-minor, so the division by the previous pivot leaves no remainder.

    >>> rational_rank({(0, 0): 1, (0, 1): 2, (1, 1): 4, (2, 2): 7})
    2
    """
    rows = []
    for row in dense_rows(entries):
        common = lcm(*(value.denominator for value in row))
        rows.append([int(value * common) for value in row])
    rank, previous, width = 0, 1, len(rows)
    for column in range(width):
        pivot_row = next((r for r in range(rank, width) if rows[r][column]), None)
        if pivot_row is None:
            continue
        rows[rank], rows[pivot_row] = rows[pivot_row], rows[rank]
        top = rows[rank]
        pivot = top[column]
        for r in range(rank + 1, width):
            row, head = rows[r], rows[r][column]
            rows[r] = [0] * (column + 1) + [
                (pivot * row[c] - head * top[c]) // previous for c in range(column + 1, width)
            ]
        previous, rank = pivot, rank + 1
    return rank


def ball_rank(entries: Entries) -> int | RankInterval:
    """Rank of every matrix in the enclosure: proven pivots below, rows that are not exactly zero above.

    Gaussian elimination with complete pivoting on the entry of largest proven absolute value; a pivot counts only if
    its ball excludes zero, so the product of the counted pivots is a non-zero minor.

    >>> from proofs_checks.recheck_core.numbers import lift
    >>> ball_rank({(0, 0): lift(3), (0, 1): lift(1), (1, 1): lift(2)})
    2
    """
    rows = [[lift(value) for value in row] for row in dense_rows(entries)]
    upper = len(rows)
    rank = 0
    while rows:
        largest, r, c = max(
            ((value.abs_lower(), r, c) for r, row in enumerate(rows) for c, value in enumerate(row)),
            key=lambda candidate: candidate[0],
        )
        if not largest > 0:
            break
        top = rows.pop(r)
        rest = [k for k in range(len(top)) if k != c]
        rows = [[row[k] - row[c] / top[c] * top[k] for k in rest] for row in rows]
        rank += 1
    return rank if rank == upper else RankInterval(rank, upper)
