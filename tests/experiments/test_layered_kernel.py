"""The compiled step of small minibatches against the batched path, which the other tests compare with autograd and torch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import experiments.run as runner
from experiments.run import run, train_task
from experiments.run_config import Run
from experiments.run_layered import applies, train_compiled
from experiments.run_program import prepare
from experiments.run_state import Learner, start
from lop_theory.algorithms.base import flatten

SMALL = {"stream": "permuted-images", "examples": 120, "hidden": (12, 10), "tasks": 3, "seeds": 2, "dtype": "float64"}
RULES: dict[str, dict[str, object]] = {
    "sgd": {"algorithm": "bp"},
    "momentum": {"algorithm": "momentum"},
    "adam": {"algorithm": "adam"},
    "l2": {"algorithm": "l2", "weight_decay": 0.3},
    "l2, a factor that is taken in": {"algorithm": "l2", "weight_decay": 3.0},  # (1 − .09)^120 = 1e-5
    "cbp": {"algorithm": "cbp"},
    "cbp(momentum)": {"algorithm": "cbp", "optimizer": "momentum"},
    "cbp(adam)": {"algorithm": "cbp", "optimizer": "adam"},
}


def config(**changes: object) -> Run:
    eager = {"maturity": 5, "replacement_rate": 0.02} if changes.get("algorithm") == "cbp" else {}
    return Run(**{**SMALL, **eager, **changes})  # type: ignore[arg-type]


def learners(chosen: Run, monkeypatch: pytest.MonkeyPatch) -> tuple[Learner, Learner, list[dict[str, np.ndarray]]]:
    """The learner after each of two tasks on either path, and the rows of both."""
    program, ends, rows = prepare(chosen), [], []
    assert applies(program)
    for compiled in (True, False):
        monkeypatch.setattr(runner, "applies", lambda program, compiled=compiled: compiled)
        learner = start(program)
        for t in range(2):
            learner, _, values = train_task(program, learner, [stream.task(t) for stream in program.streams])
            rows.append(values)
        ends.append(learner)
    return *ends, rows  # type: ignore[return-value]


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("name", RULES)
def test_both_paths_compute_the_same(name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, the whole state, generators and the rows. Minibatches of 7 go through the loops over four and over the rest."""
    chosen = config(batch=batch, **RULES[name])
    ours, theirs, rows = learners(chosen, monkeypatch)
    left, right = (flatten((learner.params, learner.state)) for learner in (ours, theirs))
    assert left.keys() == right.keys() and ours.step == theirs.step
    for path, tensor in left.items():
        assert tensor.dtype == right[path].dtype and tensor.shape == right[path].shape
        torch.testing.assert_close(tensor, right[path], rtol=1e-8, atol=1e-11, msg=lambda m, path=path: f"{path}: {m}")
    for a, b in zip(ours.generator, theirs.generator):
        assert torch.equal(a.get_state(), b.get_state())
    for t in range(2):
        for column in ("online_loss", "online_accuracy", "final_train_accuracy", "weight_norm"):
            np.testing.assert_allclose(rows[t][column], rows[2 + t][column], rtol=1e-9)
    if chosen.algorithm == "cbp":
        assert all(int(paid.sum()) > 0 for paid in ours.state.paid)  # units were replaced


def test_outputs_that_do_not_count_and_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Run(stream="class-incremental", tasks=2, seeds=1, batch=4, hidden=(7, 6), epochs=2, probe=20)
    ours, theirs, _ = learners(chosen, monkeypatch)
    for a, b in zip(ours.params, theirs.params):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_replica_depends_neither_on_its_neighbours_nor_on_threads(batch: int) -> None:
    """To the last bit, and through replacements."""
    chosen = config(algorithm="cbp", batch=batch, seeds=3, dtype="float32")
    threads = torch.get_num_threads()
    together = list(run(chosen))
    try:
        torch.set_num_threads(2)
        shared = list(run(chosen))
    finally:
        torch.set_num_threads(threads)
    alone = list(run(dataclasses.replace(chosen, seeds=1, seed=1)))
    columns = ("online_loss", "online_accuracy", "weight_norm", "mean_abs_weight")
    assert [[row[c] for c in columns] for row in together] == [[row[c] for c in columns] for row in shared]
    own = [row for row in together if row["seed"] == 1]
    assert [[row[c] for c in ("online_loss", "online_accuracy")] for row in own] == [
        [row[c] for c in ("online_loss", "online_accuracy")] for row in alone
    ]


def test_divergence_ends_a_replica_as_on_the_batched_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one update: an overflow that one order of summation meets, another meets one step later."""
    chosen = config(batch=1, step_size=1e30, dtype="float32")
    ours, theirs, rows = learners(chosen, monkeypatch)
    assert len(ours.alive) == len(theirs.alive) == 0
    assert set(rows[0]["reason"]) <= {1, 2}
    np.testing.assert_array_equal(np.abs(rows[0]["diverged_at"] - rows[2]["diverged_at"]) <= 1, True)


@pytest.mark.parametrize(
    "changes",
    [{"activation": "tanh"}, {"algorithm": "noisy-sgd"}, {"batch": 64}, {"algorithm": "l2", "optimizer": "adam"},
     {"batch": 8, "hidden": (2000, 2000)}],
)  # fmt: skip
def test_it_is_not_used_for_what_it_does_not_do(changes: dict[str, object]) -> None:
    assert not applies(prepare(config(**changes)))


def test_no_replica_left() -> None:
    program = prepare(config())
    learner = start(program)
    learner.alive = learner.alive[:0]
    totals = train_compiled(program, learner, [stream.task(0) for stream in program.streams], {})
    assert totals.examples == 0 and learner.step == 0


def test_the_cache_of_compiled_code_knows_all_files_of_the_kernel() -> None:
    """numba looks for changes in a function's own file only; functions of another file are inlined into it."""
    from experiments import layered_kernel, layered_net, layered_units

    for module in (layered_kernel, layered_net, layered_units):
        functions = [f for f in vars(module).values() if hasattr(f, "py_func")]
        assert functions and all(f._cache._cache_file._source_stamp == layered_net.SOURCES for f in functions)

    @layered_net.compiled
    def twice(x: float) -> float:
        return 2 * x

    assert twice(1.5) == 3.0
    kept = twice._cache._cache_file
    assert len(kept._load_index()) == 1
    kept._source_stamp = "after a change in one of the files"
    assert len(kept._load_index()) == 0
