"""How many eigenvalues of a symmetric matrix lie beyond a level: Sylvester's law of inertia, without eigenvalues."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from proofs_checks.recheck_core.numbers import Field, Number, Undecided

Rows = list[list[Number]]


def epsilon_rank(entries: Mapping[tuple[int, int], Number], size: int, level: Fraction, field: Field) -> int:
    """#{i : |λ_i| > level} of the symmetric matrix [size, size] with these upper entries; ties are not counted.

    H − level·I has as many positive eigenvalues as H has above the level, and H + level·I as many negative ones as H has
    below −level. Over the rationals this is exact; with balls a pivot that may be zero is :class:`Undecided`.

    >>> from proofs_checks.recheck_core.numbers import Rationals
    >>> epsilon_rank({(0, 1): 2}, 3, Fraction(1), Rationals()), epsilon_rank({(0, 1): 2}, 3, Fraction(2), Rationals())
    (2, 0)
    """
    shift = field.number(level)
    above, _ = pivot_signs(_shifted(entries, size, -shift), field)
    _, below = pivot_signs(_shifted(entries, size, shift), field)
    return above + below


def _shifted(entries: Mapping[tuple[int, int], Number], size: int, shift: Number) -> Rows:
    value = [[entries.get((min(i, j), max(i, j)), 0) for j in range(size)] for i in range(size)]
    for i in range(size):
        value[i][i] = value[i][i] + shift
    return value


def pivot_signs(rows: Rows, field: Field) -> tuple[int, int]:
    """Positive and negative eigenvalues, by congruence: a pivot d on the diagonal leaves B − b bᵀ / d.

    If the whole diagonal is zero, an entry c off it is the pivot [[0, c], [c, 0]]: one eigenvalue of each sign.

    >>> from proofs_checks.recheck_core.numbers import Rationals
    >>> pivot_signs([[0, 1, 0], [1, 0, 0], [0, 0, -3]], Rationals())
    (1, 2)
    """
    positive = negative = 0
    while rows:
        size = range(len(rows))
        signs = [_sign(rows[i][i], field) for i in size]
        pivot = next((i for i in size if signs[i]), None)
        if pivot is not None:
            positive, negative = positive + (signs[pivot] == 1), negative + (signs[pivot] == -1)
            rest = [i for i in size if i != pivot]
            ratio = {i: field.divide(rows[i][pivot], rows[pivot][pivot]) for i in rest}
            rows = [[rows[i][j] - ratio[i] * rows[pivot][j] for j in rest] for i in rest]
            continue
        if None in signs:
            raise Undecided("the sign of a pivot of the shifted Hessian is not decided")
        pair = next(((i, j) for i in size for j in range(i) if field.sign(rows[i][j])), None)
        if pair is None:
            break
        i, j = pair
        positive, negative = positive + 1, negative + 1
        rest = [k for k in size if k not in pair]
        first = {k: field.divide(rows[k][i], rows[i][j]) for k in rest}
        second = {k: field.divide(rows[k][j], rows[i][j]) for k in rest}
        rows = [[rows[k][m] - first[k] * rows[j][m] - second[k] * rows[i][m] for m in rest] for k in rest]
    return positive, negative


def _sign(value: Number, field: Field) -> int | None:
    try:
        return field.sign(value)
    except Undecided:
        return None
