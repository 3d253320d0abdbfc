"""The figures on online streams and on the theory of rank gain: quantities, runs, exact values, and smoke runs."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from experiments.figures import registry
from experiments.figures.build import make_figure
from experiments.figures.online_panels import during, records, steps
from experiments.figures.record import SCALES, Context, Data, grid
from experiments.figures.table import Verdict, judge_all, read_expected
from experiments.online.config import Online
from experiments.online.runner import run
from experiments.paper.barriers_figA2_tanh_scale.figure import relu_decorrelation, tanh_weights
from experiments.results import Table
from lop_theory.gaussian_kernel import gaussian_kernel

RUNS = ["cbp_edfig2b_regression", "cbp_regression_rates", "barriers_figB1_switch", "barriers_figB2_width"]
THEORY = ["barriers_figA1_rank_gain", "barriers_figA2_tanh_scale", "barriers_draft_rank_recovery"]
SHARED = ("stream", "bits", "slow", "target_units", "beta", "seed", "seeds", "probe", "probe_from")


def module(figure_id: str) -> Any:
    return __import__(registry.FIGURES[figure_id], fromlist=["FIGURE"])


def planted(figure_id: str, records_: int = 100) -> Data:
    """Data as the figure computes them at scale paper, with 3 seeds and a value that falls by 1 over the run."""
    made = module(figure_id)
    labels = made.configs(Context("paper", Path()))
    shape = (records_, 3)
    t = np.broadcast_to(np.arange(records_)[:, None], shape).ravel()
    part = {"seed": np.broadcast_to(np.arange(3), shape).ravel(), "task": t, "step": (t + 1) * 10}
    names = ("online_loss", "effective_rank_z", "effective_rank_h", "duplicate_fraction_z", "dead_fraction", "replaced")
    columns = part | {name: 2.0 - t / (records_ - 1) for name in names}
    rows = {name: np.concatenate([column] * len(labels)) for name, column in columns.items()}
    return {"records": rows | {"label": np.repeat(np.array(list(labels), dtype=object), len(t))}}


# -- records ---------------------------------------------------------------------------------------------------------------


def test_records_of_runs_come_back_as_grids() -> None:
    generator = np.random.default_rng(0)
    values = {name: generator.normal(size=(4, 2)) for name in ("online_loss", "dead_fraction")}
    step = np.broadcast_to(5.0 * np.arange(1, 5)[:, None], (4, 2))
    table = Table("a", {"seed": 7, "seeds": 2, "stream": "bit-flipping"}, values | {"step": step})
    data = records({"x": table, "y": table}, list(values))
    for name, column in values.items():
        assert np.array_equal(grid(data, name, "y"), column)
    assert steps(data, "x").tolist() == [5, 10, 15, 20] and set(data["seed"]) == {7, 8}
    loss = values["online_loss"]
    assert during(data, "online_loss", "x", 0.5, 1.0).tolist() == loss[2:].mean(axis=0).tolist()
    assert during(data, "online_loss", "x", 0.0, 0.25).tolist() == loss[0].tolist()
    assert during(data, "online_loss", "x", 0.99, 1.0).tolist() == loss[3].tolist()
    assert during(data, "online_loss", "x", 0.45, 0.5).tolist() == loss[1].tolist()


# -- figures of runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure_id", RUNS)
def test_runs_of_a_figure_differ_in_nothing_else(figure_id: str) -> None:
    for scale in SCALES:
        configs = module(figure_id).configs(Context(scale, Path()))
        for a, b in pairwise(configs.values()):
            assert {name: getattr(a, name) for name in SHARED} == {name: getattr(b, name) for name in SHARED}
        assert len(set(configs.values())) == len(configs)
        assert max(c.seeds for c in configs.values()) >= {"smoke": 1, "teach": 10, "paper": 30}[scale]


@pytest.mark.parametrize("figure_id", RUNS)
def test_every_expectation_is_measured_and_can_fail(figure_id: str) -> None:
    """On data in which all curves are the same line every row is judged; what falls matches, what rises deviates."""
    made, expected = module(figure_id), read_expected(registry.expected_path(figure_id))
    judged = judge_all(expected, made.FIGURE.measure(planted(figure_id)), "paper", made.FIGURE.costs)
    assert all(line.verdict is not Verdict.NOT_RUN for line in judged)
    for line in judged:
        kind, published = line.expected.kind, line.expected.published
        if kind == "ordering" or (kind == "trend" and published == "rises"):
            same_time = kind == "ordering" and not any("sgd " in key for key in published.split(" > "))
            assert line.verdict is Verdict.DEVIATES or not same_time, line
        if kind == "trend" and published == "falls":
            assert line.verdict is Verdict.MATCHED, line


@pytest.mark.parametrize("figure_id", [pytest.param(RUNS[0], marks=pytest.mark.slow), *RUNS[1:]])
def test_smoke_from_end_to_end(figure_id: str, tmp_path: Path) -> None:
    made = make_figure(figure_id, "smoke", tmp_path)
    assert made.folder is not None and made.new
    for name in ("figure.pdf", "figure.png", "data.parquet", "table.md", "provenance.json"):
        assert (made.folder / name).stat().st_size > 0
    assert all(line.verdict is Verdict.NOT_RUN for line in made.table)  # too short to judge anything
    again = make_figure(figure_id, "smoke", tmp_path)
    assert not again.new and again.folder == made.folder


def test_until_the_switch_a_run_is_backprop_and_then_it_is_not() -> None:
    base = {"steps": 4000, "every": 1000, "seeds": 3, "flip_period": 500}
    plain = run(Online(**base)).values
    for rule in ("cbp", "cbp-published-bitflip"):
        switched = run(Online(algorithm=rule, switch=0.5, replacement_rate=1e-3, **base)).values
        for name, values in plain.items():
            assert np.array_equal(values[:2], switched[name][:2]), name
        assert not np.array_equal(plain["online_loss"][2:], switched["online_loss"][2:])
        assert (switched["replaced"][-1] > 0).all()


def test_both_rules_on_bit_flipping_with_32_seeds() -> None:
    """300,000 steps: the algorithm's rule is well below backprop; the published rule replaces a unit nearly every maturity."""
    made = {rule: run(Online(algorithm=rule, steps=300_000, every=100_000, seeds=32)).values
            for rule in ("bp", "cbp", "cbp-published-bitflip")}  # fmt: skip
    gap = (made["bp"]["online_loss"] - made["cbp"]["online_loss"])[-1]
    assert gap.mean() > 3 * gap.std(ddof=1) / math.sqrt(32)
    rank = (made["cbp-published-bitflip"]["effective_rank_z"] - made["bp"]["effective_rank_z"])[-1]
    assert rank.mean() > 3 * rank.std(ddof=1) / math.sqrt(32)
    per_unit = 5 * 300_000 / made["cbp-published-bitflip"]["replaced"][-1]  # steps between two replacements of a unit
    assert (per_unit > 101).all() and (per_unit < 160).all()
    due = 300_000 * 5 * 1e-4  # ρ times the units; the age that a unit waits for takes a little off
    assert (made["cbp"]["replaced"][-1] <= due).all() and (made["cbp"]["replaced"][-1] >= 0.97 * due - 1).all()


# -- theory ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure_id", THEORY)
def test_theory_agrees_with_its_references_and_one_printed_claim_deviates(figure_id: str, tmp_path: Path) -> None:
    made = make_figure(figure_id, "teach", tmp_path)
    wrong = [(line.expected.name, line.expected.published) for line in made.table if line.verdict is Verdict.DEVIATES]
    assert wrong == ([("gamma[tanh 100]", "1")] if figure_id == "barriers_figA2_tanh_scale" else [])
    assert Verdict.NOT_RUN not in {line.verdict for line in made.table}
    assert not make_figure(figure_id, "teach", tmp_path).new


def test_weights_of_tanh_are_those_of_the_kernel_and_add_up() -> None:
    weights, rest = tanh_weights(1.0, 30)
    exact = [float(w.mid()) for w in gaussian_kernel("tanh").weights[:31]]
    np.testing.assert_allclose(weights, exact, atol=1e-13)
    assert rest == pytest.approx(1 - sum(exact), abs=1e-12)
    for gain in (0.3, 3.0):
        alpha = quad(lambda z, a=gain: math.tanh(a * z) * z * norm.pdf(z), -12, 12)[0] ** 2
        variance = quad(lambda z, a=gain: math.tanh(a * z) ** 2 * norm.pdf(z), -12, 12)[0]
        assert tanh_weights(gain, 1)[0][1] == pytest.approx(alpha / variance, rel=1e-8)
    assert tanh_weights(1e3, 1)[0][1] == pytest.approx(2 / math.pi, abs=2e-3)  # sign


def test_decorrelation_of_relu_with_bias_is_its_integral() -> None:
    relu = float(gaussian_kernel("relu").slope_at_zero.mid())
    assert relu_decorrelation(0.0) == pytest.approx((1 - relu) / (1 + relu), rel=1e-12)
    for bias in (-1.5, 0.7):
        mean, slope, square = (
            quad(lambda z, b=bias, n=n, k=k: (z + b) ** n * z**k * norm.pdf(z), -bias, 12)[0]
            for n, k in ((1, 0), (1, 1), (2, 0))
        )
        alpha = slope**2 / (square - mean**2)
        assert relu_decorrelation(bias) == pytest.approx((1 - alpha) / (1 + alpha), rel=1e-7)
