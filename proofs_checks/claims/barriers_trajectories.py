r"""Exact training trajectories, the sets {F = 0} they may stay on, and the witness lines that speak of them.

Shared by the claims about *Barriers* (arXiv 2510.00304). An instance says in ``extra`` how it is trained: ``steps``
(default 1) steps of gradient descent at ``rate`` (default 1/4) on the full batch, with optional ``momentum`` μ,
``weight_decay`` λ and an initial buffer ``velocity`` [P], in the order of proofs_checks/recheck.py:

    g ← ∇L(θ) + λ θ,      v ← μ v + g,      θ ← θ − rate · v.

A :class:`LevelSet` holds polynomials F(θ) = Σ_k a_k θ_k + Σ_k s_k θ_k² − c. It is affine if every s is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from flint import fmpq

from lop_theory.arithmetic import RATIONALS, rational_array, to_fmpq
from lop_theory.dag import Dag
from lop_theory.forward import Pass, error_signals, gradient, loss_derivatives, run_forward
from lop_theory.manifolds import AffineSubspace
from proofs_checks.instances import Instance, number, quantity

RATE = fmpq(1, 4)


# -- training --------------------------------------------------------------------------------------------------------


def exact_gradient_at(instance: Instance, theta: np.ndarray, samples: slice | list[int] = slice(None)) -> np.ndarray:
    """∇L [P] at θ over Q, on all or some of the samples. Raises ``KinkError`` where it does not exist."""
    return gradient(instance.dag, theta, instance.x[samples], instance.y[samples], instance.kind, RATIONALS)


def states(instance: Instance) -> Iterator[np.ndarray]:
    """θ_0, …, θ_steps, each [P] over Q, computed as they are asked for."""
    extra = instance.extra
    rate, momentum, decay = (
        to_fmpq(extra.get(k, d)) for k, d in (("rate", RATE), ("momentum", 0), ("weight_decay", 0))
    )
    theta = rational_array(instance.theta)
    velocity = rational_array(extra.get("velocity", np.zeros(len(theta))))
    yield theta
    for _ in range(extra.get("steps", 1)):
        velocity = momentum * velocity + exact_gradient_at(instance, theta) + decay * theta
        theta = theta - rate * velocity
        yield theta


@lru_cache(maxsize=4)  # the parts of one claim ask for the same path
def trajectory(instance: Instance) -> tuple[np.ndarray, ...]:
    """(θ_0, …, θ_steps)."""
    return tuple(states(instance))


def training(instance: Instance, steps: int) -> dict[str, Any]:
    """The training of an instance as arguments of a witness quantity."""
    extra = instance.extra
    rule = {"name": "sgd", **{k: number(extra[k]) for k in ("momentum", "weight_decay") if extra.get(k, 0) != 0}}
    arguments = {"steps": steps, "rate": number(extra.get("rate", RATE)), "rule": rule}
    if "velocity" in extra and np.any(rational_array(extra["velocity"]) != 0):
        arguments["velocity"] = [number(v) for v in extra["velocity"]]
    return arguments


# -- passes by unit --------------------------------------------------------------------------------------------------


def exact_pass(instance: Instance, theta: np.ndarray | None = None) -> Pass:
    """The forward pass over Q."""
    parameters = rational_array(instance.theta if theta is None else theta)
    return run_forward(RATIONALS, instance.dag, parameters, rational_array(instance.x))


def by_unit(dag: Dag, values: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Columns [N] by unit, from arrays [N, n] by block."""
    return {int(v): values[b][:, k] for b in values for k, v in enumerate(dag.blocks[b].units)}


def exact_error_signals(instance: Instance, run: Pass) -> dict[int, np.ndarray]:
    """δ = ∂L/∂z [N] by computed unit."""
    slope = loss_derivatives(RATIONALS, run.output, rational_array(instance.y), instance.kind)[0]
    return by_unit(instance.dag, error_signals(RATIONALS, instance.dag, run, slope)[1])


# -- level sets ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equation:
    """F(θ) = Σ linear[k] θ_k + Σ squares[k] θ_k² − constant."""

    linear: Mapping[int, fmpq]
    constant: fmpq
    squares: Mapping[int, fmpq]

    def __str__(self) -> str:
        terms = [f"{a}·θ{k}" for k, a in self.linear.items()] + [f"{s}·θ{k}²" for k, s in self.squares.items()]
        return f"{' + '.join(terms) or 0} = {self.constant}"

    def value(self, theta: np.ndarray) -> fmpq:
        total = -self.constant
        for k, a in self.linear.items():
            total = total + a * theta[k]
        for k, s in self.squares.items():
            total = total + s * theta[k] ** 2
        return total

    def slope(self, theta: np.ndarray, direction: np.ndarray) -> fmpq:
        """∇F(θ) · direction: zero iff the direction is tangent."""
        total = fmpq(0)
        for k, a in self.linear.items():
            total = total + a * direction[k]
        for k, s in self.squares.items():
            total = total + 2 * s * theta[k] * direction[k]
        return total

    def as_quantity(self, num_params: int, arguments: Mapping[str, Any], net: str = "net") -> dict[str, Any]:
        """F + constant after training, as an expression of a witness."""
        coefficients = [number(self.linear.get(k, 0)) for k in range(num_params)]
        terms = [quantity("form_after", net, coefficients=coefficients, **arguments)]
        for k, s in self.squares.items():
            entry = quantity("param_after", net, index=int(k), **arguments)
            terms.append({"product": [number(s), entry, entry]})
        return {"sum": terms}


@dataclass(frozen=True)
class LevelSet:
    """{θ ∈ R^P : F_1(θ) = … = 0}."""

    equations: tuple[Equation, ...]

    def __str__(self) -> str:
        return "{" + ", ".join(map(str, self.equations)) + "}"

    __repr__ = __str__

    @staticmethod
    def affine(subspace: AffineSubspace) -> LevelSet:
        return LevelSet(tuple(Equation(row, c, {}) for row, c in subspace.equations if row))

    @property
    def is_affine(self) -> bool:
        return not any(s != 0 for equation in self.equations for s in equation.squares.values())

    def broken(self, theta: np.ndarray) -> Equation | None:
        """The first equation that does not hold at θ."""
        return next((equation for equation in self.equations if equation.value(theta) != 0), None)

    def tangent(self, theta: np.ndarray, direction: np.ndarray) -> bool:
        return all(equation.slope(theta, direction) == 0 for equation in self.equations)


def fixed_coordinates(theta: Any, indices: Iterable[int]) -> LevelSet:
    """{θ' : θ'_k = θ_k for k in indices}."""
    exact = rational_array(theta)
    return LevelSet(tuple(Equation({int(k): fmpq(1)}, exact[int(k)], {}) for k in indices))
