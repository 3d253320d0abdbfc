r"""Spectral Collapse, the regulariser L2-ER: what its objective says, its gradient, its blindness to scale.

The printed objective is E[ℓ] − erank(Σ_l E[a_l a_lᵀ]) + λ‖θ‖². For what it does to networks see ``regularizer_steps``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy
import torch
from flint import arb, fmpq, fmpz_mat
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.algorithms.regularizers import effective_rank_gradient
from lop_theory.architectures import mlp
from lop_theory.arithmetic import rational_array
from lop_theory.dag import Dag
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.effective_ranks import (
    Rows,
    alive,
    changed_features,
    comparison,
    effective,
    features,
    layer_of,
    order,
    rank_quantity,
    show,
)
from proofs_checks.instances import Instance, assertion, network_document, number, witness
from proofs_checks.strategies import integers_array, layer_units, mlp_instances, widths

SPECTRAL = "2509.22335"
OBJECTIVE = Source(SPECTRAL, "v1", "objective of L2-ER (poster)", "text of the paper not at hand; code of May 2026")


# -- the three readings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Readings:
    """erank(Σ_l C_l) and the erank(C_l), as numbers and as quantities of the independent checker."""

    total: Any
    each: list[Any]
    total_quantity: dict[str, Any]
    each_quantities: list[dict[str, Any]]

    @property
    def sum(self) -> Any:
        return sum(self.each[1:], self.each[0])

    @property
    def mean(self) -> Any:
        return self.sum / len(self.each) if isinstance(self.sum, arb) else fmpq(self.sum, len(self.each))

    def mean_quantity(self) -> dict[str, Any]:
        return {"product": [number(fmpq(1, len(self.each))), {"sum": self.each_quantities}]}


def readings(instance: Instance) -> Readings:
    """All readings of the printed term at an instance."""
    layers = features(instance)
    units = [layer_of(instance, k) for k in range(len(layers))]
    return Readings(
        effective(np.concatenate(layers), 2),  # Σ_l C_l is the Gram matrix of the stacked rows, over N
        [effective(F, 2) for F in layers],
        rank_quantity(units, 2),
        [rank_quantity([u], 2) for u in units],
    )


def _one_width(instance: Instance) -> bool:
    return len({len(layer_units(instance.dag, k + 1)) for k in range(len(instance.dag.blocks) - 3)}) == 1


def _compare_readings(
    relation: Callable[[Readings], tuple[Any, Any, dict[str, Any], dict[str, Any]]], allowed: tuple[int, ...], text: str
) -> Callable[[Instance], Evidence]:
    """Refuted where the sign of left − right is not among ``allowed``."""

    def check(instance: Instance) -> Evidence:
        if not _one_width(instance):
            return Evidence(Verdict.FAILS, note="the layers have different widths: Σ_l E[a aᵀ] has no meaning")
        values = readings(instance)
        left, right, left_quantity, right_quantity = relation(values)
        sign = order(left, right)
        note = f"erank(ΣC) = {show(values.total)}, each {[show(v) for v in values.each]}"
        if sign is None:
            return Evidence(Verdict.UNDECIDED, left, right, None, note)
        if sign in allowed:
            return Evidence(Verdict.HOLDS, left, right, 0 if sign == 0 else None, note)

        def document() -> dict[str, Any]:
            lines = [assertion(left_quantity, comparison(sign), right_quantity)]
            return witness(f"{text}: refuted, {note}", {"net": network_document(instance)}, lines)

        return Evidence(Verdict.FAILS, left, right, None, note, document)

    return check


def _total_and_mean(r: Readings) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    return r.total, r.mean, r.total_quantity, r.mean_quantity()


def _total_and_sum(r: Readings) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    return r.total, r.sum, r.total_quantity, {"sum": r.each_quantities}


def _extreme(index: int) -> Callable[[Readings], tuple[Any, Any, dict[str, Any], dict[str, Any]]]:
    """erank(Σ C) beside the smallest (0) or largest (−1) erank(C_l)."""

    def pick(r: Readings) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
        k = sorted(range(len(r.each)), key=lambda j: float(r.each[j]))[index]
        return r.total, r.each[k], r.total_quantity, r.each_quantities[k]

    return pick


_BOUNDS = (
    _compare_readings(_extreme(0), (0, 1), "erank(ΣC) >= min_l erank(C_l)"),
    _compare_readings(_total_and_sum, (0, -1), "erank(ΣC) <= Σ_l erank(C_l)"),
)


def _check_bounds(instance: Instance) -> Evidence:
    first, second = (check(instance) for check in _BOUNDS)
    return next((e for e in (first, second) if e.verdict is Verdict.FAILS), second if second.margin == 0 else first)


@st.composite
def _layered(draw: DrawFn, equal: bool = True, depth: int = 3) -> Instance:
    """ReLU nets with two or three hidden layers of one width (or two widths), none of them zero on the batch."""
    width, hidden = draw(st.integers(2, 3)), draw(st.integers(2, depth))
    inner = [width] * hidden
    if not equal:
        inner[-1] = width + draw(st.integers(1, 2))
    shape = st.just([draw(st.integers(1, 2)), *inner, 1])
    instance = draw(mlp_instances(shape, samples=(1, 4), bound=2))
    return replace(instance, theta=alive(instance.dag, instance.theta, instance.x))


ONE_WIDTH = Assumption("one width", "all hidden layers have the same width", _one_width)

THREE_READINGS = Claim(
    id="spectral.l2er.three-readings",
    title="L2-ER: erank(Σ_l E[a aᵀ]) is the average effective rank of the layers",
    source=OBJECTIVE,
    kind="definition",
    statement=r"\operatorname{erank}\Big(\sum_\ell \mathbb{E}[a_\ell a_\ell^\top]\Big)"
    r" = \frac1L \sum_\ell \operatorname{erank}\big(\mathbb{E}[a_\ell a_\ell^\top]\big)",
    quantifier="for all",
    assumptions=(ONE_WIDTH,),
    instances=_layered(),
    check=_compare_readings(_total_and_mean, (0,), "erank(ΣC) = mean of erank(C_l)"),
    expected=Verdict.FAILS,
    proof="The objective as printed needs layers of one width; the code takes the mean over layers, of the feature matrices "
    "instead of their second moments. The readings are different functions: two layers of rank one in orthogonal directions "
    "have 2, 1 and (summed) 2; the first reading weighs layers by their scale, so a large healthy layer hides a collapsed one.",
    without={"one width": _layered(equal=False)},
    mutants=(
        Mutant(
            "sum-at-least-mean",
            "erank(ΣC) >= mean",
            _compare_readings(_total_and_mean, (0, 1), "erank(ΣC) >= mean of erank(C_l)"),
        ),
        Mutant(
            "sum-at-most-mean",
            "erank(ΣC) <= mean",
            _compare_readings(_total_and_mean, (0, -1), "erank(ΣC) <= mean of erank(C_l)"),
        ),
    ),
)


@st.composite
def _orthogonal_layers(draw: DrawFn) -> Instance:
    """Two layers of width 2 with features c e_1 and c e_2 (one sample): 1 + 1 = 2."""
    dag = mlp([1, 2, 2, 1])
    c = float(draw(st.integers(1, 3)))
    first, second = [c, 0, 0, -1], [-1, 0, 0, 0, 0, c]
    theta = np.array([*first, *second, 1, 1, 0])
    return Instance(dag, theta, np.array([[1.0]]), np.array([[0.0]]))


def _prove_upper_step() -> str:
    """max over t of h(t) + t a + (1 − t) b is ln(eᵃ + eᵇ)."""
    t, a, b = sympy.symbols("t a b", positive=True)
    value = -t * sympy.log(t) - (1 - t) * sympy.log(1 - t) + t * a + (1 - t) * b
    best = sympy.exp(a) / (sympy.exp(a) + sympy.exp(b))
    slope = sympy.diff(value, t)
    assert (
        sympy.simplify(slope - (sympy.log((1 - t) / t) + a - b)) == 0
        or sympy.simplify(sympy.expand_log(slope - (sympy.log(1 - t) - sympy.log(t) + a - b), force=True)) == 0
    )
    assert sympy.simplify(sympy.diff(value, t, 2) + 1 / t + 1 / (1 - t)) == 0  # strictly concave
    difference = value.subs(t, best) - sympy.log(sympy.exp(a) + sympy.exp(b))
    assert sympy.simplify(sympy.expand_log(sympy.simplify(difference), force=True)) == 0
    return "h(t) + t a + (1-t) b <= ln(e^a + e^b), with equality at t = e^a / (e^a + e^b)"


def _prove_entropy_steps() -> str:
    """Term by term: −x ln x is concave, orthogonal matrices average, and a product of shares splits."""
    x, t, p = sympy.symbols("x t p", positive=True)
    phi = -x * sympy.log(x)
    assert sympy.simplify(sympy.diff(phi, x, 2) + 1 / x) == 0  # Jensen: H(Dλ) >= H(λ) for doubly stochastic D
    product = -t * p * sympy.log(t * p)
    split = p * (-t * sympy.log(t)) + t * (-p * sympy.log(p))  # summed with Σ_k p_k = 1: H(t) + Σ t_l H(p_l)
    assert sympy.simplify(sympy.expand_log(product - split)) == 0
    return "H(tp) = H(t) + Σ t_l H(p_l), and diagonals have at least the entropy of the spectrum (Schur, Jensen)"


THREE_READINGS_REPAIRED = Claim(
    id="spectral.l2er.three-readings.repaired",
    title="The reading erank(ΣC) lies between the smallest and the sum of the layers' effective ranks",
    source=Source(SPECTRAL, "v1", "objective of L2-ER", "ours"),
    kind="ours",
    statement=r"\min_\ell \operatorname{erank}(C_\ell) \le \operatorname{erank}\Big(\sum_\ell C_\ell\Big)"
    r" \le \sum_\ell \operatorname{erank}(C_\ell)",
    quantifier="for all",
    assumptions=(ONE_WIDTH,),
    instances=_layered(),
    check=_check_bounds,
    expected=Verdict.HOLDS,
    proof="Write ρ_l = C_l / tr C_l, t_l for the share of layer l in the total trace, S for the entropy of the spectrum: "
    "erank = e^S. A diagonal is a doubly stochastic image of the spectrum, so its entropy is at least S (Schur, Jensen). "
    "Below: in the eigenbasis of ρ = Σ t_l ρ_l the spectrum of ρ is Σ t_l diag(ρ_l), so S(ρ) >= Σ t_l H(diag ρ_l) >= "
    "Σ t_l S(ρ_l) >= min S. Above: ρ = Σ w_j v_j v_j' with unit v_j and w = t_l p_lk is isospectral to the Gram matrix "
    "(√(w_i w_j) <v_i, v_j>), whose diagonal is w: S(ρ) <= H(w) = H(t) + Σ t_l S(ρ_l) <= ln Σ e^(S_l), the maximum over t.",
    without={"one width": _layered(equal=False)},
    attained=_orthogonal_layers(),
    mutants=(
        Mutant("mean-below", "mean <= erank(ΣC)", _compare_readings(_total_and_mean, (0, 1), "erank(ΣC) >= mean")),
        Mutant("at-most-largest", "erank(ΣC) <= max", _compare_readings(_extreme(-1), (0, -1), "erank(ΣC) <= max")),
        Mutant("at-least-largest", "erank(ΣC) >= max", _compare_readings(_extreme(-1), (0, 1), "erank(ΣC) >= max")),
    ),
    certificates=(
        Certificate("entropy", "both bounds on the entropy", Strength.SYMBOLIC, Scope.CLASS, _prove_entropy_steps),
        Certificate(
            "mixing", "the maximum over t, two layers at a time", Strength.SYMBOLIC, Scope.CLASS, _prove_upper_step
        ),
    ),
    repairs="spectral.l2er.three-readings",
)


# -- the gradient ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Direction:
    """A feature matrix F [N, d] and a direction E [N, d], integers."""

    F: np.ndarray
    E: np.ndarray

    def __repr__(self) -> str:
        return f"Direction(F = {self.F.astype(int).tolist()}, E = {self.E.astype(int).tolist()})"


STEP = fmpq(1, 2**60)


def _at(d: Direction, t: fmpq) -> Rows:
    rows: Rows = rational_array(d.F) + t * rational_array(d.E)
    return rows


def quotient(d: Direction, power: int = 1) -> float:
    """(erank(F + tE) − erank(F)) / t at t = 2⁻⁶⁰: the directional derivative, up to 2⁻⁶⁰ times a curvature."""
    change = arb(effective(_at(d, STEP), power)) - arb(effective(_at(d, fmpq(0)), power))
    return float(change / arb(STEP))


def _slope(d: Direction, power: int = 1) -> float:
    """⟨∂erank/∂F, E⟩ by the library's formula."""
    return float((effective_rank_gradient(torch.from_numpy(d.F), power) * torch.from_numpy(d.E)).sum())


def _check_slope(formula: Callable[[Direction], float], text: str) -> Callable[[Direction], Evidence]:
    def check(d: Direction) -> Evidence:
        predicted, observed = formula(d), quotient(d)
        gap, scale = abs(observed - predicted), max(1.0, abs(predicted))
        note = f"difference quotient {observed:.9g}, {text} {predicted:.9g}"
        if gap <= 1e-9 * scale:
            return Evidence(Verdict.HOLDS, observed, predicted, None, note)
        if gap <= 1e-3 * scale:
            return Evidence(Verdict.UNDECIDED, observed, predicted, None, note)
        return Evidence(Verdict.FAILS, observed, predicted, None, note, lambda: _quotient_witness(d, predicted, text))

    return check


def _matrix_document(rows: Rows) -> dict[str, Any]:
    """A linear net whose input units hold the columns of the matrix."""
    inputs = np.arange(rows.shape[1])
    dag = Dag(len(inputs), False, ("identity",), inputs, np.full_like(inputs, len(inputs)), inputs, inputs[-1:] + 1)
    return network_document(Instance(dag, np.zeros(len(inputs)), rows, np.zeros((len(rows), 1))))


def _quotient_witness(d: Direction, predicted: float, text: str) -> dict[str, Any]:
    """erank(F + tE) − erank(F) against t (m ± 2⁻¹⁴) for the wrong slope m, at t = 2⁻⁴⁰."""
    t = fmpq(1, 2**40)
    observed = float((arb(effective(_at(d, t))) - arb(effective(_at(d, fmpq(0))))) / arb(t))
    above = observed > predicted
    bound = t * (fmpq(*predicted.as_integer_ratio()) + (1 if above else -1) * fmpq(1, 2**14))
    units = [list(range(d.F.shape[1]))]
    difference = {"sum": [rank_quantity(units, 1, "moved"), {"product": ["-1", rank_quantity(units, 1)]}]}
    networks = {"net": _matrix_document(_at(d, fmpq(0))), "moved": _matrix_document(_at(d, t))}
    statement = f"{text} {predicted:.6g}, but (erank(F + tE) - erank(F))/t = {observed:.6g} at t = 2^-40, for {d!r}"
    return witness(statement, networks, [assertion(difference, ">" if above else "<", bound)])


def _uncentred(d: Direction) -> float:
    """The formula without H: −erank ln p_i / S."""
    F = torch.from_numpy(d.F)
    U, sigma, Vh = torch.linalg.svd(F, full_matrices=False)
    p = sigma / sigma.sum()
    rank = torch.exp(-(p * p.log()).sum())
    return float((((U * (-rank * p.log() / sigma.sum())) @ Vh) * torch.from_numpy(d.E)).sum())


def _full_rank(d: Direction) -> bool:
    return int(fmpz_mat(d.F.astype(int).tolist()).rank()) == min(d.F.shape)


@st.composite
def _directions(draw: DrawFn, full: bool = True) -> Direction:
    """F = A + c I on its diagonal, strictly diagonally dominant, so of full rank; without ``full``, a row repeated."""
    n, d = draw(st.integers(1 if full else 2, 3)), draw(st.integers(1 if full else 2, 3))
    F, E = integers_array(draw, (n, d), 2), integers_array(draw, (n, d), 3)
    for i in range(min(n, d)):
        F[i, i] = 2.0 * max(n, d) + i
    if not full:
        F[1:] = F[0]
    return Direction(F, E)


def _prove_gradient() -> str:
    """dσ = uᵀ dF v from the definition of singular pairs, and the slope of the entropy for any number of values."""
    sigma, du_u, dv_v, a = sympy.symbols("sigma du_u dv_v a", real=True)  # duᵀu, dvᵀv, uᵀ dF v
    # d(uᵀ F v) with F v = σ u, Fᵀ u = σ v; unit vectors: duᵀu = dvᵀv = 0
    assert (sigma * du_u + a + sigma * dv_v).subs({du_u: 0, dv_v: 0}) == a
    s, S, T = sympy.symbols(
        "s S T", positive=True
    )  # one σ_i; S = Σσ and T = Σ σ ln σ, with ∂S/∂σ_i = 1, ∂T/∂σ_i = ln s + 1
    H = sympy.log(S) - T / S  # −Σ p ln p
    slope = sympy.diff(H, S) + sympy.diff(H, T) * (sympy.log(s) + 1)
    log_p = sympy.log(s) - sympy.log(S)
    assert sympy.simplify(slope + (log_p + H) / S) == 0
    return "d sigma_i = u_i' dF v_i and dH/d sigma_i = -(ln p_i + H)/S: d erank/dF = U diag(-e^H (ln p + H)/S) V'"


GRADIENT = Claim(
    id="spectral.l2er.gradient",
    title="The gradient of the effective rank of features",
    source=Source(SPECTRAL, "v1", "gradient of the penalty", "ours; the published code differentiates automatically"),
    kind="ours",
    statement=r"F = U\operatorname{diag}(\sigma)V^\top,\ p = \sigma/S,\ H = -\sum p\ln p:\quad "
    r"\nabla_F\, e^{H} = U \operatorname{diag}\Big({-e^{H}}\,\frac{\ln p_i + H}{S}\Big) V^\top",
    quantifier="for all",
    assumptions=(Assumption("full rank", "no singular value of F [N, d] is zero", _full_rank),),
    instances=_directions(),
    check=_check_slope(_slope, "formula"),
    expected=Verdict.HOLDS,
    proof="dσ_i = u_i' dF v_i because singular vectors have length one, and H = ln S - Σσ ln σ / S has the slope "
    "-(ln p_i + H)/S. The result is F φ(F'F) with φ smooth on the positive spectrum, so repeated singular values do no harm. "
    "At a zero singular value the slope grows like -ln p: no derivative in directions that raise the rank. Each instance "
    "compares the library with a difference quotient enclosed at 320 bits.",
    without={"full rank": _directions(full=False)},
    mutants=(
        Mutant("without-entropy", "the formula without H", _check_slope(_uncentred, "the formula without H")),
        Mutant("second-moments", "p ∝ σ²", _check_slope(lambda d: _slope(d, 2), "the gradient of erank(F'F)")),
        Mutant("sign", "the opposite sign", _check_slope(lambda d: -_slope(d), "minus the gradient")),
    ),
    certificates=(Certificate("gradient", "the formula", Strength.SYMBOLIC, Scope.CLASS, _prove_gradient),),
    cost=2.0,
)


# -- scale invariance ------------------------------------------------------------------------------------------------------


def _scaled_theta(instance: Instance, unit_only: bool = False) -> np.ndarray:
    """All weights of one layer (or of its first unit) times a factor."""
    dag, layer, factor = instance.dag, instance.extra["layer"], instance.extra["factor"]
    targets = layer_units(dag, layer)[: 1 if unit_only else None]
    theta = rational_array(instance.theta)
    for k in {int(p) for p in dag.param[np.isin(dag.target, targets) & (dag.source != dag.constant)]}:
        theta[k] = factor * theta[k]
    return theta


def _same_rank(change: Callable[[Instance], np.ndarray], text: str) -> Callable[[Instance], Evidence]:
    """Is the effective rank of every hidden layer the same after the change? Proportional Gram matrices prove it."""

    def check(instance: Instance) -> Evidence:
        theta = change(instance)
        undecided = False
        for k, (F, G) in enumerate(zip(features(instance), features(instance, theta), strict=True)):
            if _proportional(F, G):
                continue
            if not (F != 0).any() or not (G != 0).any():
                undecided = True  # undefined on one side
                continue
            sign = order(effective(F), effective(G))
            if sign is None:
                undecided = True
            elif sign != 0:
                note = f"layer {k + 1}: {show(effective(F))} before, {show(effective(G))} after, {text}"
                return Evidence(
                    Verdict.FAILS,
                    note=note,
                    witness=lambda k=k, s=sign, note=note: changed_features(instance, theta, k, s, note),
                )
        return Evidence(Verdict.UNDECIDED if undecided else Verdict.HOLDS)

    return check


def _proportional(F: Rows, G: Rows) -> bool:
    """Is FᵀF tr GᵀG = GᵀG tr FᵀF? (Also if both are zero.)"""
    a, b = F.T @ F, G.T @ G
    return bool((a * np.trace(b) == b * np.trace(a)).all()) and bool((F != 0).any() == (G != 0).any())


def _rank_is_rank_of_gram(instance: Instance) -> Evidence:
    for k, F in enumerate(features(instance)):
        if not (F != 0).any():
            continue
        sign = order(effective(F), effective(F, 2))
        if sign:
            units = [layer_of(instance, k)]
            line = assertion(rank_quantity(units, 1), comparison(sign), rank_quantity(units, 2))
            note = f"layer {k + 1}: {show(effective(F))} of F, {show(effective(F, 2))} of F'F"
            return Evidence(
                Verdict.FAILS,
                note=note,
                witness=lambda line=line, note=note: witness(note, {"net": network_document(instance)}, [line]),
            )
    return Evidence(Verdict.HOLDS)


@st.composite
def _scalings(draw: DrawFn, bias: bool = False, activation: str = "relu", negative: bool = False) -> Instance:
    """A bias-free ReLU net, a hidden layer, and a positive factor for its weights."""
    shape = draw(widths(hidden_layers=(1, 2), max_width=3, max_inputs=2))
    instance = draw(mlp_instances(st.just(shape), activation, samples=(1, 4), bias=bias, bound=2))
    factor = draw(st.sampled_from([fmpq(2), fmpq(3), fmpq(1, 2), fmpq(1, 3)]))
    layer = draw(st.integers(1, len(shape) - 2))
    return replace(instance, extra={"layer": layer, "factor": -factor if negative else factor})


HOMOGENEOUS = {"relu", "identity", "abs"}

SCALE_INVARIANCE = Claim(
    id="spectral.l2er.scale-invariance",
    title="The effective rank is blind to the scale of every layer: it controls no norm",
    source=Source(SPECTRAL, "v1", "why L2 is combined with ER", "ours"),
    kind="ours",
    statement=r"W_\ell \mapsto c\,W_\ell,\ c > 0:\quad \operatorname{erank}(F_k) \text{ unchanged for all } k,"
    r"\qquad \langle \nabla_{W_\ell} \operatorname{erank}(F_k), W_\ell\rangle = 0",
    quantifier="for all",
    assumptions=(
        Assumption("no bias", "the network has no biases", lambda i: not i.dag.has_constant),
        Assumption(
            "homogeneous",
            "f(cz) = c f(z) for c > 0",
            lambda i: set(i.dag.activations) <= HOMOGENEOUS,
        ),
        Assumption("positive", "the factor is positive", lambda i: i.extra["factor"] > 0),
    ),
    instances=_scalings(),
    check=_same_rank(_scaled_theta, "after scaling a layer"),
    expected=Verdict.HOLDS,
    proof="Activations from layer l on are multiplied by c, so F_k'F_k by 1 or c² and p not at all; differentiate at c = 1. "
    "Each instance checks that the Gram matrices are exactly proportional. With biases only the scale of the features "
    "themselves is free: <∇_F erank, F> = 0.",
    without={
        "no bias": _scalings(bias=True),
        "homogeneous": _scalings(activation="relu6"),
        "positive": _scalings(negative=True),
    },
    mutants=(
        Mutant(
            "one-unit",
            "the weights of one unit may be scaled",
            _same_rank(lambda i: _scaled_theta(i, unit_only=True), "after scaling one unit"),
        ),
        Mutant("gram", "erank(F) = erank(F'F)", _rank_is_rank_of_gram),
    ),
    cost=1.25,
    certificates=(
        Certificate("shares", "p is homogeneous of degree 0", Strength.SYMBOLIC, Scope.ALL, lambda: _prove_shares()),
    ),
)


def _prove_shares() -> str:
    """p_i = σ_i/S for c F, ReLU homogeneity, and the derivative at c = 1."""
    c, s, S, z = sympy.symbols("c s S z", positive=True)
    assert sympy.simplify(c * s / (c * S) - s / S) == 0
    for value in (z, -z):  # both signs of a pre-activation
        assert sympy.simplify(sympy.Max(0, c * value) - c * sympy.Max(0, value)) == 0
    t = sympy.symbols("t", real=True)
    f = sympy.Function("f")
    path = sympy.diff(f(c * t), c).subs(c, 1).doit()  # d/dc f(cW) at c = 1 is <∇f, W>
    assert path == t * sympy.diff(f(t), t)
    return "relu(cz) = c relu(z), p(cF) = p(F); d/dc erank(cW) = <grad, W> = 0"


CLAIMS = (THREE_READINGS, THREE_READINGS_REPAIRED, GRADIENT, SCALE_INVARIANCE)
