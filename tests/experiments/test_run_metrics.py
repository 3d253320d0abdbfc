"""What is measured along a run: features, gradients, distances to the manifolds; and that measuring changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.results import csv_text, read_run
from experiments.run import run
from experiments.run_clones import clone_params, measure_clone_r2, relative_normal_part
from experiments.run_config import Run
from experiments.run_measure import measure_start_of_task
from experiments.run_metrics import (
    dead_on_all,
    frozen_normal_update,
    measure_features,
    measure_start,
    measured_columns,
)
from experiments.run_net import error_signals, output_signal
from experiments.run_program import prepare
from experiments.run_state import start
from lop_theory.algorithms.base import LayerTrace, generators, gradients, mlp_context, mlp_forward, mlp_init
from lop_theory.architectures import mlp
from lop_theory.cloned import clone, cloned_manifold
from lop_theory.frozen import frozen_manifold, numerically_dead_units
from lop_theory.partition import UnitPartition
from lop_theory.rank import effective_rank, stable_rank

WIDTHS = (5, 6, 4, 3)


def small(**changes: object) -> Run:
    base = {"stream": "permuted-images", "examples": 160, "hidden": (12, 10), "tasks": 2, "seeds": 1}
    return Run(**{**base, **changes})  # type: ignore[arg-type]


def flat(params, r=0):
    return torch.cat([p[r].flatten() for p in params])


@pytest.fixture
def net(generator):
    """Two replicas of a 5-6-4-3 ReLU net, with biases that kill the first unit of each layer; inputs and labels."""
    params = [p + 0.1 for p in mlp_init(WIDTHS, generators([3, 4]), torch.float64)]
    for bias in params[1:-1:2]:
        bias[:, 0] = -50.0
    x = torch.randn(2, 9, 5, generator=generator, dtype=torch.float64)
    return tuple(params), x, torch.randint(0, 3, (2, 9), generator=generator)


def passes(net, activation="relu"):
    params, x, y = net
    trace = mlp_forward(params, x, activation)
    return trace, error_signals(params, trace, output_signal(trace.output, y), activation)


# -- features --------------------------------------------------------------------------------------------------------------


def test_fractions_count_units_of_all_layers() -> None:
    dead_twin = torch.tensor([[[0.0, 1.0, 2.0], [0.0, 3.0, 6.0]]])  # of 3 units one is dead, one has a later twin
    h = (dead_twin, torch.eye(2)[None])
    values = measure_features(LayerTrace(h, h, h[1]), "relu", eps=0.1)
    assert values["dead_fraction"][0] == values["dormant_fraction"][0] == pytest.approx(1 / 5)
    assert values["saturated_fraction"][0] == pytest.approx(1 / 5)  # slope 0 on all of the probe
    assert values["duplicate_fraction"][0] == pytest.approx(1 / 5)
    assert [values[f"dead_fraction_h{l}"][0] for l in (1, 2)] == [pytest.approx(1 / 3), 0]


def test_ranks_against_the_definitions_of_the_library(generator: torch.Generator) -> None:
    h = torch.randn(3, 9, 5, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 0.5, 0.1, 0.0, 1e-3])
    values = measure_features(LayerTrace((h,), (h,), h), "relu", eps=1e-4)
    for r in range(3):
        assert values["effective_rank_h1"][r] == pytest.approx(effective_rank(h[r]), rel=1e-12)
        assert values["stable_rank_h1"][r] == pytest.approx(stable_rank(h[r]), rel=1e-12)
        assert values["epsilon_rank_gram_h1"][r] == (torch.linalg.eigvalsh(h[r].T @ h[r] / 9) > 1e-4).sum()
        assert values["tolerance_rank_h1"][r] == 4
    zero = measure_features(LayerTrace((0 * h,), (0 * h,), 0 * h), "relu", eps=1e-4)
    assert all(value[0] == 0 for name, value in zero.items() if "rank" in name or "participation" in name)


def test_every_column_has_a_value_and_every_value_a_column() -> None:
    config = small(cloned=2, curvature_every=1, curvature_examples=20, algorithm="l2")
    [*_, last] = list(run(config))
    expected = measured_columns({"hidden": config.hidden, "cloned": 2, "curvature_every": 1})
    assert set(expected) <= set(last)
    assert [name for name in expected if np.isnan(last[name])] == ["frozen_normal_update"]  # no unit died


# -- the start of a task ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gradient_norm_and_reliability_against_autograd(net, activation):
    params, x, y = net
    trace, signals = passes(net, activation)
    found = measure_start(x, trace, signals, dead_on_all(trace, activation), batch=4)
    ctx = mlp_context(params, x, y, activation, "cross_entropy")
    whole = gradients(params, ctx)
    for r in range(2):
        norm = flat(whole, r).norm()
        assert found["start_gradient_norm"][r] == pytest.approx(float(norm), rel=1e-12)
        squares = [
            float(flat(gradients(params, mlp_context(params, x[:, i : i + 1], y[:, i : i + 1], activation, "cross_entropy")), r)
                  .square().sum())
            for i in range(9)
        ]  # fmt: skip
        second = norm**2 + (np.mean(squares) - norm**2) / 4
        assert found["start_gradient_reliability"][r] == pytest.approx(float(norm**2 / second), rel=1e-10)
        assert found["start_readiness"][r] == pytest.approx(float(norm**4 / second), rel=1e-10)


def test_outputs_that_do_not_count_have_no_signal(net):
    params, x, y = net
    trace = mlp_forward(params, x)
    mask = torch.tensor([0.0, -torch.inf, 0.0])
    delta = output_signal(trace.output, y.clamp(max=0), mask)
    assert (delta[:, :, 1] == 0).all() and torch.allclose(delta.sum(dim=2), torch.zeros(2, 9, dtype=torch.float64))


def test_measuring_changes_no_other_number() -> None:
    def training(config):
        return [[row[name] for name in ("online_loss", "final_train_accuracy")] for row in run(config)]

    options = {"algorithm": "cbp", "replacement_rate": 0.02, "maturity": 3}  # which draws random numbers
    everything = small(**options, curvature_every=1, curvature_examples=10, claims_every=1)
    assert training(everything) == training(small(**options, measure_every=0))


def test_what_is_off_does_nothing(monkeypatch) -> None:
    program = prepare(small(measure_every=0))
    monkeypatch.setattr("experiments.run_measure.evaluate", None)  # any forward pass would fail
    opening = measure_start_of_task(program, start(program), [program.streams[0].task(0)], {})
    assert not opening.params and not opening.claims
    assert "start_trace" not in program.columns and "clone_r2" not in program.columns


# -- frozen units ----------------------------------------------------------------------------------------------------------


def test_dead_units_and_the_normal_part_of_an_update_are_those_of_the_frozen_manifold(net, generator):
    params, x, _ = net
    dag = mlp(WIDTHS)
    trace, _ = passes(net)
    dead = dead_on_all(trace, "relu")
    after = tuple(p + torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in params)
    for r in range(2):
        units = numerically_dead_units(dag, flat(params, r), x[r])
        expected = torch.cat(
            [torch.zeros(6, dtype=torch.bool), *(d[r] for d in dead), torch.zeros(3, dtype=torch.bool)]
        )
        assert units == tuple(torch.nonzero(expected)[:, 0].tolist()) and len(units) >= 2
        step = flat(after, r) - flat(params, r)
        normal = frozen_manifold(dag, flat(params, r), units).normal_part(step)
        assert frozen_normal_update(params, after, dead)[r] == pytest.approx(
            float(normal.norm() / step.norm()), rel=1e-12
        )


def test_without_dead_units_or_without_a_step_there_is_no_normal_part(net):
    params = net[0]
    after = tuple(p + 1 for p in params)
    nobody = [torch.zeros(2, n, dtype=torch.bool) for n in (6, 4)]
    somebody = [torch.ones(2, n, dtype=torch.bool) for n in (6, 4)]
    assert np.isnan(frozen_normal_update(params, after, nobody)).all()
    assert np.isnan(frozen_normal_update(params, params, somebody)).all()


def test_along_a_run_dead_units_stay_on_their_manifold_unless_weights_decay(monkeypatch) -> None:
    """Theorem 2.1(1) of 2510.00304 on a training run: the update of SGD is tangent, that of L2 is not."""

    def killed(config):
        program = prepare(config)
        learner = start(program)
        learner.params[1][:, :3] = -50.0
        return learner

    found = {}
    for algorithm in ("bp", "l2"):
        config = small(algorithm=algorithm, **({"weight_decay": 0.1} if algorithm == "l2" else {}))
        monkeypatch.setattr("experiments.run.start", lambda program, config=config: killed(config))
        [*_, last] = list(run(config))
        assert last["start_dead_fraction"] >= 3 / 22
        found[algorithm] = last["frozen_normal_update"]
    assert found["bp"] == 0 and found["l2"] > 0.01


# -- clones ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3])
def test_cloned_parameters_are_those_of_the_library(k):
    params = mlp_init((3, 2, 4, 2), generators([0, 1]), torch.float64)
    wide = clone_params(params, k)
    for r in range(2):
        expected = clone(mlp((3, 2, 4, 2)), flat(params, r), k)
        assert torch.equal(flat(wide, r), expected.theta)


@pytest.mark.parametrize("k", [2, 3])
def test_the_normal_part_is_that_of_the_cloned_manifold(k, generator):
    widths = (3, 2 * k, k, 2)
    params = tuple(
        torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in mlp_init(widths, generators([0, 1]))
    )
    dag = mlp(widths)
    hidden = [int(u) for u in dag.hidden]
    manifold = cloned_manifold(dag, UnitPartition.of(dag, [hidden[i : i + k] for i in range(0, len(hidden), k)]))
    for r in range(2):
        normal = torch.as_tensor(manifold.normal_part(flat(params, r)))
        expected = float(normal.norm() / flat(params, r).norm())
        assert 0.1 < expected < 1
        assert relative_normal_part(params, k)[r] == pytest.approx(expected, rel=1e-12)
    start_of_run = clone_params(mlp_init((3, 2, 1, 2), generators([0]), torch.float64), k)
    assert relative_normal_part(start_of_run, k)[0] < 1e-15
    assert np.isnan(relative_normal_part(tuple(0 * p for p in params), k)).all()


def test_sgd_keeps_clones_and_noise_does_not() -> None:
    """Theorem 2.1(2) of 2510.00304 on a training run."""
    [*_, kept] = list(run(small(cloned=2)))
    assert kept["clone_r2"] == 1.0 and kept["clone_r2_h2"] == 1.0
    assert kept["cloned_distance"] < 1e-6 and kept["cloned_normal_gradient"] < 1e-5  # rounding in float32
    assert kept["duplicate_fraction"] >= 0.5
    [*_, left] = list(run(small(cloned=2, algorithm="noisy-sgd")))
    assert left["clone_r2"] < 0.9999 and left["cloned_distance"] > 1e-3 and left["cloned_normal_update"] > 0.1


def test_clone_r2_of_a_dead_layer_is_undefined():
    h = [torch.zeros(1, 3, 4), torch.eye(3, 4)[None]]
    found = measure_clone_r2(h, h, 2)
    assert np.isnan(found["clone_r2_h1"]) and np.isnan(found["clone_r2"]) and found["clone_r2_h2"] < 1


def test_widths_that_cannot_be_cloned_are_refused():
    with pytest.raises(ValueError, match="cloned = 5; it must divide the widths of the hidden layers, 12,10"):
        small(cloned=5)
    with pytest.raises(ValueError, match="cloned = 0"):
        small(cloned=0)


# -- files -----------------------------------------------------------------------------------------------------------------


def test_columns_survive_a_stop_bit_for_bit(tmp_path: Path) -> None:
    config = small(tasks=4, seeds=2, cloned=2, curvature_every=2, curvature_examples=10, hidden=(6, 4), examples=40)
    list(run(config, tmp_path / "whole"))
    stopped = run(config, tmp_path / "stopped", save_every=1)
    for _ in range(5):
        next(stopped)
    stopped.close()
    list(run(config, tmp_path / "stopped", save_every=3))
    whole, again = (csv_text([read_run(tmp_path / name)]).replace(name, "") for name in ("whole", "stopped"))
    assert whole == again and "start_trace" in whole
    table = read_run(tmp_path / "whole")
    assert np.isnan(table.values["start_trace"]).tolist() == [[False] * 2, [True] * 2, [False] * 2, [True] * 2]
