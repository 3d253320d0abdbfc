"""Barriers, rank gain (4): which scalar orders the gains of two activations? Neither κ (v1) nor γ (v2) does; heavier tails do.

A refutation names two polynomials He_n + m z and one correlation. κ is enclosed rationally: K increases on [0, 1], so that on a
cell [a, b] r² − K(r)² is at most b² − K(a)². The last claim, from the draft, is about slopes: a large E f′² does not freeze.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

import sympy
from flint import arb, fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.arithmetic import to_fmpq
from lop_theory.gaussian_kernel import at_bits, gaussian_kernel
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.gaussian_units import (
    BARRIERS,
    CORRELATION,
    Phi,
    Units,
    corr,
    decided,
    document,
    inner_correlations,
    mixtures,
    pair_matrix,
    plus,
    polynomials,
    refuted,
    slope_of,
    square_sum,
    squares,
    times,
)
from proofs_checks.claims.rank_gain_kernel import MEHLER
from proofs_checks.instances import assertion, number, quantity

# -- what orders gains -------------------------------------------------------------------------------------------------------

GRID = 32


@lru_cache(maxsize=4096)
def kappa_interval(phi: tuple[int, ...]) -> tuple[fmpq, fmpq]:
    """Rational bounds of κ = max over [0, 1] of r² − K(r)²: K increases there, so b² − K(a)² bounds it on [a, b]."""
    grid = [fmpq(k, GRID) for k in range(GRID + 1)]
    K = [gaussian_kernel(phi).enclose(r) for r in grid]
    low = max(r * r - k * k for r, k in zip(grid, K, strict=True))
    return low, max(b * b - k * k for (_, b), k in zip(pairwise(grid), K[:-1], strict=True))


def _kappa_lines(u: Units) -> list[dict[str, Any]]:
    """κ(φ) > κ(other) for the checker: a value of the one above the cell bounds of the other."""
    grid = [Fraction(k, GRID) for k in range(GRID + 1)]
    best = max(grid, key=lambda r: to_fmpq(r) ** 2 - u.kernel.enclose(r) ** 2)

    def gap(phi: Phi | None, high: Fraction, at: Fraction) -> dict[str, Any]:
        assert phi is not None
        return plus(times(high, high), times(-1, corr(phi, at), corr(phi, at)))

    cells = {"max": [gap(u.other, b, a) for a, b in pairwise(grid)]}
    return [assertion(gap(u.phi, best, best), ">", cells)]


def _alpha_lines(u: Units) -> list[dict[str, Any]]:
    """γ(φ) > γ(other), that is K'(0) is smaller."""
    slopes = [quantity("gaussian_slope", coefficients=[number(c) for c in phi]) for phi in (u.phi, u.other)]
    return [assertion(slopes[0], "<", slopes[1])]


def _larger_kappa(u: Units) -> bool:
    return kappa_interval(u.phi)[0] > kappa_interval(u.other)[1]  # type: ignore[arg-type]


def _larger_gamma(u: Units) -> bool:
    return bool(slope_of(u.phi) < slope_of(u.other))  # type: ignore[arg-type]


Lines = Callable[[Units], list[dict[str, Any]]]


def _ordered(premise: Callable[[Units], bool], lines: Lines, text: str, sense: int = 1) -> Callable[[Units], Evidence]:
    """If the premise says that φ is the more nonlinear one then its gain is at least (sense −1: at most) that of the other."""

    def check(u: Units) -> Evidence:
        if not premise(u):
            return Evidence(Verdict.HOLDS, note="the premise does not say which is larger")
        assert u.other is not None
        rival = Units(u.other, u.C)
        sums = square_sum(u.image), square_sum(rival.image)
        note = f"{text}, but the gains are {square_sum(u.C) / sums[0]} and {square_sum(u.C) / sums[1]}"
        evidence = decided(sense * (sums[1] - sums[0]), note=note)
        op = ">" if sense > 0 else "<"
        return refuted(u, evidence, note, lambda: [*lines(u), assertion(squares(u), op, squares(rival))])

    return check


@st.composite
def _rivals(draw: DrawFn, zero: bool = False) -> Units:
    """Two activations He_n + m z at one correlation."""
    C = pair_matrix(draw(inner_correlations(zero)))
    return Units(draw(mixtures()), C, other=draw(mixtures()))


def _kappa_is_attained(u: Units) -> Evidence:
    """Every correlation other than 0, ±1 gains at least a quarter of κ."""
    low, _ = kappa_interval(u.phi)  # type: ignore[arg-type]
    gap = u.r * u.r - u.k * u.k
    evidence = decided(gap - low / 4, note=f"r² − K² = {gap} < κ/4, κ ≥ {low}")
    return refuted(u, evidence, evidence.note, lambda: _gap_lines(u, low))


def _gap_lines(u: Units, low: fmpq) -> list[dict[str, Any]]:
    k = corr(u.phi, u.r)
    grid = [Fraction(n, GRID) for n in range(GRID + 1)]
    best = max(grid, key=lambda r: to_fmpq(r) ** 2 - u.kernel.enclose(r) ** 2)
    at_best = corr(u.phi, best)
    reach = plus(times(best, best), times(-1, at_best, at_best))
    return [assertion(reach, ">=", low), assertion(plus(times(u.r, u.r), times(-1, k, k)), "<", low / 4)]


def _spectrum_only(u: Units) -> Evidence:
    """The gain depends on the spectrum of C alone: [[1, r], [r, 1]] and [[1, −r], [−r, 1]] have the same."""
    flipped = Units(u.phi, pair_matrix(-u.r))
    evidence = decided(
        -abs(abs(u.k) - abs(flipped.k)), note=f"K({u.r}) = {u.k}, K({-u.r}) = {flipped.k}: unequal gains"
    )
    return refuted(u, evidence, evidence.note, lambda: [assertion(squares(u), "!=", squares(flipped))])


KAPPA_ORDER = Claim(
    id="barriers.kappa-order",
    title="A larger κ gives a larger gain, as printed",
    source=Source(BARRIERS, "v1", "Remark A.1", "prose"),
    kind="remark",
    statement=r"\kappa_\varphi = \max_{r \in [0,1]} (r^2 - K_\varphi(r)^2) > \kappa_\psi \;\Rightarrow\; "
    r"er_2(K_\varphi(C)) \ge er_2(K_\psi(C)) \text{ for every } C",
    quantifier="for all",
    assumptions=(CORRELATION,),
    instances=_rivals(),
    check=_ordered(_larger_kappa, _kappa_lines, "κ is larger"),
    expected=Verdict.FAILS,
    proof="κ looks at the one r where the gap is widest. K = wr + (1 - w)rⁿ with a large n has a wide gap near 1 and, at small r, "
    "the small gap of wr; r² has it the other way round.",
    mutants=(
        Mutant("inverse", "a larger κ gives a smaller gain", _ordered(_larger_kappa, _kappa_lines, "κ is larger", -1)),
        Mutant("everywhere", "r² − K(r)² ≥ κ/4 for 0 < |r| < 1", _kappa_is_attained),
    ),
)


def _dominates(u: Units) -> bool:
    """Σ_(k≥m) w_k of φ is at least that of the other, for every m: its weight sits on higher degrees."""
    mine, other = (gaussian_kernel(phi).weights for phi in (u.phi, u.other))  # type: ignore[arg-type]
    size = max(len(mine), len(other))
    return all(sum(mine[m:], Fraction(0)) >= sum(other[m:], Fraction(0)) for m in range(1, size))


_DOMINATES = Assumption("dominates", "every tail sum Σ_(k≥m) w_k of φ is at least that of ψ", _dominates)
_NONNEGATIVE = Assumption("nonnegative", "C_ij ≥ 0", lambda u: all(r >= 0 for r, _ in u.pairs))


@st.composite
def _dominating(draw: DrawFn, negative: bool = False) -> Units:
    """A rival pair, exchanged or replaced by an equal pair so that φ dominates; correlations ≥ 0 (or < 0)."""
    r = abs(draw(inner_correlations()))
    first, second = draw(st.one_of(mixtures(), polynomials())), draw(st.one_of(mixtures(), polynomials()))
    C = pair_matrix(-r if negative else r)
    u = Units(first, C, other=second)
    if _dominates(u):
        return u
    swapped = Units(second, C, other=first)
    return swapped if _dominates(swapped) else Units(first, C, other=first)


@st.composite
def _not_dominating(draw: DrawFn) -> Units:
    """He_2 against zⁿ + m z with n ≥ 3, whose tail beyond degree 2 is heavier."""
    r = abs(draw(inner_correlations()))
    power, slope = draw(st.integers(3, 6)), draw(st.integers(1, 6))
    return Units((-1, 0, 1), pair_matrix(r), other=(0, slope, *(0,) * (power - 2), 1))


def prove_abel() -> str:
    """Abel summation: Σ w_k x^k = x − Σ_(m≥2) T_m x^(m−1)(1 − x) with the tails T_m = Σ_(k≥m) w_k, T_1 = 1."""
    x = sympy.symbols("x")
    m = sympy.symbols("m", integer=True, positive=True)
    here, after = sympy.symbols("T_m T_after")
    # w_m = T_m − T_(m+1), so that T_m is multiplied by x^m from w_m and by −x^(m−1) from w_(m−1)
    assert sympy.expand((here - after) * x**m).coeff(here) == x**m
    assert sympy.expand((sympy.Symbol("T_before") - here) * x ** (m - 1)).coeff(here) == -(x ** (m - 1))
    assert sympy.simplify(x**m - x ** (m - 1) + x ** (m - 1) * (1 - x)) == 0
    tails = [sympy.Integer(1), *sympy.symbols("T2:9"), sympy.Integer(0)]  # the whole identity at degree 8
    kernel = sum((tails[k] - tails[k + 1]) * x ** (k + 1) for k in range(8))
    assert sympy.expand(kernel - x + sum(tails[k] * x**k * (1 - x) for k in range(1, 8))) == 0
    return "K(x) = x - Σ_(m>=2) T_m x^(m-1)(1 - x): larger tails T_m make K smaller on [0, 1], hence every gain larger there"


KAPPA_ORDER_REPAIRED = Claim(
    id="barriers.kappa-order.repaired",
    title="Heavier Hermite tails give a larger gain",
    source=Source(BARRIERS, "v1", "Remark A.1", "repaired; ours"),
    kind="ours",
    statement=r"\sum_{k \ge m} w_k(\varphi) \ge \sum_{k \ge m} w_k(\psi)\ \forall m,\ C_{ij} \ge 0 \;\Rightarrow\; "
    r"er_2(K_\varphi(C)) \ge er_2(K_\psi(C))",
    quantifier="for all",
    assumptions=(_DOMINATES, _NONNEGATIVE),
    instances=_dominating(),
    check=_ordered(lambda u: True, lambda u: [], "φ has the heavier tails"),
    expected=Verdict.HOLDS,
    proof="Abel summation: K decreases on [0, 1] when tails grow. For C_ij < 0 terms cancel by parity, and the order can reverse.",
    without={"dominates": _not_dominating(), "nonnegative": _dominating(negative=True)},
    mutants=(
        Mutant(
            "first-tail",
            "T_2 = 1 − K'(0) alone decides",
            _ordered(_larger_gamma, _alpha_lines, "γ is larger"),
            _rivals(),
        ),
        Mutant("smaller", "heavier tails gain less", _ordered(lambda u: True, lambda u: [], "tails are heavier", -1)),
    ),
    certificates=(MEHLER, Certificate("abel", "Abel summation", Strength.SYMBOLIC, Scope.ALL, prove_abel)),
    repairs="barriers.kappa-order",
)

GAMMA_ORDER = Claim(
    id="barriers.gamma-order",
    title="A larger γ gives a larger gain, as printed",
    source=Source(BARRIERS, "v2", "after Theorem 3.1 and A.2", "prose"),
    kind="remark",
    statement=r"\gamma_\varphi > \gamma_\psi \;\Rightarrow\; er_2(K_\varphi(C)) \ge er_2(K_\psi(C)) \text{ for every } C",
    quantifier="for all",
    assumptions=(CORRELATION,),
    instances=_rivals(),
    check=_ordered(_larger_gamma, _alpha_lines, "γ is larger"),
    expected=Verdict.FAILS,
    proof="γ knows K only to first order at 0. r² has γ = 1; K = wr + (1 - w)rⁿ has less, but is smaller at moderate r. Nor is the "
    "gain a function of the spectrum: r and −r have the same spectrum and different gains unless K is odd or even.",
    mutants=(
        Mutant("inverse", "a larger γ gives a smaller gain", _ordered(_larger_gamma, _alpha_lines, "γ is larger", -1)),
        Mutant("spectrum", "the gain depends on C only through its spectrum", _spectrum_only),
    ),
)


# -- large slopes do not freeze (draft) --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wave:
    """f(z) = sin(sz), and a threshold A that α_f = E[f′²]/E[f²] − 1 must reach."""

    frequency: int
    threshold: int


def check_wave(wave: Wave) -> Evidence:
    """Is P(|f′| ≥ 1/2) below 1/8 although E f² ≤ 1 and α_f ≥ A? Paley–Zygmund bounds the probability from below."""
    s, level = wave.frequency, wave.threshold

    def moments() -> tuple[Any, Any, Any]:
        q, fourth = (arb(-2 * s * s)).exp(), (arb(-8 * s * s)).exp()
        return (1 - q) / 2, s * s * (1 + q) / 2, s**4 * (3 + 4 * q + fourth) / 8

    f2, slope2, slope4 = at_bits(moments)
    large, bounded = at_bits(lambda: slope2 - (level + 1) * f2) > 0, f2 < 1
    likely = at_bits(lambda: slope2 * slope2 - slope4 / 2) > 0 and at_bits(lambda: slope2 / 2 - arb(1) / 4) >= 0
    note = f"f = sin({s} z): E f² = {f2.str(5)}, α = {(slope2 / f2 - 1).str(8)} ≥ {level}, yet P(|f'| ≥ 1/2) ≥ 1/8"
    if not (large and bounded and likely):
        return Evidence(Verdict.HOLDS, note="a premise is not met")

    def lines() -> dict[str, Any]:
        f, g, h = _wave_moments(s)
        return document(
            note + " (Paley-Zygmund at half of E f'²: P >= (1/4)(E f'²)²/E f'⁴)",
            [
                assertion(f, "<=", 1),
                assertion(g, ">=", times(level + 1, f)),
                assertion(times(2, g, g), ">=", h),
                assertion(times(2, g), ">=", 1),
            ],
        )

    return Evidence(Verdict.FAILS, note=note, witness=lines)


def _wave_moments(s: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """E f², E f′², E f′⁴ of sin(sz) for the checker."""
    double, fourfold = (quantity("gaussian_cosine", frequency=str(m * s)) for m in (2, 4))
    return (
        times(Fraction(1, 2), plus(1, times(-1, double))),
        times(Fraction(s * s, 2), plus(1, double)),
        times(Fraction(s**4, 8), plus(3, times(4, double), fourfold)),
    )


def _half_energy(wave: Wave) -> Evidence:
    """E f² ≥ 1/2."""
    f = _wave_moments(wave.frequency)[0]
    note = "E sin² = (1 - e^(-2s²))/2 < 1/2"
    return Evidence(Verdict.FAILS, note=note, witness=lambda: document(note, [assertion(f, "<", Fraction(1, 2))]))


def _slow_growth(wave: Wave) -> Evidence:
    """α_f ≤ s² − 1."""
    f, g, _ = _wave_moments(wave.frequency)
    note = "α = s²(1 + q)/(1 - q) - 1 > s² - 1"
    larger = assertion(g, ">", times(wave.frequency**2, f))
    return Evidence(Verdict.FAILS, note=note, witness=lambda: document(note, [larger]))


def prove_waves() -> str:
    """For every s: α ≥ s² − 1 and (E f′²)²/E f′⁴ ≥ 2/3, with q = e^(−2s²) in (0, 1) and E cos 4sZ = q⁴."""
    q, s = sympy.symbols("q s", positive=True)
    x = sympy.symbols("x", real=True)
    power = sympy.expand(sympy.cos(x) ** 4 - (3 + 4 * sympy.cos(2 * x) + sympy.cos(4 * x)) / 8)
    assert sympy.simplify(sympy.expand(power, trig=True)) == 0
    alpha = s**2 * (1 + q) / (1 - q) - 1
    assert sympy.simplify(alpha - (s**2 - 1) - 2 * q * s**2 / (1 - q)) == 0
    excess = sympy.factor(3 * 2 * (1 + q) ** 2 - 2 * (3 + 4 * q + q**4))  # 2(1+q)²/(3+4q+q⁴) ≥ 2/3
    assert sympy.expand(excess - 2 * q * (2 + 3 * q - q**3)) == 0  # 3q ≥ q³ on [0, 1]
    return (
        "α_f - (s² - 1) = 2qs²/(1 - q) >= 0 is unbounded, E f² < 1/2, and (E f'²)²/E f'⁴ = 2(1 + q)²/(3 + 4q + q⁴) >= 2/3: by "
        "Paley-Zygmund P(f'² >= s²/4) >= 1/6 for every s, so f' does not tend to 0 in probability"
    )


MAX_ALPHA_FROZEN = Claim(
    id="barriers.max-alpha-frozen",
    title="Maximal decorrelation freezes the unit, as in the draft",
    source=Source(BARRIERS, "draft of June 2025", "Corollary on α → ∞", "dropped from v1 on"),
    kind="corollary",
    statement=r"E f^2 \text{ bounded}, \alpha_f = \frac{E f'^2}{E f^2} - 1 \to \infty \Rightarrow f' \to 0 "
    r"\text{ in probability; checked as } \alpha_f \ge A \Rightarrow P(|f'| \ge \tfrac12) < \tfrac18",
    quantifier="for all",
    assumptions=(
        Assumption("large", "α_f ≥ A, any A that one likes", lambda w: w.frequency**2 - 1 >= w.threshold),
        Assumption("bounded", "E f² ≤ 1", lambda w: True),
    ),
    instances=st.integers(1, 1000).map(lambda s: Wave(s + 1, (s + 1) ** 2 - 1)),
    check=check_wave,
    expected=Verdict.FAILS,
    proof="f = sin(sz) oscillates: E f² < 1/2 and α_f >= s² - 1, while |f'| >= s/2 with probability at least 1/6. "
    "A witness refutes one A; the replayed derivation holds for every s, so that no A helps.",
    mutants=(
        Mutant("half-energy", "E f² ≥ 1/2", _half_energy),
        Mutant("slow", "α_f ≤ s² − 1", _slow_growth),
    ),
    certificates=(Certificate("waves", "sin(sz) for every s", Strength.SYMBOLIC, Scope.ALL, prove_waves),),
)

CLAIMS = (KAPPA_ORDER, KAPPA_ORDER_REPAIRED, GAMMA_ORDER, MAX_ALPHA_FROZEN)
