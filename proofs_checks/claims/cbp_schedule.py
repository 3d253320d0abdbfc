"""Continual Backprop (arXiv 2306.13812): running averages and the schedule of replacements, on rational numbers.

These statements are about sequences, not networks: the running mean of one signal, and which units of a layer are replaced
when, given their utilities. :func:`simulate` is the schedule in exact arithmetic; a test compares it with the library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.architectures import mlp
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import integers_array

_PAPER = "2306.13812"

# -- bias correction -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signal:
    """A unit's values y_1, …, y_a since it was new, and the decay η = 1 / ``inverse`` (0 if ``inverse`` is 0)."""

    values: tuple[int, ...]
    inverse: int

    @property
    def eta(self) -> Fraction:
        return Fraction(1, self.inverse) if self.inverse else Fraction(0)

    def weights(self, delay: int = 0) -> list[Fraction]:
        """Weight of each value in the corrected average u_{a−delay} / (1 − η^a)."""
        eta, age = self.eta, len(self.values)
        last = age - delay
        running = [(1 - eta) * eta ** (last - j) if j <= last else Fraction(0) for j in range(1, age + 1)]
        return [w / (1 - eta**age) for w in running]


def _average(signal: Signal, weights: Sequence[Fraction], text: str) -> Evidence:
    """Does the average lie between the smallest and the largest value?"""
    value = sum((w * y for w, y in zip(weights, signal.values, strict=True)), Fraction(0))
    low, high = min(signal.values), max(signal.values)
    note = f"{text} of {signal.values} with η = {signal.eta} is {value}"
    if low <= value <= high:
        return Evidence(Verdict.HOLDS, value, (low, high), min(value - low, high - value), note)

    def document() -> dict[str, Any]:
        """An identity net: one sample per value."""
        data = np.array(signal.values, dtype=float)[:, None]
        net = network_document(Instance(mlp([1, 1], "identity"), np.array([1.0, 0.0]), data, data))
        values = [quantity("value", unit=2, sample=n) for n in range(len(data))]
        average = {"sum": [{"product": [number(w), v]} for w, v in zip(weights, values, strict=True)]}
        side = assertion(average, "<", {"min": values}) if value < low else assertion(average, ">", {"max": values})
        return witness(f"{note}, outside [{low}, {high}]", {"net": net}, [side])

    return Evidence(Verdict.FAILS, value, (low, high), None, note, document)


def check_correction(signal: Signal) -> Evidence:
    """u_a / (1 − η^a) is an average of y_1, …, y_a."""
    return _average(signal, signal.weights(), "u_a / (1 - η^a)")


def check_printed_correction(signal: Signal) -> Evidence:
    """u_{a−1} / (1 − η^a), as printed."""
    return _average(signal, signal.weights(delay=1), "u_{a-1} / (1 - η^a)")


def _uncorrected(signal: Signal) -> Evidence:
    weights = [w * (1 - signal.eta ** len(signal.values)) for w in signal.weights()]
    return _average(signal, weights, "u_a")


def _wrong_age(signal: Signal) -> Evidence:
    age = len(signal.values)
    weights = [w * (1 - signal.eta**age) / (1 - signal.eta ** (age + 1)) for w in signal.weights()]
    return _average(signal, weights, "u_a / (1 - η^(a+1))")


def _later(signal: Signal) -> Evidence:
    """The printed formula, for units that are older than two updates."""
    return check_printed_correction(signal) if len(signal.values) > 2 else Evidence(Verdict.HOLDS, note="too young")


def _constant_signal(signal: Signal) -> Evidence:
    """The printed formula, for a constant signal."""
    constant = len(set(signal.values)) == 1 and len(signal.values) > 1
    return check_printed_correction(signal) if constant else Evidence(Verdict.HOLDS, note="not constant")


@st.composite
def _signals(draw: DrawFn, inverses: Sequence[int] = (2, 3, 4, 100, 0)) -> Signal:
    """Up to six non-negative integers; η = 1/2, 1/3, … or 0."""
    length = draw(st.integers(1, 6))
    values = np.abs(integers_array(draw, (length,), 4)).astype(int)
    if draw(st.booleans()):
        values[:] = max(1, values[0])
    return Signal(tuple(int(v) for v in values), draw(st.sampled_from(inverses)))


def _prove_correction() -> str:
    """Induction on the age: the weights of u_{a+1} are those of u_a times η, and 1 − η."""
    eta, power = sympy.symbols("eta power")  # power = η^a
    assert sympy.expand(eta * (1 - power) + (1 - eta) - (1 - eta * power)) == 0
    assert (1 - eta) * 1 + eta * 0 == 1 - eta  # a = 1
    return "S_1 = 1 - η, S_{a+1} = η S_a + (1 - η) = 1 - η^(a+1): the weights (1-η) η^(a-t) / (1 - η^a) >= 0 sum to 1"


_SIGNALS = _signals()

CORRECTION = Claim(
    id="cbp.utility-bias-correction",
    title="The bias-corrected utility is an average of the utilities since the unit was new",
    source=Source(_PAPER, "v3", "§4, bias correction", "with the index of the authors' code"),
    kind="lemma",
    statement=r"u_0 = 0,\ u_t = \eta u_{t-1} + (1-\eta) y_t \;\Rightarrow\; "
    r"\min_{t \le a} y_t \le \frac{u_a}{1 - \eta^a} \le \max_{t \le a} y_t",
    quantifier="for all",
    assumptions=(Assumption("decay", "0 ≤ η < 1", lambda s: 0 <= s.eta < 1),),
    instances=_SIGNALS,
    check=check_correction,
    expected=Verdict.HOLDS,
    proof="u_a = Σ (1-η) η^(a-t) y_t with weights that sum to 1 - η^a. Without the correction a unit of age a shows the fraction "
    "1 - η^a of its utility (63 % at a = 100, η = .99) and is replaced again before older units of the same use.",
    without={"decay": _signals((-2, -3))},
    attained=_signals(),
    mutants=(
        Mutant("uncorrected", "u_a itself is an average", _uncorrected),
        Mutant("wrong-age", "the correction may use a + 1", _wrong_age),
    ),
    certificates=(Certificate("geometric", "the weights sum to one", Strength.SYMBOLIC, Scope.ALL, _prove_correction),),
)

PRINTED_CORRECTION = Claim(
    id="cbp.utility-bias-correction.printed",
    title="The bias correction as printed gives an average",
    source=Source(_PAPER, "v3", "§4, equations of f̂ and û", "as printed: index t − 1 over age a_t"),
    kind="lemma",
    statement=r"\min_{t \le a} y_t \le \frac{u_{a-1}}{1 - \eta^a} \le \max_{t \le a} y_t",
    quantifier="for all",
    assumptions=(CORRECTION.assumptions[0],),
    instances=_SIGNALS,
    check=check_printed_correction,
    expected=Verdict.FAILS,
    proof="u_{a-1} contains a - 1 values whose weights sum to 1 - η^(a-1), and is divided by 1 - η^a: at age 1 the result is 0, "
    "for a constant signal y it is y (1 - η^(a-1)) / (1 - η^a), y/(1 + η) at age 2. Harmless at a > m = 100, not at small m.",
    mutants=(
        Mutant("later", "it is an average for units older than two updates", _later),
        Mutant("constant", "it is exact for constant signals from age 2 on", _constant_signal),
    ),
)

# -- the schedule ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """Utilities ``rows[t][i]`` of n units over T updates, the rate ρ = ``numerator`` / 8 and the maturity m."""

    rows: tuple[tuple[int, ...], ...]
    numerator: int
    maturity: int

    @property
    def rate(self) -> Fraction:
        return Fraction(self.numerator, 8)


Count = Callable[[Fraction, int, int], int]  # (what is owed, |E|, n) -> how many to replace now


@dataclass(frozen=True)
class Event:
    """One update: age of every unit when it is judged, and the units replaced."""

    ages: tuple[int, ...]
    replaced: tuple[int, ...]


def _floor(owed: Fraction, eligible: int, units: int) -> int:
    return floor(owed)


def simulate(layer: Layer, count: Count = _floor, everyone: bool = False, mature_at: int | None = None) -> list[Event]:
    """The schedule of Continual Backprop: ages grow, ρ|E| is added to what is owed, the least useful of E are replaced.

    ``everyone``: ρ n is owed instead of ρ|E|; ``mature_at``: units of this age are judged mature (default m + 1).
    """
    n, owed, ages, events = len(layer.rows[0]), Fraction(0), [0] * len(layer.rows[0]), []
    oldest = layer.maturity + 1 if mature_at is None else mature_at
    for utilities in layer.rows:
        ages = [a + 1 for a in ages]
        eligible = [i for i in range(n) if ages[i] >= oldest]
        owed += layer.rate * (n if everyone else len(eligible))
        k = min(count(owed, len(eligible), n), len(eligible))
        owed -= k
        chosen = tuple(sorted(eligible, key=lambda i: (utilities[i], i))[:k])
        events.append(Event(tuple(ages), chosen))
        ages = [0 if i in chosen else a for i, a in enumerate(ages)]
    return events


def _maturity(layer: Layer, least: int, **rule: Any) -> Evidence:
    young = [event.ages[i] for event in simulate(layer, **rule) for i in event.replaced]
    if not young:
        return Evidence(Verdict.HOLDS, note="nothing is replaced")
    note = f"youngest replaced unit has age {min(young)}, m = {layer.maturity}"
    verdict = Verdict.HOLDS if min(young) >= least else Verdict.FAILS
    return Evidence(verdict, min(young), least, min(young) - least, note)


def check_maturity(layer: Layer) -> Evidence:
    """Every replaced unit is older than m."""
    return _maturity(layer, layer.maturity + 1)


def _owed(layer: Layer, events: Sequence[Event]) -> list[tuple[int, Fraction]]:
    """(replacements so far, ρ Σ|E| so far) after every update."""
    done, offered, rows = 0, 0, []
    for event in events:
        done += len(event.replaced)
        offered += sum(a > layer.maturity for a in event.ages)
        rows.append((done, layer.rate * offered))
    return rows


def _accounting(layer: Layer, text: str, predicted: Callable[[Fraction], int] = floor, **rule: Any) -> Evidence:
    for t, (done, due) in enumerate(_owed(layer, simulate(layer, **rule)), start=1):
        if done != predicted(due):
            return Evidence(
                Verdict.FAILS, done, predicted(due), None, f"{text}: {done} after {t} updates, ρ Σ|E| = {due}"
            )
    return Evidence(Verdict.HOLDS, note=text)


def check_rate(layer: Layer) -> Evidence:
    """After every update exactly ⌊ρ Σ|E|⌋ units were replaced, and what is owed is below one."""
    return _accounting(layer, "as defined")


@st.composite
def _layers(draw: DrawFn, numerators: tuple[int, int] = (0, 8), maturities: tuple[int, int] = (0, 3)) -> Layer:
    """Up to four units and ten updates; utilities are small integers, so that ties occur."""
    units, steps = draw(st.integers(1, 4)), draw(st.integers(1, 10))
    rows = np.abs(integers_array(draw, (steps, units), 4)).astype(int)
    return Layer(
        tuple(tuple(int(v) for v in row) for row in rows),
        draw(st.integers(*numerators)),
        draw(st.integers(*maturities)),
    )


def _prove_floor() -> str:
    count, owed, more, k = sympy.symbols("count owed more k")
    assert sympy.expand((count + k) + (owed + more - k) - (count + owed) - more) == 0  # count + owed grows by ρ|E|
    x, e = sympy.symbols("x", real=True), sympy.symbols("e", integer=True, positive=True)
    assert sympy.floor(x + e) == sympy.floor(x) + e  # 0 ≤ c < 1, count an integer: ⌊count + c⌋ = count + ⌊c⌋ = count
    return (
        "count + owed = ρ Σ|E| and 0 <= owed = x - ⌊x⌋ < 1 are kept by count += ⌊owed + ρ|E|⌋, so count = ⌊ρ Σ|E|⌋; "
        "⌊owed + ρ|E|⌋ <= |E|"
    )


_RATE_BELOW_ONE = Assumption("rate", "0 ≤ ρ ≤ 1", lambda layer: 0 <= layer.rate <= 1)

RATE = Claim(
    id="cbp.rate-accounting",
    title="Exactly ⌊ρ Σ|E|⌋ units have been replaced after any number of updates",
    source=Source(_PAPER, "v3", "Algorithm 1, accumulated replacement"),
    kind="lemma",
    statement=r"c_0 = 0,\ k_t = \lfloor c_{t-1} + \rho |E_t| \rfloor,\ c_t = c_{t-1} + \rho |E_t| - k_t \;\Rightarrow\; "
    r"\sum_{s \le t} k_s = \Big\lfloor \rho \sum_{s \le t} |E_s| \Big\rfloor,\quad k_t \le |E_t|",
    quantifier="for all",
    assumptions=(_RATE_BELOW_ONE,),
    instances=_layers(),
    check=check_rate,
    expected=Verdict.HOLDS,
    proof="count + c = ρ Σ|E| is kept by every update and 0 <= c < 1, so count is the integer part. With ρ <= 1 the k_t units "
    "exist: k_t < 1 + ρ|E_t| means k_t <= |E_t| (for |E_t| = 0, k_t = 0). No unit is owed before the first is mature.",
    without={"rate": _layers((9, 24))},
    mutants=(
        Mutant(
            "one-at-a-time",
            "at most one unit per update",
            lambda layer: _accounting(layer, "one unit per update", count=lambda owed, e, n: min(1, floor(owed))),
        ),
        Mutant(
            "more-than-one",
            "a unit is replaced when strictly more than one is owed (Nature, as printed)",
            lambda layer: _accounting(layer, "owed > 1", count=lambda owed, e, n: max(0, ceil(owed) - 1)),
        ),
        Mutant(
            "everyone",
            "what is owed may grow by ρ n (the counter of the convolutional code)",
            lambda layer: _accounting(layer, "ρ n owed per update", everyone=True),
        ),
        Mutant("rounded-up", "the count is ⌈ρ Σ|E|⌉", lambda layer: _accounting(layer, "rounded up", ceil)),
    ),
    certificates=(
        Certificate("invariant", "count + c = ρ Σ|E|, 0 <= c < 1", Strength.SYMBOLIC, Scope.ALL, _prove_floor),
    ),
)

MATURITY = Claim(
    id="cbp.maturity-protects",
    title="A unit is safe for m updates after it was new",
    source=Source(_PAPER, "v3", "Algorithm 1, maturity threshold"),
    kind="definition",
    statement=r"i \in R_t \;\Rightarrow\; a_{t,i} > m;\quad "
    r"\text{between two replacements of a unit lie at least } m + 1 \text{ updates}",
    quantifier="for all",
    assumptions=(_RATE_BELOW_ONE,),
    instances=_layers((1, 8)),
    check=check_maturity,
    expected=Verdict.HOLDS,
    proof="Only units of E = {a > m} are chosen, and a counts the updates since the last replacement. The bound m + 1 is attained: "
    "a unit that is still useless is replaced at the first opportunity if one is owed.",
    without={"rate": _layers((9, 24))},
    attained=_layers((8, 8)),
    mutants=(
        Mutant("two-more", "it is safe for m + 1 updates", lambda layer: _maturity(layer, layer.maturity + 2)),
        Mutant(
            "at-m",
            "units of age m may be judged",
            lambda layer: _maturity(layer, layer.maturity + 1, mature_at=layer.maturity),
        ),
    ),
)

CLAIMS = (CORRECTION, PRINTED_CORRECTION, RATE, MATURITY)
