"""Runs with normalisation, dropout, other activations and other devices."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from experiments.errors import Failure
from experiments.run import run, train_task
from experiments.run_config import ACTIVATIONS, DEFAULTS, NORMS, PLAIN, Run
from experiments.run_program import prepare
from experiments.run_state import start
from experiments.run_update import Batch, differentiate, dropout, minibatches
from lop_theory import activations
from lop_theory.algorithms.base import gradients

SMALL = {"stream": "permuted-images", "examples": 160, "hidden": (12, 10), "tasks": 2}
EAGER = {"er_every": 5, "maturity": 5, "replacement_rate": 0.02, "period": 7, "threshold": 0.3}


def small(**changes: object) -> Run:
    return Run(**{**SMALL, **changes})  # type: ignore[arg-type]


def without_time(rows: list[dict[str, float]], seed: int) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows if row["seed"] == seed]


class Masked(nn.Module):
    """Dropout with masks that are given."""

    mask: torch.Tensor | None = None

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h if self.mask is None or not self.training else h * self.mask


def torch_net(seed: int, norm: str) -> nn.Sequential:
    """The first net of this seed, as modules of torch."""
    generator, modules = torch.Generator().manual_seed(seed), []
    for fan_in, fan_out in [(64, 12), (12, 10), (10, 10)]:
        linear = nn.Linear(fan_in, fan_out).double()
        nn.init.uniform_(linear.weight, -((6 / fan_in) ** 0.5), (6 / fan_in) ** 0.5, generator=generator)
        nn.init.zeros_(linear.bias)
        between = {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}[norm](fan_out)
        modules += [linear, between.double(), nn.ReLU(), Masked()]
    return nn.Sequential(*modules[:-3])


@pytest.mark.parametrize(("norm", "rate"), [*product(NORMS, (0.0, 0.3))])
def test_a_run_is_that_of_torch_on_the_same_minibatches_and_masks(norm: str, rate: float) -> None:
    config = small(dtype="float64", seeds=2, seed=4, norm=norm, dropout=rate)
    rows, program = [row for row in run(config) if row["seed"] == 5], prepare(config)
    net = torch_net(5, norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.03)
    for t in range(2):
        task, draw, losses = program.streams[1].task(t), dropout(program, t), []
        for batch in task.batches():
            masks = draw(len(batch))
            for l, module in enumerate(m for m in net if isinstance(m, Masked)):
                module.mask = None if masks is None else masks[l][1]
            x, y = torch.from_numpy(task.train.x(batch)).double(), torch.from_numpy(task.train.y[batch])
            loss = nn.functional.cross_entropy(net.train()(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert rows[t]["online_loss"] == pytest.approx(np.mean(losses), rel=1e-9)
        final = net.eval()(torch.from_numpy(task.train.x()).double()).argmax(1).numpy() == task.train.y
        assert rows[t]["final_train_accuracy"] == pytest.approx(final.mean(), abs=1e-12)
        assert 0 < rows[t]["effective_rank_h1"] <= 12 and rows[t]["weight_norm"] > 0


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("algorithm", [name for name in DEFAULTS if name not in PLAIN])
def test_every_algorithm_runs_with_normalisation_as_single_runs_do(algorithm: str, norm: str) -> None:
    changes = {k: v for k, v in EAGER.items() if k in DEFAULTS[algorithm]}
    config = {"algorithm": algorithm, "norm": norm, "dropout": 0.1, "dtype": "float64", "examples": 80, **changes}
    together, alone = list(run(small(seeds=2, **config))), list(run(small(seeds=1, seed=1, **config)))
    for ours, single in zip(without_time(together, 1), without_time(alone, 1), strict=True):
        assert ours == pytest.approx(single, rel=1e-6, abs=1e-8, nan_ok=True)
    assert 0 < ours["online_accuracy"] < 1


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_the_gradient_is_that_of_the_loss_the_algorithms_see(norm: str) -> None:
    """With outputs that do not count, dropout, and a replica that has ended."""
    program = prepare(
        Run(stream="class-incremental", norm=norm, dropout=0.2, seeds=1, tasks=2, hidden=(7, 6), dtype="float64")
    )
    learner, task = start(program), program.streams[0].task(0)
    x, y = next(minibatches([task], torch.float64))
    [masks] = [dropout(program, 0)(y.shape[1])]
    twice = Batch(task, x.expand(2, -1, -1), y.expand(2, -1), tuple(m.expand(2, -1, -1) for m in masks), [x])
    learner.alive = np.array([1])  # of two
    now = differentiate(program, learner, twice)
    for ours, expected in zip(now.grads, gradients(learner.params, now.context), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("algorithm", ["cbp", "noisy-sgd"])
def test_stopping_anywhere_changes_no_row(algorithm: str, tmp_path: Path) -> None:
    """Running statistics and the masks of later tasks survive a checkpoint."""
    changes = {k: v for k, v in EAGER.items() if k in DEFAULTS[algorithm]}
    config = small(algorithm=algorithm, seeds=2, tasks=4, norm="batch", dropout=0.2, **changes)
    whole = list(run(config))
    for row in run(config, tmp_path, save_every=2):
        if row["task"] == 2:
            break
    again = list(run(config, tmp_path, save_every=1))
    assert [repr(without_time(again, s)) for s in (0, 1)] == [repr(without_time(whole, s)) for s in (0, 1)]


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_replicas_that_diverge_leave_the_others_alone(norm: str) -> None:
    """A step that overflows, in one replica of two: the statistics and masks of the other are still its own."""
    config = small(seeds=2, norm=norm, dropout=0.2, dtype="float64", tasks=2)
    program = prepare(config)
    healthy = list(run(config))
    learner = start(program)
    learner.params[0][0] = float("nan")
    for t in range(2):
        learner, _, values = train_task(program, learner, [stream.task(t) for stream in program.streams])
        expected = without_time(healthy, 1)[t]
        assert values["online_loss"][1] == pytest.approx(expected["online_loss"], rel=1e-9)
        assert values["final_train_accuracy"][1] == expected["final_train_accuracy"]
        assert np.isnan(values["online_loss"][0]) and learner.alive.tolist() == [1]


def test_dropout_masks_are_those_of_seed_and_task() -> None:
    two, one = prepare(small(seeds=2, dropout=0.5)), prepare(small(seeds=1, seed=1, dropout=0.5))
    both, alone, later = dropout(two, 3)(8), dropout(one, 3)(8), dropout(one, 4)(8)
    assert both is not None and alone is not None and later is not None
    assert torch.equal(both[0][1:], alone[0]) and not torch.equal(both[0][:1], alone[0])
    assert not torch.equal(later[0], alone[0]) and dropout(prepare(small()), 0)(8) is None


# -- activations and devices -----------------------------------------------------------------------------------------------


def test_all_activations_of_the_library_can_be_chosen() -> None:
    assert sorted(ACTIVATIONS) == sorted([*activations._TABLE, "leaky_relu"])
    [row] = run(small(activation="leaky_relu:0.25", seeds=1, tasks=1))
    [other] = run(small(activation="leaky_relu", seeds=1, tasks=1))
    assert row["online_loss"] != other["online_loss"]
    for name in ("leaky_relu:steep", "leaky_relu:1/0"):
        with pytest.raises(Failure, match="is not a number; write leaky_relu:0.01"):
            prepare(small(activation=name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "group"}, "choose one of none, layer, batch"),
        ({"norm": "layer", "algorithm": "spectral"}, "'spectral' is defined without normalisation"),
        ({"norm": "batch", "curvature_every": 5}, "curvature_every = 5; nets with normalisation have no such thing"),
        ({"dropout": 1.0}, "dropout = 1.0; give a number in \\[0, 1\\)"),
        ({"device": "tpu"}, "choose one of cpu, cuda"),
        ({"activation": "relu:3"}, "choose one of relu"),
    ],
)
def test_bad_configurations_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_a_batch_of_one_has_no_variance() -> None:
    with pytest.raises(Failure, match="one example has no variance"):
        prepare(small(norm="batch", batch=1))
    prepare(small(norm="layer", batch=1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="torch finds no GPU") as caught:
        next(run(small(device="cuda"), tmp_path / "out"))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("algorithm", DEFAULTS)
def test_a_gpu_gives_the_rows_of_the_cpu_up_to_rounding(algorithm: str, tmp_path: Path) -> None:
    """Algorithms that draw random numbers while training draw others there: for these only the first losses agree."""
    changes = {k: v for k, v in EAGER.items() if k in DEFAULTS[algorithm]}
    config = {"algorithm": algorithm, "dtype": "float64", "seeds": 2, **changes}
    cpu = list(run(small(**config)))
    gpu = list(run(small(device="cuda", **config), tmp_path, save_every=1))
    assert repr(without_time(list(run(small(device="cuda", **config), tmp_path)), 0)) == repr(without_time(gpu, 0))
    if algorithm in ("bp", "momentum", "adam", "l2", "l2-init", "er", "l2-er", "spectral", "weight-clipping"):
        for ours, expected in zip(gpu, cpu, strict=True):
            assert ours["online_loss"] == pytest.approx(expected["online_loss"], rel=1e-6)
            assert ours["final_train_accuracy"] == pytest.approx(expected["final_train_accuracy"], abs=0.02)
