"""Jacobians and Gauss–Newton entries as quantities that the independent checker can compute.

The checker differentiates losses, not outputs. A *probe* is the network on one sample x_n with targets f(x_n) − e_o: its
loss ½ |f − y|² has the gradient (∂f/∂θ)ᵀ e_o, one row of the Jacobian, and its adjoints are ∂f_o/∂z. The checker confirms
by itself that f(x_n) is what the targets suppose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from lop_theory.arithmetic import RATIONALS
from lop_theory.forward import run_forward
from proofs_checks.instances import Instance, assertion, network_document, quantity

Expression = dict[str, Any]


def rational_output(instance: Instance) -> np.ndarray:
    """f [N, O] over Q."""
    theta, x = RATIONALS.convert(instance.theta), RATIONALS.convert(instance.x)
    output: np.ndarray = run_forward(RATIONALS, instance.dag, theta, x).output
    return output


class Probes:
    """The probes of a network on all samples and outputs; names carry a prefix, so that several networks fit one witness."""

    def __init__(self, instance: Instance, prefix: str = "probe") -> None:
        self.instance, self.prefix = instance, prefix
        self.pairs = list(product(range(len(instance.x)), range(instance.dag.num_outputs)))

    @cached_property
    def output(self) -> np.ndarray:
        return rational_output(self.instance)

    def name(self, n: int, o: int) -> str:
        return f"{self.prefix}_{n}_{o}"

    @property
    def networks(self) -> dict[str, dict[str, Any]]:
        """One network per sample and output."""
        documents = {}
        for n, o in self.pairs:
            target = self.output[n : n + 1].copy()
            target[0, o] = target[0, o] - 1
            probe = replace(self.instance, x=self.instance.x[n : n + 1], y=target, kind="mse_sum")
            documents[self.name(n, o)] = network_document(probe)
        return documents

    @property
    def assertions(self) -> list[dict[str, Any]]:
        """The outputs are those that the targets suppose."""
        units = [int(v) for v in self.instance.dag.outputs]
        return [
            assertion(quantity("value", self.name(n, o), unit=unit, sample=0), "==", self.output[n, c])
            for n, o in self.pairs
            for c, unit in enumerate(units)
        ]

    def jacobian(self, n: int, o: int, index: int) -> Expression:
        """∂f_o(x_n)/∂θ_index."""
        return quantity("gradient", self.name(n, o), index=index)

    def jacobian_form(self, n: int, o: int, coefficients: Sequence[str]) -> Expression:
        """J v at row (n, o)."""
        return quantity("gradient_form", self.name(n, o), coefficients=list(coefficients))

    def signal(self, n: int, o: int, unit: int) -> Expression:
        """∂f_o(x_n)/∂z_unit."""
        return quantity("adjoint", self.name(n, o), unit=unit, sample=0)

    def value(self, n: int, unit: int) -> Expression:
        """h_unit(x_n)."""
        return quantity("value", self.name(n, 0), unit=unit, sample=0)

    def gauss_newton(self, i: int, j: int) -> Expression:
        """(JᵀJ)_ij, the Gauss–Newton entry of the loss ``mse_sum``."""
        return total([times(self.jacobian(n, o, i), self.jacobian(n, o, j)) for n, o in self.pairs])


def total(terms: Sequence[Any]) -> Expression:
    """The sum of expressions."""
    return {"sum": list(terms)}


def times(*factors: Any) -> Expression:
    """The product of expressions."""
    return {"product": list(factors)}


def minus(expression: Any) -> Expression:
    """The negative of an expression."""
    return times("-1", expression)
