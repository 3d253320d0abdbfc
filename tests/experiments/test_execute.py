"""One door for both kinds of runs: the command line, kill and resume, tables, divergence, bad input."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

from experiments import streams
from experiments.errors import Failure
from experiments.execute import add_options, execute, from_options, read_run, rows_per_seed, run_name
from experiments.online.config import STREAMS, Online
from experiments.online.runner import run
from experiments.results import csv_text
from experiments.run_cli import add_commands
from experiments.run_config import STREAMS as IMAGE_STREAMS
from experiments.run_config import Run

SHORT = Online(steps=600, every=200, flip_period=300, seeds=3, algorithm="cbp", replacement_rate=1e-2, maturity=20)


def lop(*arguments: object) -> int:
    main = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_commands(main.add_subparsers())
    options = main.parse_args([str(a) for a in arguments])
    return options.command(options)


def parsed(text: str) -> Run | Online:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser)
    return from_options(vars(parser.parse_args(text.split())))


# -- the command line ------------------------------------------------------------------------------------------------------


def test_every_field_of_either_kind_is_an_option() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    own = {f.name for kind in (Run, Online) for f in fields(kind)} - {"stream"}
    assert {"--" + name.replace("_", "-") for name in own} == flags - {"-h", "--help"}
    assert parsed("slowly-changing-regression") == Online(stream="slowly-changing-regression")
    assert parsed("permuted-images") == Run(stream="permuted-images")


def test_tasks_are_flip_periods_on_online_streams_and_the_same_words_mean_the_same() -> None:
    made = parsed(
        "bit-flipping --algorithm l2 --tasks 7 --seeds 4 --seed 9 --step-size .1 --weight-decay .5 --hidden 3"
    )
    assert made == Online(algorithm="l2", steps=70_000, seeds=4, seed=9, step_size=0.1, weight_decay=0.5, hidden=3)
    short = parsed("bit-flipping --tasks 3 --flip-period 50")
    assert isinstance(short, Online) and (short.steps, short.every) == (150, 50)
    assert isinstance(made, Online) and made.records == rows_per_seed(made) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("bit-flipping --eps 0", "eps = 0.0; stream 'bit-flipping' does not use it: leave it out"),
        ("bit-flipping --epochs 2", "epochs = 2; stream 'bit-flipping' does not use it"),
        ("bit-flipping --algorithm redo", "algorithm = 'redo' is unknown; choose one of bp, l2, cbp"),
        ("bit-flipping --algorithm cbp_published_bitflip", "choose one of bp, l2, cbp, cbp-published-bitflip"),
        (
            "bit-flipping --algorithm cbp --tasks 1 --maturity 10000",
            "maturity = 10000; units are tested for 10000 steps",
        ),
        ("bit-flipping --algorithm bp --maturity 5", "maturity = 5; algorithm 'bp' does not use it"),
        ("bit-flipping --algorithm cbp --replacement-rate 0", "replacement_rate = 0.0; give a share"),
        ("bit-flipping --hidden 3,4", "hidden = 3,4; online learners have one hidden layer"),
        ("bit-flipping --tasks 0", "tasks = 0; it counts flip periods and must be at least 1"),
        ("bit-flipping --tasks 2 --steps 500", "tasks = 2 and steps = 500 both say how long the run is"),
        ("bit-flipping --steps 500", "steps = 500; give a multiple of every = 10000, or an every that divides it"),
        ("bit-flipping --step-size nan", "step_size = nan; give a positive finite number"),
        ("permuted-images --switch 0.5", "switch = 0.5; stream 'permuted-images' does not use it: leave it out"),
        ("permuted-images --eps 0", "eps = 0.0; give a positive finite number"),
        (
            "permuted-image",
            "choose one of permuted-images, random-labels, class-pairs, class-incremental, class-groups, bit-flip",
        ),
        ("bit-flipping --seeds 99999999999999999999999", "give a number that is less than 2**63"),
        ("bit-flipping --hidden 1000000000000", "give at most 1000000"),
        ("bit-flipping --seed 9223372036854775807", "the seeds are whole numbers from 0 to 2**63 - 1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        lop("run", *arguments.split(), "--out", tmp_path / "out")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_names_of_the_streams_are_all_there_are() -> None:
    assert {*IMAGE_STREAMS, *STREAMS} == {*streams.STREAMS, "slowly-changing-regression"}


@pytest.mark.parametrize("kind", ["image", "online"])
@pytest.mark.parametrize(
    "change",
    [{"seeds": "x"}, {"seeds": 0}, {"seeds": 5}, {"seed": None}, {"versions": []}, {"stream": []}, {"algorithm": 3},
     {"tasks": "x", "steps": "x"}, {"tasks": 0, "every": 0}, []],
)  # fmt: skip
def test_results_of_a_damaged_configuration_are_one_line(kind: str, change: object, tmp_path: Path) -> None:
    config = Run(stream="permuted-images", tasks=1, seeds=2, examples=80, hidden=(4,)) if kind == "image" else SHORT
    folder = tmp_path / run_name(config)
    list(execute(config, folder))
    path = folder / "config.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | change if isinstance(change, dict) else change))
    for option in ("--csv", "--claims") if isinstance(change, list) else ("--csv",):
        with pytest.raises(Failure, match="config.json") as caught:
            lop("results", tmp_path, option)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stream", ["permuted-images", "bit-flipping"])
def test_a_run_inside_a_run_is_refused(stream: str, tmp_path: Path) -> None:
    folder = tmp_path / run_name(SHORT)
    list(execute(SHORT, folder))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(Failure, match="is the folder of a run, which holds no others"):
        lop("run", stream, "--tasks", 1, "--out", folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_empty_folder_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lop("run", "permuted-images", "--out", "")
    assert "the name is empty" in capsys.readouterr().err


@pytest.mark.parametrize("stream", STREAMS)
def test_run_and_results_work_as_for_images(stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("run", stream, "--algorithm", "cbp", "--tasks", 2, "--flip-period", 400, "--seeds", 2, "--seed", 5)
    for folder in ("a", "b"):
        assert lop(*command, "--out", tmp_path / folder) == 0
    said = capsys.readouterr()
    assert "2 records, 2 seeds, online loss of the first and last 1 records" in said.out
    tables = []
    for folder in ("a", "b"):
        assert lop("results", tmp_path / folder, "--csv") == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(io.StringIO(tables[0])))
    assert [(r["seed"], r["task"], r["step"]) for r in rows] == [
        (s, t, n) for s in "56" for t, n in (("0", "400.0"), ("1", "800.0"))
    ]
    assert {r["stream"] for r in rows} == {stream} and "seconds" not in rows[0]


# -- rows, tables, names ---------------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_table_and_of_the_learner_alone(tmp_path: Path) -> None:
    rows = list(execute(SHORT, tmp_path / "run"))
    assert [(r["seed"], r["task"], r["step"]) for r in rows[:4]] == [(0, 0, 200), (1, 0, 200), (2, 0, 200), (0, 1, 400)]
    table, alone = read_run(tmp_path / "run"), run(SHORT)
    assert table.online and table.tasks == table.planned == 3 and table.seeds == [0, 1, 2]
    for row in rows:
        t, s = int(row["step"]) // 200 - 1, int(row["seed"])
        for name, column in alone.values.items():
            assert row[name] == column[t, s] == table.values[name][t, s]
        assert row["seconds"] > 0
    again = list(execute(SHORT, tmp_path / "run"))
    assert all(math.isnan(row["seconds"]) for row in again)
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]


def test_threads_and_checkpoints_change_no_row(tmp_path: Path) -> None:
    def rows(**options: int) -> list[dict[str, float]]:
        return [{**row, "seconds": 0.0} for row in execute(SHORT, **options)]

    assert rows() == rows(threads=3) == rows(save_every=1)


def test_names_tell_all_configurations_apart() -> None:
    changes = {"seed": 1, "stream": STREAMS[1], "algorithm": "cbp-published-bitflip", "step_size": 0.02, "every": 100}
    others = [replace(SHORT, **{name: value}) for name, value in changes.items()]
    names = [run_name(config) for config in (SHORT, *others, Run(stream="permuted-images"))]
    assert len(set(names)) == len(names) and run_name(replace(SHORT, step_size=1)) == run_name(
        replace(SHORT, step_size=1.0)
    )


def test_a_replica_that_diverges_has_a_reason_and_no_rows_after_it(tmp_path: Path) -> None:
    config = Online(steps=1000, every=200, seeds=12, step_size=0.18, activation="leaky-relu", flip_period=10_000)
    rows = list(execute(config, tmp_path))
    table = read_run(tmp_path)
    assert 0 < len(table.ended) < 12
    seed, text = next(iter(table.ended.items()))
    assert text.startswith("loss not finite in the steps before ")
    own = [row for row in rows if row["seed"] == seed]
    step = int(text.split()[-1])
    for row in own:
        assert all(math.isnan(row[name]) == (row["step"] >= step) for name in ("online_loss", "effective_rank_z"))
    lines = [line for line in csv.DictReader(io.StringIO(csv_text([table]))) if line["seed"] == str(seed)]
    assert len(lines) == step // 200 and lines[-1]["ended"] == text and not any(line["ended"] for line in lines[:-1])
    assert [row["seed"] for row in execute(config, tmp_path)] == [row["seed"] for row in rows]  # and it resumes


def test_mixed_folders_have_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = Run(stream="permuted-images", tasks=1, seeds=1, examples=40, hidden=(4,))
    for config in (SHORT, image):
        list(execute(config, tmp_path / run_name(config)))
    assert lop("results", tmp_path, "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["stream"]: (bool(row["step"]), bool(row["online_accuracy"])) for row in rows} == {
        "bit-flipping": (True, False),
        "permuted-images": (False, True),
    }
    assert lop("results", tmp_path) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_kill_minus_9_and_the_same_command_gives_the_same_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "bit-flipping", "--algorithm", "cbp-published-bitflip", "--steps", "300000", "--every", "1000",
               "--seeds", "8", "--save-every", "1", "--out"]  # fmt: skip
    program = "import sys; from experiments.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", program, *command, str(tmp_path / "killed")],
                               env={**os.environ, "PYTHONPATH": os.getcwd()}, stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and len(list(tmp_path.glob("killed/*/rows-*"))) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it must be killed while it runs"
    assert 3 <= len(list(tmp_path.glob("killed/*/rows-*"))) < 300
    tables = []
    for folder in ("killed", "whole"):
        assert lop(*command, tmp_path / folder) == 0
        capsys.readouterr()
        assert lop("results", tmp_path / folder, "--csv") == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] and len(tables[0].splitlines()) == 1 + 8 * 300
