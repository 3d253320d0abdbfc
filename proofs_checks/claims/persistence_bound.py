"""Spectral Collapse, the probabilistic bound (Theorem 6.5): many units that are likely to die make low rank likely.

B_j indicates that unit j is dead after the task shift, K* = (P − ρ)/(I + O + 1) is the number of dead units that rank ρ
allows (one hidden layer). The joint law of the B_j is a table of equally likely draws, so that probabilities are rational;
exponentials are balls. Draws are also networks: on draw n unit j sees +1 or −1, and is dead exactly when it sees −1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import sympy
from flint import arb, ctx, fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.dag import Dag
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.jacobian_probes import minus, times, total
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import integers_array

_PRINTED = Source("2509.22335", "v1", "Theorem 6.5", "reconstructed from reviews")
_REPAIRED = Source("2509.22335", "v1", "Theorem 6.5", "repaired by us")
BITS = 128


@dataclass(frozen=True, eq=False)
class Draws:
    """``dead`` [N, k] of zeros and ones, one row per equally likely draw; ``threshold`` K*."""

    dead: np.ndarray
    threshold: fmpq

    def __repr__(self) -> str:
        return f"Draws({self.dead.astype(int).tolist()}, K* = {self.threshold})"

    @property
    def units(self) -> int:
        return int(self.dead.shape[1])

    @property
    def expected(self) -> fmpq:
        """Σ p_j."""
        return fmpq(int(self.dead.sum()), len(self.dead))

    @property
    def probability(self) -> fmpq:
        """P(Σ B_j ≤ K*)."""
        counts = self.dead.sum(1).astype(int).tolist()
        return fmpq(sum(count <= self.threshold for count in counts), len(counts))

    @property
    def marginals(self) -> list[fmpq]:
        """p_j."""
        return [fmpq(int(v), len(self.dead)) for v in self.dead.sum(0)]


def is_independent(draws: Draws) -> bool:
    """Is the joint law of the table the product of its marginals?"""
    rows = [tuple(row) for row in draws.dead.astype(int).tolist()]
    return all(
        fmpq(rows.count(pattern), len(rows))
        == prod((p if b else 1 - p for p, b in zip(draws.marginals, pattern, strict=True)), start=fmpq(1))
        for pattern in product((0, 1), repeat=draws.units)
    )


def _is_above(draws: Draws) -> bool:
    return bool(draws.expected >= draws.threshold)


# -- witnesses -------------------------------------------------------------------------------------------------------------


def _dead_counts(draws: Draws) -> list[dict[str, Any]]:
    """Σ_j B_j on every draw: k less the sum of the activations."""
    units = range(draws.units, 2 * draws.units)
    return [
        total([str(draws.units), *(minus(quantity("value", "draws", unit=v, sample=n)) for v in units)])
        for n in range(len(draws.dead))
    ]


def _network(draws: Draws) -> dict[str, Any]:
    """k ReLU units, unit j reads input j with weight 1; the output sums them. On draw n a dead unit sees −1."""
    k = draws.units
    hidden = k + np.arange(k)
    dag = Dag(
        k,
        False,
        ("relu",) * k + ("identity",),
        np.array([*range(k), *hidden]),
        np.array([*hidden, *[2 * k] * k]),
        np.arange(2 * k),
        np.array([2 * k]),
    )
    return network_document(Instance(dag, np.ones(2 * k), 1.0 - 2.0 * draws.dead, np.zeros((len(draws.dead), 1))))


def _hits(draws: Draws) -> dict[str, Any]:
    """N · P(Σ B_j ≤ K*): counts are whole numbers, so min(1, max(0, ⌊K*⌋ + 1 − count)) indicates count ≤ K*."""
    reach = str(int(draws.threshold.floor()) + 1)
    return total([{"min": ["1", {"max": ["0", total([reach, minus(c)])]}]} for c in _dead_counts(draws)])


def _excess(draws: Draws) -> dict[str, Any]:
    """Σ p_j − K*."""
    mean = times(number(fmpq(1, len(draws.dead))), total(_dead_counts(draws)))
    return total([mean, number(-draws.threshold)])


def _exponential_witness(draws: Draws, note: str, scale: fmpq) -> dict[str, Any]:
    """P > exp(−scale (Σp − K*)²): an ELU at z has the value e^z − 1.

    z is −scale (Σp − K*)² rounded up to 60 binary digits, so that it is exact in balls; e^z is then the larger number.
    """
    exponent = -scale * (draws.expected - draws.threshold) ** 2
    rounded = fmpq(int((exponent * 2**60).ceil()), 2**60)
    elu = {
        "num_inputs": 1,
        "has_constant": False,
        "activation": ["elu"],
        "outputs": [1],
        "edges": [[0, 1, 0]],
        "theta": ["1"],
        "x": [[number(rounded)]],
        "y": [["0"]],
        "loss": "mse_sum",
    }
    excess = _excess(draws)
    known = assertion(quantity("preactivation", "elu", unit=1, sample=0), ">=", times(number(-scale), excess, excess))
    bound = times(str(len(draws.dead)), total(["1", quantity("value", "elu", unit=1, sample=0)]))
    return witness(note, {"draws": _network(draws), "elu": elu}, [assertion(_hits(draws), ">", bound), known])


# -- Hoeffding -------------------------------------------------------------------------------------------------------------


def _against_exponential(draws: Draws, scale: fmpq, text: str) -> Evidence:
    """P(ΣB ≤ K*) ≤ exp(−scale (Σp − K*)²)?"""
    before, ctx.prec = ctx.prec, BITS
    try:
        depth = scale * (draws.expected - draws.threshold) ** 2
        bound = (-arb(depth)).exp()
        P = arb(draws.probability)
        larger, smaller = bool(bound < P), bool(P <= bound) or (depth == 0 and draws.probability <= 1)
    finally:
        ctx.prec = before
    note = f"P(ΣB <= {draws.threshold}) = {draws.probability}, Σp = {draws.expected}, {text} {float(bound.mid()):.4g}"
    if larger:
        return Evidence(
            Verdict.FAILS, draws.probability, text, note=note, witness=lambda: _exponential_witness(draws, note, scale)
        )
    return Evidence(Verdict.HOLDS if smaller else Verdict.UNDECIDED, draws.probability, text, note=note)


def check_hoeffding(draws: Draws) -> Evidence:
    """P(ΣB ≤ K*) ≤ exp(−2 (Σp − K*)²/k)?"""
    return _against_exponential(draws, fmpq(2, draws.units), "exp(-2(Σp - K*)²/k) =")


def _half_exponent(draws: Draws) -> Evidence:
    return _against_exponential(draws, fmpq(1, draws.units), "exp(-(Σp - K*)²/k) =")


def _double_exponent(draws: Draws) -> Evidence:
    return _against_exponential(draws, fmpq(4, draws.units), "exp(-4(Σp - K*)²/k) =")


def _no_units(draws: Draws) -> Evidence:
    return _against_exponential(draws, fmpq(2), "exp(-2(Σp - K*)²) =")


def _chebyshev(draws: Draws) -> Evidence:
    """P ≤ Σ p(1 − p)/(Σp − K*)², Chebyshev with the variance of independent indicators."""
    gap = draws.expected - draws.threshold
    variance = sum((p * (1 - p) for p in draws.marginals), fmpq(0))
    note = f"P = {draws.probability}, variance if independent {variance}, Σp - K* = {gap}"
    if draws.probability * gap**2 <= variance:
        return Evidence(Verdict.HOLDS, note=note)

    def document() -> dict[str, Any]:
        k, samples = draws.units, range(len(draws.dead))
        alive = [
            times(
                number(fmpq(1, len(draws.dead))),
                total([quantity("value", "draws", unit=k + j, sample=n) for n in samples]),
            )
            for j in range(k)
        ]
        terms = total([times(q, total(["1", minus(q)])) for q in alive])
        excess = _excess(draws)
        left = times(number(fmpq(1, len(draws.dead))), _hits(draws), excess, excess)
        return witness(note, {"draws": _network(draws)}, [assertion(left, ">", terms)])

    return Evidence(Verdict.FAILS, note=note, witness=document)


@st.composite
def _together(draw: DrawFn) -> Draws:
    """Units that share their data: a few rows, often all dead or all alive. K* at most Σp."""
    units, rows = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    dead = (integers_array(draw, (rows, units), 1) != 0).astype(int)
    for n in range(rows):
        if draw(st.booleans()):
            dead[n] = dead[n, 0]
    return _threshold(draw, dead)


def _threshold(draw: DrawFn, dead: np.ndarray, above: bool = True) -> Draws:
    """K* in halves, at most Σp; or beyond it if not ``above``."""
    drawn = fmpq(draw(st.integers(0, 8)), 2)
    expected = Draws(dead, drawn).expected
    return Draws(dead, min(drawn, expected) if above else expected + drawn + fmpq(1, 2))


@st.composite
def _product(draw: DrawFn, above: bool = True) -> Draws:
    """Independent units: the table of all combinations of a column of two or three draws per unit."""
    columns = [
        [int(draw(st.booleans())) for _ in range(draw(st.integers(1, 3)))] for _ in range(draw(st.integers(1, 4)))
    ]
    return _threshold(draw, np.array(list(product(*columns))), above)


@st.composite
def _comonotone(draw: DrawFn) -> Draws:
    """At least three units that die together, with probability 1/2; K* = 0 or 1/2."""
    units = draw(st.integers(3, 6))
    return Draws(np.array([[0] * units, [1] * units]), fmpq(draw(st.integers(0, 1)), 2))


@st.composite
def _coins(draw: DrawFn) -> Draws:
    """At least two independent units that die with probability 1/2; K* = 0."""
    return Draws(np.array(list(product((0, 1), repeat=draw(st.integers(2, 4))))), fmpq(0))


def _prove_hoeffding() -> str:
    """Hoeffding's lemma for an indicator by the second derivative, then the best exponent."""
    s, p, t, k = sympy.symbols("s p t k", positive=True)
    log_mgf = sympy.log(1 - p + p * sympy.exp(-s))
    q = p * sympy.exp(-s) / (1 - p + p * sympy.exp(-s))
    assert sympy.simplify(sympy.diff(log_mgf, s, 2) - q * (1 - q)) == 0
    assert log_mgf.subs(s, 0) == 0 and sympy.simplify(sympy.diff(log_mgf, s).subs(s, 0) + p) == 0
    x = sympy.symbols("x", real=True)
    assert sympy.expand(sympy.Rational(1, 4) - x * (1 - x) - (x - sympy.Rational(1, 2)) ** 2) == 0
    exponent = -s * t + k * s**2 / 8
    best = sympy.solve(sympy.diff(exponent, s), s)[0]
    assert sympy.simplify(exponent.subs(s, best) + 2 * t**2 / k) == 0
    return (
        "log E e^{-sB} = -sp + ½ s² q(1 - q) at some s' (Taylor), and q(1 - q) <= 1/4; independence multiplies the factors, "
        "Markov gives P(ΣB <= Σp - t) <= exp(-st + ks²/8), and s = 4t/k makes it exp(-2t²/k), for all k"
    )


def _prove_markov() -> str:
    """a·1[S ≥ a] ≤ S for S ≥ 0, in both cases; S = Σ (1 − B_j), a = k − K*."""
    S, a, gap = sympy.symbols("S a gap", nonnegative=True)
    assert sympy.expand((a + gap) - a * 1 - gap) == 0  # S = a + gap ≥ a: S − a ≥ 0
    assert sympy.expand(S - a * 0 - S) == 0  # else: S ≥ 0
    k, K, B = sympy.symbols("k K B")
    assert sympy.expand((k - B) - (k - K) - (K - B)) == 0  # ΣB ≤ K* is S ≥ k − K*
    return "a 1[S >= a] <= S pointwise, so (k - K*) P(ΣB <= K*) <= E S = Σ(1 - p_j) whatever the dependence; trivial if K* >= k"


_ABOVE = Assumption("above", "the expected number of dead units is at least K*", _is_above)

THEOREM = Claim(
    id="spectral.thm6.5",
    title="Exponentially small probability of trainability (as printed, independence not assumed)",
    source=_PRINTED,
    kind="theorem",
    statement=r"\Pr(T = 1) \le \Pr\Big(\sum_j B_j \le K^*\Big) \le \exp\Big(-\frac{2(\sum_j p_j - K^*)^2}{k}\Big),\quad "
    r"K^* = \frac{P - \rho}{I + O + 1},\; p_j = \Pr(B_j = 1),\; \sum_j p_j \ge K^*",
    quantifier="for all",
    assumptions=(_ABOVE,),
    instances=_together(),
    check=check_hoeffding,
    expected=Verdict.FAILS,
    proof="The units of one network die on the same data. If all die together with probability ½, then no unit is dead with "
    "probability ½, while the bound falls like exp(−k/2). Marginals alone cannot give an exponential. The first inequality "
    "holds for one hidden layer (spectral.dead-unit-bound.repaired).",
    mutants=(
        Mutant("half-exponent", "exp(−(Σp − K*)²/k)", _half_exponent, _comonotone()),
        Mutant("chebyshev", "Σ p(1 − p)/(Σp − K*)²", _chebyshev, _comonotone()),
    ),
)

INDEPENDENT = Claim(
    id="spectral.thm6.5.independent",
    title="Exponentially small probability of trainability, if units die independently",
    source=_PRINTED,
    kind="theorem",
    statement=r"B_j \text{ independent},\; \sum_j p_j \ge K^* \;\Rightarrow\; "
    r"\Pr\Big(\sum_j B_j \le K^*\Big) \le \exp\Big(-\frac{2(\sum_j p_j - K^*)^2}{k}\Big)",
    quantifier="for all",
    assumptions=(Assumption("independent", "the units die independently", is_independent), _ABOVE),
    instances=_product(),
    check=check_hoeffding,
    expected=Verdict.HOLDS,
    proof="Hoeffding's inequality. Independence is an assumption about data that all units share; nothing in training gives it.",
    without={"independent": _comonotone(), "above": _product(above=False)},
    mutants=(
        Mutant("double-exponent", "exp(−4(Σp − K*)²/k)", _double_exponent),
        Mutant("no-units", "exp(−2(Σp − K*)²)", _no_units, _coins()),
    ),
    certificates=(Certificate("hoeffding", "any number of units", Strength.SYMBOLIC, Scope.ALL, _prove_hoeffding),),
)


def check_markov(draws: Draws) -> Evidence:
    """(k − K*) P(ΣB ≤ K*) ≤ Σ (1 − p_j)? ``margin`` is the difference."""
    return _against_survivors(draws, fmpq(draws.units) - draws.threshold, "k - K*")


def _against_survivors(draws: Draws, factor: fmpq, text: str) -> Evidence:
    left, right = factor * draws.probability, draws.units - draws.expected
    note = f"({text}) P(ΣB <= K*) = {left}, Σ(1 - p) = {right}"
    if left <= right:
        return Evidence(Verdict.HOLDS, left, right, right - left, note)

    def document() -> dict[str, Any]:
        survivors = total([str(draws.units * len(draws.dead)), minus(total(_dead_counts(draws)))])
        larger = assertion(times(number(factor), _hits(draws)), ">", survivors)
        return witness(note, {"draws": _network(draws)}, [larger])

    return Evidence(Verdict.FAILS, left, right, right - left, note, document)


def _one_more(draws: Draws) -> Evidence:
    return _against_survivors(draws, draws.units - draws.threshold + 1, "k - K* + 1")


def _all_units(draws: Draws) -> Evidence:
    return _against_survivors(draws, fmpq(draws.units), "k")


@st.composite
def _tight(draw: DrawFn) -> Draws:
    """All die, or exactly k − K* survive."""
    units, rows = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    threshold = draw(st.integers(0, units - 1))
    some = [1] * threshold + [0] * (units - threshold)
    dead = [some, *[[1] * units if draw(st.booleans()) else some for _ in range(rows - 1)]]
    return Draws(np.array(dead), fmpq(threshold))


MARKOV = Claim(
    id="spectral.thm6.5.repaired",
    title="Probability of trainability, whatever the dependence of the units",
    source=_REPAIRED,
    kind="theorem",
    statement=r"(k - K^*)\,\Pr\Big(\sum_j B_j \le K^*\Big) \le \sum_j (1 - p_j)",
    quantifier="for all",
    assumptions=(),
    instances=_together(),
    check=check_markov,
    expected=Verdict.HOLDS,
    proof="Markov's inequality for the number of survivors. It decays like 1/k at best, and no better bound follows from the "
    "marginals: it is attained when either all units die or exactly k − K* survive.",
    attained=_tight(),
    mutants=(
        Mutant("one-more", "with k − K* + 1 in place of k − K*", _one_more, _tight()),
        Mutant("all-units", "with k in place of k − K*", _all_units),
    ),
    certificates=(Certificate("markov", "any law, any number of units", Strength.SYMBOLIC, Scope.ALL, _prove_markov),),
    repairs="spectral.thm6.5",
)

CLAIMS = (THEOREM, INDEPENDENT, MARKOV)
