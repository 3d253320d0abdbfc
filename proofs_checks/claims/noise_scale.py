r"""Barriers, gradient noise: "relative to the gradient norm" in the text, a multiple of √d of it in formula and code.

The noise of a parameter tensor g ∈ R^d is σ λᵗ ‖g‖ ξ with ξ standard normal in R^d, so its mean square norm is
σ² λ²ᵗ ‖g‖² d. Gradients are exact; squares of norms are compared, which are rational.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import sympy
import torch
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.algorithms.base import Context, generators, normal_like
from lop_theory.algorithms.descent import sgd
from lop_theory.algorithms.perturbation import gradient_noise
from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.forward import gradient
from proofs_checks.claim import Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import mlp_instances, widths

SIGMA = fmpq(1, 100)
TEXT = Source("2510.00304", "v1", "experiments with NoisySGD", "text against formula and code")
Share = Callable[[int, int], fmpq]


def tensors(instance: Instance) -> Iterator[list[int]]:
    """The parameter indices of each weight matrix and each bias vector."""
    dag = instance.dag
    for block in dag.blocks[2:]:
        into = np.isin(dag.target, block.units)
        for edges in (into & (dag.source != dag.constant), into & (dag.source == dag.constant)):
            indices = sorted({int(p) for p in dag.param[edges]})
            if indices:
                yield indices


def exact_gradient(instance: Instance) -> np.ndarray:
    """∂L/∂θ over Q."""
    theta, x, y = (rational_array(a) for a in (instance.theta, instance.x, instance.y))
    slopes: np.ndarray = gradient(instance.dag, theta, x, y, instance.kind, RATIONALS)
    return slopes


def _energy_check(expected: Share, text: str) -> Callable[[Instance], Evidence]:
    """E‖noise‖² = σ² ‖g‖² d against σ² ‖g‖² expected(d, P) for each tensor; d = Σ_i E ξ_i²."""

    def check(instance: Instance) -> Evidence:
        slopes = exact_gradient(instance)
        for indices in tensors(instance):
            d, energy = len(indices), sum((slopes[k] * slopes[k] for k in indices), fmpq(0))
            observed, predicted = SIGMA**2 * energy * d, SIGMA**2 * energy * expected(d, len(slopes))
            if observed != predicted:
                note = f"a tensor of d = {d} numbers: E|noise|² = {observed}, {text}: {predicted}"
                document = partial(_witness, instance, indices, expected(d, len(slopes)), observed > predicted, note)
                return Evidence(Verdict.FAILS, observed, predicted, None, note, document)
        return Evidence(Verdict.HOLDS)

    return check


def _witness(instance: Instance, indices: list[int], share: fmpq, more: bool, note: str) -> dict[str, Any]:
    """d ‖g‖² against share · ‖g‖²; the mean of a squared standard normal number is 1."""
    squares = [{"product": [quantity("gradient", index=k), quantity("gradient", index=k)]} for k in indices]
    left, right = ({"product": [number(c), {"sum": squares}]} for c in (fmpq(len(indices)), share))
    line = assertion(left, ">" if more else "<", right)
    return witness(note, {"net": network_document(instance)}, [line])


def _library_noise(instance: Instance) -> Evidence:
    """The noise of the library, with the draws given, is σ ‖g‖ ξ for each tensor; its mean square is then as claimed."""
    slopes = exact_gradient(instance).astype(np.float64)
    grads = tuple(torch.from_numpy(slopes[indices])[None] for indices in tensors(instance))
    rule, zero = gradient_noise(sgd(1.0), float(SIGMA)), tuple(torch.zeros_like(g) for g in grads)
    empty = Context(None, None, None, 0, generators([0]))  # type: ignore[arg-type]
    after, _ = rule.update(zero, grads, rule.init(zero), empty)
    for g, p, xi in zip(grads, after, normal_like(grads, generators([0])), strict=True):
        expected = float(SIGMA) * float(g.norm()) * xi
        gap = float((-p - g - expected).abs().max())
        if gap > 1e-12 * (1 + float(g.abs().max())):
            return Evidence(Verdict.FAILS, gap, 0, None, f"the noise of the library differs from σ|g|ξ by {gap}")
    return _energy_check(lambda d, total: fmpq(d), "repaired")(instance)


@st.composite
def _small(draw: DrawFn) -> Instance:
    """ReLU nets with at least two inputs or units, so that some tensor has two entries."""
    shape = draw(widths(hidden_layers=(1, 1), max_width=3, min_width=1))
    return draw(mlp_instances(st.just(shape), samples=(1, 3), bound=2))


@st.composite
def _single(draw: DrawFn) -> Instance:
    """The net 1 − 1 − 1: every tensor is one number, and the two statements agree."""
    return draw(mlp_instances(st.just([1, 1, 1]), samples=(1, 3), bound=2))


PRINTED = Claim(
    id="barriers.noisy-sgd.relative-scale",
    title="Gradient noise of 0.01 is 0.01 relative to the gradient norm",
    source=TEXT,
    kind="definition",
    statement=r"\mathbb{E}\,\|\text{noise}\|^2 = \sigma^2\,\|g\|^2 \quad \text{for every parameter tensor}",
    quantifier="for all",
    assumptions=(),
    instances=_small(),
    check=_energy_check(lambda d, total: fmpq(1), "as the text says"),
    expected=Verdict.FAILS,
    proof="Formula and code give every coordinate the standard deviation σ‖g‖; d independent coordinates add up to σ²‖g‖²d. "
    "At σ = 0.01 the noise of a tensor with more than 10,000 entries is larger than its gradient.",
    mutants=(
        Mutant(
            "at-most",
            "the noise is at most twice that",
            _energy_check(lambda d, total: fmpq(min(d, 2)), "at most 2 σ²|g|²"),
        ),
        Mutant(
            "whole-gradient",
            "the dimension that counts is that of all parameters",
            _energy_check(lambda d, total: fmpq(total), "with all P parameters"),
        ),
    ),
)


def _prove_energy() -> str:
    """E ξ² = 1, hence E Σ (σ n ξ_i)² = σ² n² d."""
    xi = sympy.symbols("xi", real=True)
    sigma, n, d = sympy.symbols("sigma n d", positive=True)
    density = sympy.exp(-(xi**2) / 2) / sympy.sqrt(2 * sympy.pi)
    second = sympy.integrate(xi**2 * density, (xi, -sympy.oo, sympy.oo))
    assert second == 1
    i = sympy.symbols("i", integer=True)
    total = sympy.summation(sigma**2 * n**2 * second, (i, 1, d))
    assert sympy.simplify(total - sigma**2 * n**2 * d) == 0
    return "E xi² = 1, so E|sigma n xi|² = sigma² n² d for xi in R^d"


REPAIRED = Claim(
    id="barriers.noisy-sgd.relative-scale.repaired",
    title="Gradient noise as coded is σ√d times the gradient norm, tensor by tensor",
    source=Source("2510.00304", "v1", "experiments with NoisySGD", "ours"),
    kind="ours",
    statement=r"\text{noise} = \sigma\|g\|\,\xi,\ \xi \sim N(0, I_d): \quad "
    r"\mathbb{E}\,\|\text{noise}\|^2 = \sigma^2\,\|g\|^2\, d",
    quantifier="for all",
    assumptions=(),
    instances=_small(),
    check=_library_noise,
    expected=Verdict.HOLDS,
    proof="The second moment of a standard normal number is 1, and moments of coordinates add up. Each instance also checks "
    "that the library adds σ‖g‖ξ with the ξ of its generator.",
    mutants=(
        Mutant("root", "σ²|g|²√d", _energy_check(lambda d, total: fmpq(int(np.sqrt(d))), "with ⌊√d⌋ in place of d")),
        Mutant("one-less", "σ²|g|²(d − 1)", _energy_check(lambda d, total: fmpq(d - 1), "with d − 1"), _single()),
    ),
    certificates=(Certificate("energy", "mean square norm", Strength.SYMBOLIC, Scope.ALL, _prove_energy),),
    repairs="barriers.noisy-sgd.relative-scale",
)

CLAIMS = (PRINTED, REPAIRED)
