"""Figures: the verdicts on both sides, what is kept and never overwritten, resuming, missing data, ids."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.cli import main
from experiments.errors import Failure
from experiments.figures import registry, style
from experiments.figures.build import build
from experiments.figures.intervals import Interval, blocks, bootstrap_interval, mean_interval, paired_interval
from experiments.figures.record import SCALES, Context, Data, Figure, Source, grid, labels, long_table
from experiments.figures.store import read_tables, write_tables
from experiments.figures.table import Expected, Verdict, as_csv, as_markdown, judge, judge_all, read_expected
from experiments.results import Table
from experiments.run_config import DEFAULTS

COSTS = {"smoke": "1 s", "teach": "1 min", "paper": "9 days"}
HEADER = "quantity,label,published,tolerance,kind,source,note,scales\n"


# -- intervals -------------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(size=7)
    made = mean_interval(values)
    low, high = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert (made.low, made.high) == pytest.approx((low, high), rel=1e-9) and made.n == 7


def test_the_interval_covers_the_mean_in_19_of_20_cases() -> None:
    samples = np.random.default_rng(1).normal(3.0, 2.0, size=(2000, 4))
    covered = np.mean([(i := mean_interval(s)).low <= 3 <= i.high for s in samples])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_replicas_that_diverged_are_left_out_and_one_seed_has_no_interval() -> None:
    assert mean_interval([1.0, math.nan, 3.0]) == mean_interval([1.0, 3.0])
    assert math.isnan(mean_interval([1.0]).low) and mean_interval([math.nan]).n == 0
    assert paired_interval([1.0, math.nan, 3.0], [0.0, 1.0, 1.0]).n == 2
    with pytest.raises(ValueError, match="one value of each per seed"):
        paired_interval([1.0], [1.0, 2.0])


def test_pairs_remove_what_seeds_have_in_common() -> None:
    common = np.random.default_rng(2).normal(size=9)
    gap = paired_interval(common + 0.1 + 1e-3 * np.arange(9), common)
    assert 0 < gap.low < gap.mean < gap.high < 0.2
    assert mean_interval(common + 0.1).low < mean_interval(common).mean  # the levels alone would not tell


def test_the_bootstrap_agrees_with_t_for_many_seeds() -> None:
    values = np.random.default_rng(3).normal(size=400)
    t, b = mean_interval(values), bootstrap_interval(values, np.random.default_rng(4))
    assert b.low == pytest.approx(t.low, abs=0.02) and b.high == pytest.approx(t.high, abs=0.02)


def test_blocks_keep_the_mean() -> None:
    values = np.arange(12.0).reshape(6, 2)
    assert blocks(values, 3).mean(axis=0).tolist() == values.mean(axis=0).tolist()
    with pytest.raises(ValueError, match="size = 7"):
        blocks(values, 7)


# -- verdicts --------------------------------------------------------------------------------------------------------------


def verdict(kind: str, published: str, tolerance: float = 0.0, scale: str = "paper", **measured: Interval) -> Verdict:
    row = Expected("q", "a" if kind != "ordering" else "", published, tolerance, kind, "Figure 1")
    values = {f"q[{name.replace('_minus_', ' - ')}]": value for name, value in measured.items()}
    return judge(row, values, scale, COSTS).verdict


def near(mean: float, half: float = 0.01) -> Interval:
    return Interval(mean, mean - half, mean + half, 5)


ONE_SEED = Interval(0.5, math.nan, math.nan, 1)


@pytest.mark.parametrize(
    ("kind", "published", "tolerance", "ours", "expected"),
    [
        ("level", "0.5", 0.1, near(0.59), "matched"),
        ("level", "0.5", 0.1, near(0.605), "matched"),  # the intervals meet
        ("level", "0.5", 0.1, near(0.62), "deviates"),
        ("level", "0.5", 0.1, near(0.38), "deviates"),
        ("level", "0.5", 0.0, ONE_SEED, "matched"),
        ("level", "0.6", 0.05, ONE_SEED, "deviates"),
        ("level", "0.5", 0.1, Interval(math.nan, math.nan, math.nan, 0), "deviates"),
        ("band", "0.4..0.6", 0.0, near(0.41), "matched"),
        ("band", "0.4..0.6", 0.0, near(0.605), "matched"),
        ("band", "0.4..0.6", 0.0, near(0.62), "deviates"),
        ("band", "-.6..-.4", 0.0, near(-0.5), "matched"),
        ("trend", "falls", 0.0, near(-0.02), "matched"),
        ("trend", "falls", 0.0, near(-0.005), "deviates"),  # the interval holds 0
        ("trend", "falls", 0.0, near(0.02), "deviates"),
        ("trend", "rises", 0.0, near(0.02), "matched"),
        ("trend", "rises", 0.05, near(0.02), "deviates"),
        ("trend", "flat", 0.0, near(0.005), "matched"),
        ("trend", "flat", 0.05, near(0.02), "matched"),
        ("trend", "flat", 0.01, near(0.03), "deviates"),
    ],
)
def test_verdicts_from_both_sides(kind: str, published: str, tolerance: float, ours: Interval, expected: str) -> None:
    assert verdict(kind, published, tolerance, a=ours) == expected


def test_an_ordering_holds_only_if_no_pair_is_reversed() -> None:
    a, b, c = near(0.9), near(0.7), near(0.3)
    assert verdict("ordering", "a > b > c", a=a, b=b, c=c) == "same ordering"
    assert verdict("ordering", "b > a > c", a=a, b=b, c=c) == "deviates"
    assert verdict("ordering", "a > b", a=near(0.9, 0.5), b=near(0.8, 0.5)) == "same ordering"  # a tie, not reversed
    assert verdict("ordering", "b > a", a=near(0.9, 0.5), b=near(0.8, 0.5)) == "deviates"  # a tie, reversed
    assert verdict("ordering", "a > b", a=ONE_SEED, b=Interval(0.4, math.nan, math.nan, 1)) == "same ordering"
    assert verdict("ordering", "a > b", a=ONE_SEED, b=Interval(math.nan, math.nan, math.nan, 0)) == "deviates"


def test_no_difference_is_judged_by_tolerance_or_interval() -> None:
    a, b = near(0.9), near(0.88)
    assert verdict("ordering", "a ~ b", a=a, b=b) == "deviates"
    assert verdict("ordering", "a ~ b", 0.05, a=a, b=b) == "same ordering"
    assert verdict("ordering", "a ~ b", a=a, b=b, a_minus_b=Interval(0.02, -0.01, 0.05, 5)) == "same ordering"


def test_paired_differences_count_where_they_are_measured_in_either_direction() -> None:
    wide = {"a": near(0.9, 0.5), "b": near(0.8, 0.5)}
    row = Expected("q", "", "a > b", 0.0, "ordering", "Figure 1")
    for key, value in {"q[a - b]": near(0.1), "q[b - a]": near(-0.1)}.items():
        told = judge(row, {**{f"q[{n}]": i for n, i in wide.items()}, key: value}, "paper", COSTS)
        assert told.verdict == "same ordering" and told.why == ""
    told = judge(row, {f"q[{n}]": i for n, i in wide.items()}, "paper", COSTS)
    assert "not told apart" in told.why


def test_rows_of_another_scale_are_not_run_and_say_what_they_cost() -> None:
    level = Expected("q", "a", "0.5", 0.1, "level", "Figure 1")
    told = judge(level, {"q[a]": near(0.9)}, "teach", COSTS)
    assert (told.verdict, told.ours) == ("not run", near(0.9)) and "9 days" in told.why
    trend = Expected("q", "a", "rises", 0.0, "trend", "Figure 1")
    assert judge(trend, {"q[a]": near(0.9)}, "smoke", COSTS).verdict == "not run"
    assert judge(replace(trend, scales=("smoke",)), {"q[a]": near(0.9)}, "smoke", COSTS).verdict == "matched"
    never = replace(level, scales=("none",), note="146 hours of one core")
    assert judge(never, {}, "paper", COSTS).why == "146 hours of one core"


def test_a_quantity_that_is_not_measured_is_an_error_not_a_verdict() -> None:
    with pytest.raises(ValueError, match=r"does not measure q\[a\]"):
        verdict("level", "0.5", b=near(0.5))
    with pytest.raises(ValueError, match=r"does not measure q\[b\]"):
        verdict("ordering", "a > b", a=near(0.5))


def test_a_match_that_rests_on_a_wide_interval_says_so() -> None:
    row = Expected("q", "a", "0.5", 0.1, "level", "Figure 1")
    assert judge(row, {"q[a]": near(0.55)}, "paper", COSTS).why == ""
    told = judge(row, {"q[a]": near(0.8, 0.4)}, "paper", COSTS)
    assert told.verdict == "matched" and told.why == "the mean is +0.3 away; only the interval meets it"


def test_a_deviation_names_its_cause() -> None:
    row = Expected("q", "a", "0.5", 0.01, "level", "Figure 1", note="published code replaces the best units")
    told = judge(row, {"q[a]": near(0.3)}, "paper", COSTS)
    assert told.why == "-0.2 away, tolerance 0.01. published code replaces the best units"
    assert "| q[a] | 0.3 [0.29, 0.31] | 0.5 ± 0.01 | deviates |" in as_markdown([told])
    assert "q,a,0.5,0.01,level,0.3,0.29,0.31,5,deviates" in as_csv([told])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q,a,1,0,levels,F,,", "kind = 'levels'"),
        ("q,a,1,0,level,,,", "source"),
        ("q,a,1,-1,level,F,,", "tolerance = -1"),
        ("q,a,up,0,trend,F,,", "rises, falls, flat"),
        ("q,a,a,0,ordering,F,,", "at least two labels"),
        ("q,a,1,0,band,F,,", "low..high"),
        ("q,a,1,0,level,F,,huge", "scales = "),
        ("q,a,1,x,level,F,,", "could not convert"),
    ],
)
def test_a_bad_row_of_expected_csv_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "expected.csv"
    path.write_text(HEADER + "q,a,1,0,level,F,,\n" + line + "\n")
    with pytest.raises(ValueError, match=f"line 3.*{message}"):
        read_expected(path)
    path.write_text("quantity,label\n")
    with pytest.raises(ValueError, match="has columns quantity, label"):
        read_expected(path)


# -- tables ----------------------------------------------------------------------------------------------------------------


def test_long_tables_come_back_as_grids_and_from_the_file(tmp_path: Path) -> None:
    x = np.arange(6.0).reshape(3, 2)
    x[2, 1] = np.nan
    tables = {m: Table(m, {"seed": 4, "seeds": 2}, {"x": s * x}) for m, s in (("b", 1.0), ("a", 2.0))}
    table = long_table(tables, ["x"])
    write_tables(tmp_path / "data.parquet", {"tasks": table, "curve": {"x": np.arange(3)}})
    back = read_tables(tmp_path / "data.parquet")
    for made in (table, back["tasks"]):
        assert labels(made) == ["b", "a"]
        np.testing.assert_array_equal(grid(made, "x", "a"), 2 * x)
    assert back["curve"]["x"].tolist() == [0, 1, 2] and set(back["curve"]) == {"x"}
    with pytest.raises(ValueError, match="label = 'c' is not in the table; it has b, a"):
        grid(table, "x", "c")
    with pytest.raises(ValueError, match="one length"):
        write_tables(tmp_path / "bad.parquet", {"t": {"x": np.ones(2), "y": np.ones(3)}})
    (tmp_path / "data.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(Failure, match="damaged"):
        read_tables(tmp_path / "data.parquet")


# -- a figure from end to end ----------------------------------------------------------------------------------------------


class Fake:
    """A figure of one computed table, which counts how often it is computed and can be interrupted."""

    def __init__(self, slope: float = 1.0, needs: str | None = None) -> None:
        self.calls, self.stop, self.slope = 0, False, slope
        self.figure = Figure("fake", "A fake", Source("0000.00000", "v1", "Figure 1"), self.compute, self.measure,
                             self.draw, COSTS, lambda scale: needs)  # fmt: skip

    def rows(self) -> dict[str, list[float]]:
        self.calls += 1
        return {"x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 2.0]}

    def compute(self, ctx: Context) -> Data:
        made = ctx.table("line", self.rows, points=3)
        if self.stop:
            raise KeyboardInterrupt
        return {"line": {"x": made["x"], "y": self.slope * made["y"]}}

    def measure(self, data: Data) -> dict[str, Interval]:
        return {"slope[line]": near(float(data["line"]["y"][1]))}

    def draw(self, data: Data, figure: object) -> None:
        figure.subplots().plot(data["line"]["x"], data["line"]["y"])  # type: ignore[attr-defined]


RIGHT = Expected("slope", "line", "1", 0.02, "level", "Figure 1", scales=("smoke",))
WRONG = replace(RIGHT, published="3")
FILES = ["data.parquet", "figure.pdf", "figure.png", "provenance.json", "table.csv", "table.md"]


def test_a_planted_wrong_number_deviates(tmp_path: Path) -> None:
    made = build(Fake().figure, [RIGHT, WRONG], "smoke", tmp_path)
    assert [line.verdict for line in made.table] == ["matched", "deviates"]
    assert made.folder == tmp_path / "fake-smoke" and sorted(p.name for p in made.folder.iterdir()) == FILES
    assert "deviates" in (made.folder / "table.md").read_text()


def test_the_same_call_writes_nothing_and_another_result_gets_another_folder(tmp_path: Path) -> None:
    fake = Fake()
    first = build(fake.figure, [RIGHT], "smoke", tmp_path)
    assert first.folder is not None and first.new
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in first.folder.iterdir()}
    time.sleep(0.02)
    again = build(fake.figure, [RIGHT], "smoke", tmp_path)
    assert (again.folder, again.new, fake.calls) == (first.folder, False, 1)
    other = build(Fake(slope=2.0).figure, [RIGHT], "smoke", tmp_path)
    assert other.new and other.folder == tmp_path / "fake-smoke-2" and other.table[0].verdict == "deviates"
    assert not build(Fake(slope=2.0).figure, [RIGHT], "smoke", tmp_path).new
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in first.folder.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fake-smoke", "fake-smoke-2", "tables"]


def test_what_was_finished_before_an_interruption_is_not_computed_again(tmp_path: Path) -> None:
    fake = Fake()
    fake.stop = True
    with pytest.raises(KeyboardInterrupt):
        build(fake.figure, [RIGHT], "smoke", tmp_path)
    assert not (tmp_path / "fake-smoke").exists()
    fake.stop = False
    assert build(fake.figure, [RIGHT], "smoke", tmp_path).new and fake.calls == 1
    build(fake.figure, [RIGHT], "teach", tmp_path)
    assert fake.calls == 2  # another scale is another computation


def test_provenance_says_what_was_computed_with_what(tmp_path: Path) -> None:
    made = build(Fake().figure, [RIGHT], "smoke", tmp_path)
    assert made.folder is not None
    about = json.loads((made.folder / "provenance.json").read_text())
    assert (about["figure"], about["scale"]) == ("fake", "smoke") and about["versions"]["numpy"] == np.__version__
    assert [entry["key"] for entry in about["computed"].values()] == [{"points": 3}]
    assert set(about["sha256"]) == set(FILES) - {"provenance.json"}


def test_missing_data_is_not_run_with_the_reason_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOP_DATA", raising=False)
    made = build(Fake(needs="mnist").figure, [RIGHT], "smoke", tmp_path)
    assert made.folder is None and [line.verdict for line in made.table] == ["not run"]
    assert "mnist needs a data folder" in made.missing and "costs 1 s" in made.table[0].why
    assert not list(tmp_path.iterdir())


def test_runs_are_shared_and_only_read_the_second_time(tmp_path: Path) -> None:
    from experiments.run_config import Run

    configs = {
        m: Run(stream="permuted-images", algorithm=m, tasks=2, seeds=2, examples=80, hidden=(5,)) for m in ("bp", "l2")
    }
    first = Context("smoke", tmp_path).runs(configs)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.safetensors")}
    context = Context("smoke", tmp_path)
    again = context.runs(configs)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.safetensors")} == stamps and stamps
    assert list(again) == ["bp", "l2"] and [e["seeds"] for e in context.used.values()] == [[0, 1], [0, 1]]
    np.testing.assert_array_equal(first["bp"].values["online_accuracy"], again["bp"].values["online_accuracy"])


# -- every registered figure, the style and the command --------------------------------------------------------------------


@pytest.mark.parametrize("figure_id", registry.FIGURES)
def test_registered_figures_have_a_folder_with_readable_expectations(figure_id: str) -> None:
    figure, path = registry.load(figure_id), registry.expected_path(figure_id)
    assert figure.id == figure_id and set(figure.costs) == set(SCALES)
    assert (path.parent / "README.md").is_file()
    table = judge_all(read_expected(path), {}, "smoke", figure.costs, missing="data")
    assert table and all(line.verdict is Verdict.NOT_RUN for line in table)


def test_every_algorithm_has_a_look_and_no_two_share_it() -> None:
    drawn = [style.LOOKS[name] for name in DEFAULTS]
    assert len({(l.color, l.line, l.marker) for l in drawn}) == len(drawn) and len({l.name for l in drawn}) == len(
        drawn
    )


def test_drawing_changes_no_global_style() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with style.rc():
        assert matplotlib.rcParams["font.size"] == 8
    assert dict(matplotlib.rcParams) == before


def test_ids_that_are_unknown_or_ambiguous_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name = next(iter(registry.FIGURES))
    wrong = [name[:-1] + "q", "--out", str(tmp_path)]
    assert main(["figure", *wrong]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "unknown figure" in told and name in told
    with pytest.raises(Failure, match="could be ab, ac"):
        registry.select(["a"], {"ab": "", "ac": ""})
    assert main(["figure", name]) == 2 and "--out is missing" in capsys.readouterr().err
    assert main(["figure", "--out", "x"]) == 2 and "no figure given" in capsys.readouterr().err
    assert main(["figure", name, "--out", "x", "--jobs", "0"]) == 2 and "jobs = 0" in capsys.readouterr().err


def test_wrong_folders_are_found_before_anything_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    call = ["figure", "*", "--scale", "smoke", "--out"]
    for more, words in (
        ([str(tmp_path / "file")], "is not a folder"),
        ([str(tmp_path / "file" / "below")], "is not a folder"),
        ([""], "the name is empty"),
        ([str(tmp_path / "out"), "--data", str(tmp_path / "nowhere")], "correct --data"),
    ):
        assert main([*call, *more]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and words in told
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_damaged_data_are_found_before_the_first_of_several_figures_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mnist").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "mnist" / f"{name}-ubyte.gz").write_bytes(b"damaged")
    call = ["figure", "cbp_permuted_mnist", "cbp_permuted_mnist_reduced", "--scale", "smoke"]
    assert main([*call, "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "corrupt or truncated" in told
    assert not (tmp_path / "out").exists()


def test_the_list_names_every_figure_with_its_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figure", "--list"]) == 0
    told = capsys.readouterr().out
    for figure_id in registry.FIGURES:
        assert figure_id in told and registry.load(figure_id).costs["paper"] in told
