"""The figures of the Continual Backprop paper: their quantities, their runs, and a smoke run from end to end."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from experiments.figures import registry
from experiments.figures.build import make_figure
from experiments.figures.record import SCALES, Data, grid
from experiments.figures.stream_panels import stream_measures, tenth
from experiments.figures.table import Verdict, read_expected

IDS = ["cbp_permuted_mnist", "cbp_permuted_mnist_reduced", "cbp_class_pairs"]


def module(figure_id: str) -> object:
    return __import__(registry.FIGURES[figure_id], fromlist=["configs"])


def planted(tasks: int = 20, seeds: int = 4) -> Data:
    """Method a loses 0.3 from the first to the last tenth, b nothing and lies 0.1 above the end of a; seeds share their noise."""
    noise = np.random.default_rng(0).normal(scale=0.2, size=seeds)
    t, r = (x.ravel() for x in np.meshgrid(np.arange(tasks), np.arange(seeds), indexing="ij"))
    late = t >= tasks - tenth(tasks)
    rows = {"a": 0.8 + noise[r] - 0.3 * late, "b": 0.6 + noise[r]}
    ids = {"label": np.repeat(list(rows), len(t)), "seed": np.tile(r, 2), "task": np.tile(t, 2)}
    values = np.concatenate(list(rows.values()))
    return {
        "tasks": {**ids, "accuracy": values},
        "features": {**ids, "dead_units": values, "weight": values, "effective_rank": values},
    }


def test_changes_and_differences_are_those_that_were_planted() -> None:
    made = stream_measures(planted())
    for column in ("accuracy", "dead_units", "weight", "effective_rank"):
        change = made[f"{column}_change[a]"]
        assert change.mean == pytest.approx(-0.3) and change.high < 0 and change.n == 4
        assert made[f"{column}_change[b]"].mean == pytest.approx(0)
        gap = made[f"{column}_last[b - a]"]  # the noise of the seeds, far larger than the gap, cancels in pairs
        assert gap.mean == pytest.approx(0.1) and gap.low > 0
        assert made[f"{column}_last[a]"].high > made[f"{column}_last[b]"].low
    assert made["accuracy_peak[a]"].mean == pytest.approx(made["accuracy_task1[a]"].mean)
    kept = [(0.5 + n) / (0.8 + n) for n in np.random.default_rng(0).normal(scale=0.2, size=4)]
    assert made["accuracy_kept[a]"].mean == pytest.approx(np.mean(kept))


@pytest.mark.parametrize("figure_id", IDS)
@pytest.mark.parametrize("scale", SCALES)
def test_methods_share_everything_but_the_method_and_its_settings(figure_id: str, scale: str) -> None:
    configs = module(figure_id).configs(scale)  # type: ignore[attr-defined]
    shared = ("stream", "protocol", "dataset", "batch", "epochs", "examples", "probe", "hidden", "activation", "tasks",
              "seeds", "seed", "measure_every")  # fmt: skip
    assert {"bp", "cbp"} <= set(configs)
    for a, b in pairwise(configs.values()):
        assert [getattr(a, name) for name in shared] == [getattr(b, name) for name in shared]
    assert all(config.algorithm == method for method, config in configs.items())
    if scale != "smoke":
        assert next(iter(configs.values())).seeds >= 3


@pytest.mark.parametrize("figure_id", IDS)
@pytest.mark.parametrize("scale", ["teach", "paper"])
def test_every_expected_quantity_is_one_that_is_measured(figure_id: str, scale: str) -> None:
    methods = list(module(figure_id).configs(scale))  # type: ignore[attr-defined]
    columns = ("accuracy", "dead_units", "weight", "effective_rank")
    known = {f"{c}_{q}" for c in columns for q in ("task1", "peak", "first", "last", "change", "kept")}
    for row in read_expected(registry.expected_path(figure_id)):
        if scale in row.scales:
            named = row.published.replace("~", ">").split(">") if row.kind == "ordering" else [row.label]
            assert row.quantity in known and {name.strip() for name in named} <= set(methods), row.name


def test_the_teach_scale_is_the_setting_of_the_issue() -> None:
    config = module("cbp_permuted_mnist").configs("teach")["cbp"]  # type: ignore[attr-defined]
    assert (config.tasks, config.seeds, config.hidden, config.optimizer) == (200, 5, (100, 100, 100), "adam")
    assert (config.step_size, config.replacement_rate, config.maturity) == (3e-3, 1e-3, 100)


def test_smoke_from_end_to_end(tmp_path: Path) -> None:
    made = make_figure("cbp_permuted_mnist", "smoke", tmp_path)
    assert made.folder is not None and made.new
    assert {line.verdict for line in made.table} == {Verdict.NOT_RUN}  # three small tasks show nothing
    from experiments.figures.store import read_tables

    data = read_tables(made.folder / "data.parquet")
    assert grid(data["tasks"], "accuracy", "cbp").shape == (3, 2)
    ranks = grid(data["features"], "effective_rank", "bp")
    assert ((0 <= ranks) & (ranks <= 1)).all()
    assert not make_figure("cbp_permuted_mnist", "smoke", tmp_path).new


@pytest.mark.parametrize("figure_id", ["cbp_permuted_mnist_reduced", "cbp_class_pairs"])
def test_smoke_on_real_images(figure_id: str, tmp_path: Path) -> None:
    if not os.environ.get("LOP_DATA"):
        pytest.skip("LOP_DATA names no data folder: nothing to draw the figure from")
    made = make_figure(figure_id, "smoke", tmp_path)
    assert made.folder is not None and (made.folder / "figure.png").stat().st_size > 10_000
