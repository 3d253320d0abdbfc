"""The runner on streams of images: replicas, exact resume after a real kill, divergence, bad input, the table."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.datasets import digits
from experiments.errors import Failure
from experiments.results import csv_text, read_run, read_runs
from experiments.run import REASONS, run
from experiments.run_algorithms import ALGORITHMS
from experiments.run_cli import add_commands
from experiments.run_config import ACTIVATIONS, DEFAULTS, STREAMS, Run, add_options, from_options, run_name
from experiments.run_program import prepare
from experiments.run_state import start
from experiments.run_update import Batch, differentiate, minibatches
from experiments.streams import open_streams
from lop_theory.algorithms.base import gradients

SMALL = {"stream": "permuted-images", "examples": 160, "hidden": (12, 10), "tasks": 3}
TIMES = ("seconds",)


def small(**changes: object) -> Run:
    return Run(**{**SMALL, **changes})  # type: ignore[arg-type]


def table(rows: list[dict[str, float]], seed: int) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows if row["seed"] == seed]


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_commands(main.add_subparsers())
    return main


def lop(*arguments: object) -> int:
    options = parser().parse_args([str(a) for a in arguments])
    return options.command(options)


# -- replicas --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", DEFAULTS)
def test_every_algorithm_computes_per_replica_what_a_single_run_computes(algorithm: str) -> None:
    changes: dict[str, object] = {"algorithm": algorithm, "dtype": "float64", "tasks": 2}
    changes |= {name: value for name, value in {"er_every": 5, "maturity": 5, "replacement_rate": 0.02}.items()
                if name in DEFAULTS[algorithm]}  # fmt: skip
    if algorithm == "redo":
        changes |= {"period": 7, "threshold": 0.3}
    together = list(run(small(seeds=3, **changes)))
    alone = list(run(small(seeds=1, seed=1, **changes)))
    assert len(table(together, 1)) == len(alone) == 2
    for ours, single in zip(table(together, 1), table(alone, 1)):
        assert ours == pytest.approx(single, rel=1e-7, abs=1e-9, nan_ok=True)
    assert table(together, 0)[0]["online_loss"] != table(together, 1)[0]["online_loss"]  # replicas are not copies


def test_the_algorithms_differ_from_the_optimiser_alone() -> None:
    """An algorithm that silently does nothing would pass the test above."""
    losses = {}
    for algorithm, used in DEFAULTS.items():
        eager = {"er_every": 5, "maturity": 5, "replacement_rate": 0.02, "period": 7, "threshold": 0.3, "kappa": 1.0}
        config = small(algorithm=algorithm, seeds=1, tasks=2, **{k: v for k, v in eager.items() if k in used})
        losses[algorithm] = list(run(config))[-1]["online_loss"]
    assert len(set(losses.values())) == len(losses), losses


def test_backprop_is_torchs_sgd_on_the_same_minibatches() -> None:
    """An independent route: torch.nn, torch.optim, one seed, the minibatches straight from the stream."""
    config = small(dtype="float64", seeds=2, seed=4, tasks=2)
    rows = [row for row in run(config) if row["seed"] == 5]
    program = prepare(config)
    torch_net = torch.nn.Sequential(torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10), torch.nn.ReLU(),
                                    torch.nn.Linear(10, 10)).double()  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in torch_net[::2]:
            bound = (6 / layer.in_features) ** 0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()
    optimizer = torch.optim.SGD(torch_net.parameters(), lr=0.03)
    for t in range(2):
        task, losses, right = program.streams[1].task(t), [], 0
        for batch in task.batches():
            output = torch_net(torch.from_numpy(task.train.x(batch)).double())
            y = torch.from_numpy(task.train.y[batch])
            loss = torch.nn.functional.cross_entropy(output, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            right += int((output.argmax(1) == y).sum())
        assert rows[t]["online_loss"] == pytest.approx(np.mean(losses), rel=1e-9)
        assert rows[t]["online_accuracy"] == right / 160
        final = torch_net(torch.from_numpy(task.train.x()).double()).argmax(1).numpy() == task.train.y
        assert rows[t]["final_train_accuracy"] == pytest.approx(final.mean(), abs=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stream", ["permuted-images", "class-incremental"])
def test_the_written_out_gradient_is_that_of_autograd(activation: str, stream: str) -> None:
    """Also with outputs that do not count."""
    program = prepare(Run(stream=stream, activation=activation, seeds=1, tasks=2, hidden=(7, 6), dtype="float64"))
    learner, task = start(program), program.streams[0].task(0)
    learner.params = tuple(p + 0.1 for p in learner.params)
    x, y = next(minibatches([task], torch.float64))
    now = differentiate(program, learner, Batch(task, x, y))
    for ours, expected in zip(now.grads, gradients(learner.params, now.context)):
        assert ours.is_contiguous()
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(now.loss, now.context.loss(learner.params).numpy(), rtol=1e-13)


def test_only_active_outputs_count() -> None:
    """Two of ten outputs, then four: without learning the answers are right much more often than among ten."""
    rows = list(run(Run(stream="class-incremental", tasks=2, seeds=1, epochs=1, step_size=1e-9, probe=20)))
    assert rows[0]["online_loss"] < rows[1]["online_loss"]
    assert rows[0]["online_accuracy"] > 0.3  # one of two; among all ten outputs it would be near 1/10


@pytest.mark.parametrize("stream", STREAMS)
def test_replicas_on_every_stream_are_the_runs_of_their_seeds(stream: str) -> None:
    """Also where the classes of the digits are not of one size."""
    config = Run(stream=stream, tasks=2, seeds=3, epochs=1, hidden=(6,), dtype="float64", measure_every=0)
    together = list(run(config))
    for seed in range(3):
        alone = list(run(replace(config, seed=seed, seeds=1)))
        for a, b in zip([row for row in together if row["seed"] == seed], alone, strict=True):
            assert a["online_loss"] == pytest.approx(b["online_loss"], rel=1e-10)
            assert a["final_test_accuracy"] == pytest.approx(b["final_test_accuracy"], nan_ok=True)


# -- resume ----------------------------------------------------------------------------------------------------------------


def test_kill_minus_9_and_the_same_command_gives_the_same_table(tmp_path: Path) -> None:
    arguments = ["run", "permuted-images", "--algorithm", "cbp", "--optimizer", "adam", "--tasks", "30", "--seeds", "2"]
    arguments += [
        "--hidden",
        "12,10",
        "--examples",
        "160",
        "--maturity",
        "5",
        "--replacement-rate",
        "0.02",
        "--save-every",
        "2",
        "--out",
    ]
    program = "import sys; from tests.experiments.test_run import lop; sys.exit(lop(*sys.argv[1:]))"
    command = [sys.executable, "-c", program, *arguments, str(tmp_path / "killed")]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("*/rows-*"))) < 2 and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    [held] = read_runs(tmp_path / "killed")
    assert 0 < held.tasks < 30
    old = {path: path.read_bytes() for path in (tmp_path / "killed").glob("*/rows-*")}
    assert lop(*arguments, tmp_path / "killed") == 0
    assert lop(*arguments, tmp_path / "whole") == 0
    killed, whole = (csv_text(read_runs(tmp_path / name)) for name in ("killed", "whole"))
    assert killed == whole and len(whole.splitlines()) == 1 + 2 * 30
    assert all(path.read_bytes() == content for path, content in old.items())  # nothing was written again


@pytest.mark.parametrize("algorithm", ["noisy-sgd", "l2-er", "l2-init"])
def test_stopping_anywhere_changes_no_row(algorithm: str, tmp_path: Path) -> None:
    """Generators, the step count, anchors and regulariser batches survive a checkpoint; cuts do not matter."""
    config = small(algorithm=algorithm, seeds=2, tasks=4, **({"er_every": 7} if algorithm == "l2-er" else {}))
    whole = list(run(config))
    for row in run(config, tmp_path, save_every=2):
        if row["task"] == 2:
            break
    again = list(run(config, tmp_path, save_every=1))
    assert [repr(table(again, s)) for s in (0, 1)] == [repr(table(whole, s)) for s in (0, 1)]


def test_runs_do_not_share_a_folder_and_damage_is_reported(tmp_path: Path) -> None:
    list(run(small(tasks=1, seeds=1), tmp_path))
    with pytest.raises(Failure, match="another run"):
        next(run(small(tasks=2, seeds=1), tmp_path))
    assert run_name(small(tasks=1)) != run_name(small(tasks=2))
    [part] = tmp_path.glob("rows-*")
    part.write_bytes(part.read_bytes()[:-3])
    with pytest.raises(Failure, match="damaged"):
        read_run(tmp_path)


# -- divergence ------------------------------------------------------------------------------------------------------------


def test_a_replica_that_diverges_ends_with_a_reason_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(algorithm="cbp", optimizer="adam", seeds=3, maturity=5, dtype="float64")
    healthy = list(run(config))
    images = digits()
    spoilt = type(images)("digits", images.x.astype(np.float32), images.y, images.test, 16.0, images.names, "spoilt")

    def open_spoilt(*arguments: object) -> list[object]:
        """The stream of seed 1 has an image that is not a number in all of its pixels."""
        streams = open_streams(*arguments)  # type: ignore[arg-type]
        other = type(streams[1])(streams[1].config, spoilt, 1)
        spoilt.x[other.task(1).train.rows[other.task(1).order()[40]]] = np.nan
        return [streams[0], other, streams[2]]

    monkeypatch.setattr("experiments.run_program.open_streams", open_spoilt)
    rows = list(run(config, tmp_path, save_every=1))
    for seed in (0, 2):
        for ours, expected in zip(table(rows, seed), table(healthy, seed)):
            assert ours == pytest.approx(expected, rel=1e-7, abs=1e-9, nan_ok=True)
    ended = [row for row in table(rows, 1) if not np.isnan(row["diverged_at"])]
    assert [row["task"] for row in ended] == [0] and REASONS[int(ended[0]["reason"])] == "loss not finite"
    assert 0 <= ended[0]["diverged_at"] < 20
    assert read_run(tmp_path).ended == {1: f"loss not finite at update {int(ended[0]['diverged_at'])}"}
    lines = csv_text([read_run(tmp_path)]).splitlines()
    assert len(lines) == 1 + 3 + 1 + 3  # one line for the replica that ended
    again = list(run(config, tmp_path))
    assert repr(again) == repr(rows)


@pytest.mark.parametrize("algorithm", ["bp", "l2-er", "spectral", "cbp", "redo"])
def test_all_replicas_may_diverge(algorithm: str, tmp_path: Path) -> None:
    """Also inside decompositions, which refuse numbers that are not finite."""
    changes = {"er_every": 1} if algorithm == "l2-er" else {"maturity": 5} if algorithm == "cbp" else {}
    rows = list(run(small(algorithm=algorithm, step_size=1e30, seeds=2, **changes), tmp_path, save_every=1))
    assert {seed: "not finite" in text for seed, text in read_run(tmp_path).ended.items()} == {0: True, 1: True}
    assert len(rows) == 6 and all(np.isnan(row["online_accuracy"]) for row in rows if row["task"] > 0)


# -- configuration ---------------------------------------------------------------------------------------------------------


def test_the_tables_of_algorithms_agree() -> None:
    names = {field.name for field in fields(Run)}
    assert list(ALGORITHMS) == list(DEFAULTS)
    assert all(set(used) <= names for used in DEFAULTS.values())


def test_the_command_line_has_every_field() -> None:
    options = argparse.ArgumentParser()
    add_options(options)
    flags = {flag for action in options._actions for flag in action.option_strings}
    assert {"--" + f.name.replace("_", "-") for f in fields(Run) if f.name != "stream"} <= flags
    assert from_options(vars(options.parse_args(["permuted-images"]))) == Run(stream="permuted-images")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--eps 0", "eps = 0.0"),
        ("--eps nan", "eps = nan"),
        ("--algorithm nope", "choose one of bp"),
        ("--tasks 0", "tasks = 0"),
        ("--algorithm cbp --tasks 1 --maturity 224", "the run has 224 updates"),
        ("--maturity 5", "does not use it"),
        ("--algorithm adam --optimizer sgd", "is an optimiser"),
        ("--dataset nope", "data set 'nope' is unknown"),
        ("--examples 99999", "give at most that many"),
        ("--batch 5000", "give a smaller batch"),
        ("--seeds 99999999999999999999999", "less than"),
        ("--seeds 1000000", "give at most 100000"),
        ("--seed 9223372036854775807 --seeds 2", "the seeds are whole numbers from 0"),
        ("--hidden 9999999999", "give at most 1000000 units per layer"),
        ("--activation leaky_relu:", "choose one of relu"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=message) as caught:
        lop("run", "permuted-images", *arguments.split(), "--out", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [{"algorithm": []}, {"dataset": {}}, {"protocol": 3}, {"activation": 5}, {"norm": []}, {"hidden": 5}, {"hidden": ([1],)},
     {"tasks": True}, {"tasks": 1.0}, {"tasks": 10**400}, {"step_size": 10**400}],
)  # fmt: skip
def test_values_of_other_types_are_named(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} = "):
        Run(stream="permuted-images", **change)  # type: ignore[arg-type]


def test_a_whole_number_and_the_same_float_are_one_configuration() -> None:
    assert run_name(Run(stream="permuted-images", dropout=0)) == run_name(Run(stream="permuted-images", dropout=0.0))


def test_more_classes_than_the_data_has_and_streams_of_other_kinds() -> None:
    with pytest.raises(Failure, match="digits has 10; give fewer tasks"):
        prepare(Run(stream="class-incremental", tasks=6, seeds=1))
    with pytest.raises(Failure, match="runner of its own"):
        prepare(Run(stream="bit-flipping"))
    with pytest.raises(Failure, match="unknown"):
        prepare(Run(stream="nope"))
    with pytest.raises(Failure, match="no such option"):
        prepare(Run(stream="class-pairs", examples=3))


# -- measurements ----------------------------------------------------------------------------------------------------------


def test_measurements_can_be_rare_and_change_nothing_else() -> None:
    every, never = (list(run(small(seeds=1, measure_every=k))) for k in (2, 0))
    assert [np.isnan(row["dead_fraction"]) for row in every] == [True, False, True]
    assert all(np.isnan(row["dead_fraction"]) for row in never)
    assert [row["online_loss"] for row in every] == [row["online_loss"] for row in never]


def test_the_table_reads_back_exactly_and_has_no_wall_time(tmp_path: Path) -> None:
    rows = list(run(small(seeds=2, tasks=2), tmp_path))
    lines = csv_text([read_run(tmp_path)]).splitlines()
    head, first = lines[0].split(","), lines[1].split(",")
    assert "seconds" not in head and {"run", "seed", "task", "data_sha256", "torch"} <= set(head)
    assert float(first[head.index("online_loss")]) == rows[0]["online_loss"]
    assert [line.split(",")[1:3] for line in lines[1:]] == [["0", "0"], ["0", "1"], ["1", "0"], ["1", "1"]]
    with pytest.raises(Failure, match="holds no run"):
        (tmp_path / "empty").mkdir()
        read_runs(tmp_path / "empty")
