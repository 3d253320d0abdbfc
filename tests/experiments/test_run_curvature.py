"""Curvature at the start of a task against full spectra by automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments import run_curvature
from experiments.run import run
from experiments.run_config import Run
from experiments.run_curvature import CURVATURE_COLUMNS, live_net, measure_curvature
from experiments.run_program import prepare
from experiments.run_state import start
from lop_theory.algorithms.base import generators, mlp_forward, mlp_init
from lop_theory.forward import evaluate
from tests.reference import autodiff

EPS = 0.02


def make(generator, widths=(5, 6, 4, 3), activation="relu", active=None, examples=12):
    params = tuple(p + 0.05 for p in mlp_init(widths, generators([1]), torch.float32))
    x = torch.randn(examples, widths[0], generator=generator)
    labels = torch.arange(widths[-1]) if active is None else torch.tensor(active)
    y = labels[torch.randint(0, len(labels), (examples,), generator=generator)]
    return params, x, y, live_net(params, activation, x, y, None if active is None else np.array(active))


def draw():
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("exact", [True, False])
def test_every_column_against_the_full_spectrum(generator, activation, exact, monkeypatch):
    _, _, _, net = make(generator, activation=activation)
    if not exact:
        monkeypatch.setattr(run_curvature, "EXACT_PARAMS", 0)
    found = measure_curvature(net, EPS, draw())
    assert tuple(found) == CURVATURE_COLUMNS
    values = torch.linalg.eigvalsh(autodiff.hessian(net.dag, net.theta, net.x, net.y, net.kind))
    gauss_newton = torch.linalg.eigvalsh(autodiff.gauss_newton(net.dag, net.theta, net.x, net.y, net.kind))
    assert found["start_lambda_max"] == pytest.approx(float(values[-1]), rel=1e-9)
    assert found["start_lambda_min"] == pytest.approx(float(values[0]), rel=1e-9)
    assert abs(found["start_trace"] - float(values.sum())) <= 3 * found["start_trace_error"] + 1e-9
    assert (found["start_trace_error"] == 0) == (exact or activation == "relu")
    count = int((values.abs() > EPS).sum())
    assert 5 < count < len(values)
    if exact:
        assert (
            found["start_epsilon_rank"]
            == found["start_epsilon_rank_lower"]
            == found["start_epsilon_rank_upper"]
            == count
        )
    else:
        low, high = found["start_epsilon_rank_lower"], found["start_epsilon_rank_upper"]
        middle, width = (low + high) / 2, (high - low) / 2
        assert abs(middle - count) <= 3 * width and 0 < width < len(values) / 4
    assert found["start_normalized_epsilon_rank"] == found["start_epsilon_rank"] / net.dag.num_params
    counted = int((gauss_newton > EPS).sum())
    assert found["start_gauss_newton_epsilon_rank"] == counted
    assert found["start_gauss_newton_share"] == counted / (12 * 2)


def test_the_published_estimator_is_something_else(generator):
    """Half of the units dead, so that at most half of the directions count; with large inputs it says that nearly all do."""
    params, x, y, _ = make(generator)
    params[1][:, :3] = params[3][:, :2] = -1e6
    found = measure_curvature(live_net(params, "relu", 100 * x, y), 1e-3, draw())
    assert found["start_normalized_epsilon_rank"] < 0.5
    assert found["start_published_epsilon_rank"] > 0.95


def test_outputs_that_do_not_count_are_left_out(generator):
    """Against the whole network, whose other outputs are never right: minus infinity in the softmax, no rows in H."""
    active = [0, 2]
    params, x, y, net = make(generator, active=active)
    whole = live_net(params, "relu", x, y)

    def loss(theta):
        logits = autodiff.outputs(whole.dag, theta, whole.x)[:, active]
        return torch.nn.functional.cross_entropy(logits, torch.searchsorted(torch.tensor(active), y))

    values = torch.linalg.eigvalsh(torch.func.hessian(loss)(whole.theta))
    found = measure_curvature(net, EPS, draw(), whole=whole.dag.num_params)
    assert found["start_epsilon_rank"] == int((values.abs() > EPS).sum())
    assert found["start_normalized_epsilon_rank"] == found["start_epsilon_rank"] / whole.dag.num_params
    assert found["start_trace"] == pytest.approx(float(values.sum()), rel=1e-9)
    assert found["start_lambda_min"] == pytest.approx(float(values[0]), rel=1e-9, abs=1e-12)
    assert found["start_gauss_newton_share"] == found["start_gauss_newton_epsilon_rank"] / 12  # N (C − 1), C = 2


def test_one_output_leaves_nothing_to_curve(generator):
    *_, net = make(generator, active=[1])
    found = measure_curvature(net, EPS, draw(), whole=100)
    assert found["start_epsilon_rank"] == found["start_gauss_newton_epsilon_rank"] == 0
    assert np.isnan(found["start_gauss_newton_share"])  # 0/0


def test_the_live_network_is_the_network_of_the_run(generator):
    params, x, _, net = make(generator)
    expected = mlp_forward(tuple(p.double() for p in params), x.double()).output[0]
    assert torch.allclose(evaluate(net.dag, net.theta, net.x).output, expected, atol=1e-12)


def test_along_a_run_at_the_start_of_tasks():
    """Row 0 has the curvature of the fresh network on the probe of task 0; cadence 2; the same for a replica alone."""
    config = Run(stream="permuted-images", tasks=3, seeds=2, hidden=(6, 5), examples=120, dtype="float64",
                 curvature_every=2, curvature_examples=30, curvature_eps=EPS)  # fmt: skip
    rows = list(run(config))
    assert [np.isnan(row["start_trace"]) for row in rows if row["seed"] == 1] == [False, True, False]
    program = prepare(config)
    learner, task = start(program), program.streams[1].task(0)
    probe = task.probe.part(slice(0, 30))
    net = live_net(tuple(p[1:] for p in learner.params), "relu", torch.from_numpy(probe.x()).double(),
                   torch.from_numpy(probe.y))  # fmt: skip
    values = torch.linalg.eigvalsh(autodiff.hessian(net.dag, net.theta, net.x, net.y, net.kind))
    assert rows[1]["start_epsilon_rank"] == int((values.abs() > EPS).sum())
    assert rows[1]["start_lambda_max"] == pytest.approx(float(values[-1]), rel=1e-9)
    alone = list(run(Run(**{**vars(config), "seeds": 1, "seed": 1})))
    for name in CURVATURE_COLUMNS:
        assert alone[2][name] == pytest.approx(rows[5][name], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("wrong", "text"), [({"curvature_eps": 0.0}, "curvature_eps = 0.0"),
                                             ({"curvature_examples": 0}, "curvature_examples = 0"),
                                             ({"curvature_every": -1}, "curvature_every = -1")])  # fmt: skip
def test_impossible_settings_are_named(wrong, text):
    with pytest.raises(ValueError, match=text):
        Run(stream="permuted-images", **wrong)
