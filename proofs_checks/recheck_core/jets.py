r"""Second-order forward jets: value, sparse gradient and sparse Hessian with respect to the parameters.

A jet is the Taylor polynomial of order two of one scalar, :math:`a(\theta + d) = a + g\cdot d + \tfrac12 d^\top H d`.
Two rules suffice:

.. math::
    ab:\quad & H = a H_b + b H_a + g_a g_b^\top + g_b g_a^\top \\
    f(a):\quad & g = f'(a) g_a,\qquad H = f'(a) H_a + f''(a)\, g_a g_a^\top .

This is slow (no adjoint, no matrix products) and therefore an independent check of the library's Hessian formula.
Entries that are exactly zero are not stored: a parameter without effect has no row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from proofs_checks.recheck_core.numbers import Number


@dataclass(slots=True)
class Jet:
    """Value, gradient ``{i: dL/dtheta_i}`` and upper Hessian ``{(i, j): entry}`` with i <= j."""

    value: Number
    gradient: dict[int, Number] = field(default_factory=dict)
    hessian: dict[tuple[int, int], Number] = field(default_factory=dict)


@dataclass(frozen=True)
class JetSpace:
    """Jets truncated at ``order`` 0 (values), 1 (gradients) or 2 (Hessians).

    >>> space = JetSpace(order=2)
    >>> total = Jet(0)
    >>> space.add_product(total, space.variable(3, 0), space.variable(5, 1))
    >>> total
    Jet(value=15, gradient={0: 5, 1: 3}, hessian={(0, 1): 1})
    """

    order: int

    def variable(self, value: Number, index: int) -> Jet:
        """The coordinate function theta_index at ``value``."""
        return Jet(value, {index: 1} if self.order >= 1 else {})

    def add_scaled(self, total: Jet, jet: Jet, factor: Number) -> None:
        """total += factor * jet, in place."""
        if factor == 0:
            return
        total.value = total.value + factor * jet.value
        _add_to(total.gradient, jet.gradient, factor)
        _add_to(total.hessian, jet.hessian, factor)

    def add_product(self, total: Jet, left: Jet, right: Jet) -> None:
        """total += left * right, in place."""
        total.value = total.value + left.value * right.value
        _add_to(total.gradient, left.gradient, right.value)
        _add_to(total.gradient, right.gradient, left.value)
        if self.order < 2:
            return
        _add_to(total.hessian, left.hessian, right.value)
        _add_to(total.hessian, right.hessian, left.value)
        hessian = total.hessian
        for i, left_i in left.gradient.items():
            for j, right_j in right.gradient.items():
                # Of g_a g_b' + g_b g_a' the upper triangle keeps one of two mirror entries, and both on the diagonal.
                key = (i, j) if i <= j else (j, i)
                term = left_i * right_j
                hessian[key] = hessian.get(key, 0) + (2 * term if i == j else term)

    def add_composed(self, total: Jet, jet: Jet, value: Number, slope: Number, curvature: Number) -> None:
        """total += f(jet) in place, where f, f', f'' at ``jet.value`` are ``value``, ``slope``, ``curvature``."""
        total.value = total.value + value
        _add_to(total.gradient, jet.gradient, slope)
        if self.order < 2:
            return
        _add_to(total.hessian, jet.hessian, slope)
        if curvature == 0:
            return
        hessian = total.hessian
        entries = sorted(jet.gradient.items())
        for position, (i, g_i) in enumerate(entries):
            scaled = curvature * g_i
            for j, g_j in entries[position:]:
                hessian[i, j] = hessian.get((i, j), 0) + scaled * g_j

    def compose(self, jet: Jet, value: Number, slope: Number, curvature: Number) -> Jet:
        """f(jet) as a new jet."""
        result = Jet(0)
        self.add_composed(result, jet, value, slope, curvature)
        return result


def _add_to(total: dict, terms: dict, factor: Number) -> None:
    if factor == 0:
        return
    for key, term in terms.items():
        total[key] = total.get(key, 0) + factor * term
