"""The Spectral Collapse figures: the null model, R² within groups, spectra at task starts, the linearised net, smoke scale."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.datasets import DataError, MissingData, data_folder
from experiments.figures import registry
from experiments.figures.build import make_figure
from experiments.figures.record import Context
from experiments.figures.table import Verdict, read_expected
from experiments.paper.spectral_linearized.training import Arm, draw_net, theory_at_start, train
from experiments.paper.spectral_methods import PUBLISHED, SIZES, methods
from experiments.paper.spectral_points import (
    POINTS,
    null_limit,
    null_rank,
    published_points,
    r_squared,
    r_squared_within,
    share_of_label,
)
from experiments.paper.spectral_points import (
    PUBLISHED as POINTS_FILE,
)
from experiments.paper.spectral_starts import binned, levels_row, task_starts
from experiments.run import run
from experiments.run_config import Run
from experiments.run_curvature import LiveNet, hessian_or_none
from experiments.streams import open_streams, protocol
from lop_theory.architectures import mlp
from lop_theory.gram import loss_factor
from lop_theory.linearized import linearize
from lop_theory.spectrum import estimate_spectrum, published_normalized_epsilon_rank

FIGURES = [name for name in registry.FIGURES if name.startswith("spectral_")]


# -- the published points and the null model -------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.01, 0.04, 0.1])
@pytest.mark.parametrize("span", [3.0, 30.0])
def test_the_null_model_tends_to_a_chi_square_tail(span: float, eps: float) -> None:
    """On a grid a hundred times finer the published code gives P(χ²_3 > ε²/s²) for a Hessian of rank two."""
    shares = [1e-6, 1 - 2e-6, 1e-6]
    low = -span / 10
    fine = published_normalized_epsilon_rank([[low, 0.0, low + span]], [shares], eps, points=100 * POINTS, expand=0.0)
    assert fine == pytest.approx(null_limit(span, eps), abs=2e-3)
    s = math.sqrt(1e-5 * max(1.0, span))
    closed = math.erfc(eps / s / math.sqrt(2)) + math.sqrt(2 / math.pi) * eps / s * math.exp(-0.5 * (eps / s) ** 2)
    assert null_limit(span, eps) == pytest.approx(closed, rel=1e-12)


def test_the_null_model_depends_on_the_range_alone_and_not_on_the_rank() -> None:
    mean, low, high = null_rank(100.0, 0.04)
    assert low <= mean <= high or math.isclose(mean, low, rel_tol=1e-2)
    nodes, weights = np.array([-10.0, -3.0, 0.0, 20.0, 90.0]), np.array([1e-4, 1e-4, 1 - 4e-4, 1e-4, 1e-4])
    assert published_normalized_epsilon_rank([nodes], [weights], 0.04) == pytest.approx(mean, abs=0.03)  # rank four
    assert null_rank(1000.0, 0.04)[0] > 2 * null_rank(40.0, 0.04)[0]


def test_r_squared_separates_what_is_between_from_what_is_within_groups() -> None:
    draw = np.random.default_rng(0)
    groups = np.repeat(np.array(["a", "b"], dtype=object), 500)
    shift = np.where(groups == "a", 0.0, 10.0)
    x, y = shift + draw.normal(size=1000), shift + draw.normal(size=1000)  # no relation within a group
    assert r_squared(x, y) > 0.9 and r_squared_within(x, y, groups) < 0.02 and share_of_label(y, groups) > 0.9
    u = draw.normal(size=1000)
    assert r_squared_within(u + shift, 2 * u - shift, groups) == pytest.approx(1.0)
    assert r_squared(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    assert math.isnan(r_squared(np.ones(5), np.arange(5.0)))


def test_published_points_are_read_checked_and_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=POINTS_FILE):
        published_points(tmp_path)
    (tmp_path / POINTS_FILE).write_text("figure,panel,title,method,x,y\n")
    with pytest.raises(DataError, match=POINTS_FILE):
        published_points(tmp_path)


def test_the_published_r_squared_come_out_of_the_published_points(tmp_path: Path) -> None:
    folder = data_folder()
    if folder is None or not (folder / POINTS_FILE).is_file():
        pytest.skip(f"{POINTS_FILE} is not at hand: set LOP_DATA")
    made = make_figure("spectral_fig5_published", "smoke", tmp_path)
    judged = {line.expected.name: line.verdict for line in made.table if line.expected.quantity == "r_squared"}
    assert len(judged) == 4 + 21 and set(judged.values()) == {Verdict.MATCHED}


# -- spectra at task starts ------------------------------------------------------------------------------------------------


def test_looking_at_task_starts_changes_nothing_and_sees_inherited_parameters() -> None:
    config = Run(stream="permuted-images", tasks=3, seeds=2, examples=80, hidden=(6,), measure_every=0)
    seen: dict[tuple[int, int], torch.Tensor] = {}

    def look(net: LiveNet, seed: int, task: int) -> dict[str, int]:
        seen[seed, task] = net.theta
        return {"examples": len(net.x)}

    rows = list(task_starts(config, look, [0, 2], 40))
    trained = {(int(row["seed"]), int(row["task"])): row["online_accuracy"] for row in run(config)}
    assert [(row["seed"], row["task"]) for row in rows] == [(0, 0), (1, 0), (0, 2), (1, 2)]
    assert all(row["accuracy"] == trained[row["seed"], row["task"]] for row in rows)
    assert not torch.equal(seen[0, 0], seen[0, 2]) and not torch.equal(seen[0, 0], seen[1, 0])


def test_shares_of_a_small_net_are_those_of_its_eigenvalues() -> None:
    draw = torch.Generator().manual_seed(0)
    net_dag = mlp([3, 4, 3])
    theta, x = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((net_dag.num_params,), (30, 3)))
    net = LiveNet(net_dag, theta, x, torch.randint(0, 3, (30,), generator=draw))
    levels = np.array([1e-3, 0.05])
    row = levels_row(net, draw, levels)
    matrix = hessian_or_none(net)
    assert matrix is not None
    values = torch.linalg.eigvalsh(matrix)
    assert row["lambda_max"] == pytest.approx(float(values[-1])) and row["lambda_min"] == pytest.approx(
        float(values[0])
    )
    for k, eps in enumerate(levels):
        assert row[f"counted_{k}"] == float((values.abs() > eps).double().mean())
        assert 0 <= row[f"gauss_newton_{k}"] <= 1 and row[f"published_{k}"] > row[f"counted_{k}"] - 0.3


def test_binned_counts_add_up_and_their_errors_shrink_with_probes() -> None:
    matrix = torch.diag(torch.linspace(0.1, 5, 200, dtype=torch.float64))
    draw = torch.Generator().manual_seed(1)
    edges = np.array([0.05, 1.0, 6.0])
    few, many = (
        binned(estimate_spectrum(matrix.__matmul__, 200, generator=draw, steps=60, probes=p), edges) for p in (2, 32)
    )
    assert few[0].sum() == pytest.approx(200) and many[0].sum() == pytest.approx(200)
    assert (many[1] < few[1]).all() and abs(many[0][0] - 37) < 4 * many[1][0] + 2  # 37 of the eigenvalues are below 1


# -- the linearised net ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_spectrum_at_a_task_start_is_that_of_the_hessian(loss: str) -> None:
    """λ_max from the loss-weighted kernel [N·O] against Jᵀ S J [h·I], formed."""
    W0, A = (t[0].double() for t in draw_net(Arm(loss, 0.0, 0, 7, 0.1), 5, 3, [0]))
    draw = torch.Generator().manual_seed(3)
    x, y = torch.rand(12, 5, generator=draw, dtype=torch.float64), torch.randint(0, 3, (12,), generator=draw)
    W = W0 + 0.3 * torch.randn(7, 5, generator=draw, dtype=torch.float64)
    found = theory_at_start(Arm(loss, 0.0, 0, 7, 0.1), W0, A, W, x, y)
    model = linearize(W0, A, x)
    J = model.jacobian
    factor = loss_factor(model.output(W), loss if loss == "cross_entropy" else "mse_sum")
    S = torch.block_diag(*(f @ f.mT for f in factor)) / (1 if loss == "cross_entropy" else len(x))
    values = torch.linalg.eigvalsh(J.mT @ S @ J)
    assert found["lambda_max"] == pytest.approx(float(values[-1]), rel=1e-10)
    assert found["share"] * 36 == float((values > 1e-3 * found["kernel_lambda_max"]).sum())
    assert found["closed"] == pytest.approx(found["trained"], rel=1e-10)
    assert 0 < found["bound"] <= found["trained"] < found["initial"]


def test_training_of_the_linearised_net_is_gradient_descent_on_its_loss() -> None:
    """One update of one example against automatic differentiation, through the online accuracy of two seeds and the weights."""
    config = protocol("permuted-images", "reduced")
    streams = open_streams(
        "permuted-images", config.__class__(**{**config.__dict__, "examples": 40, "tasks": 2, "probe": 0}), [0, 1]
    )
    arm = Arm("mse", 0.5, 2, 6, 0.05)
    rows = list(train(arm, streams, 2, [1], 20))
    assert [(row["seed"], row["task"]) for row in rows] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    W0, A = (t[0].double() for t in draw_net(arm, 64, 10, [0]))
    W, task = W0.clone(), streams[0].task(0)
    for chosen in task.batches():
        x, y = torch.from_numpy(task.train.x(chosen)).double(), torch.from_numpy(task.train.y[chosen])
        leaf = W.clone().requires_grad_()
        f = linearize(W0, A, x).output(leaf)
        loss = (f - torch.nn.functional.one_hot(y, 10)).square().sum() / (2 * len(x)) + 0.25 * leaf.square().sum()
        W = W - 0.05 * torch.autograd.grad(loss, leaf)[0]
    start = streams[0].task(1)
    x, y = torch.from_numpy(start.train.x(slice(0, 20))).double(), torch.from_numpy(start.train.y[:20])
    assert rows[2]["initial"] == pytest.approx(theory_at_start(arm, W0, A, W, x, y)["initial"], rel=1e-4)


# -- figures ---------------------------------------------------------------------------------------------------------------


def test_every_method_is_carried_over_by_the_stated_rules() -> None:
    for size in SIZES:
        runs = methods(size)
        assert list(runs) == list(PUBLISHED)
        assert all(run.step_size == pytest.approx(0.01 * run.batch) for run in runs.values())
        assert runs["l2-er"].weight_decay == 10 * runs["l2"].weight_decay
    paper = methods("paper")
    assert paper["cbp"].replacement_rate == pytest.approx(1e-6) and paper["er"].er_every == 100


@pytest.mark.parametrize("name", FIGURES)
def test_expected_rows_are_well_formed_and_name_their_source(name: str) -> None:
    rows = read_expected(registry.expected_path(name))
    assert rows and all("arXiv" in row.source or "theory" in row.source or "kernel" in row.source for row in rows)
    figure = registry.load(name)
    assert figure.id == name and (registry.expected_path(name).parent / "README.md").is_file()


def test_expected_quantities_are_measured(tmp_path: Path) -> None:
    """Every level, band and trend of the linearised figure has a value at the smallest scale; the closed forms hold there."""
    made = make_figure("spectral_linearized", "smoke", tmp_path)
    assert all(line.ours is not None for line in made.table if line.expected.kind != "ordering")
    judged = [line.verdict for line in made.table if line.expected.kind == "band"]
    assert judged == [Verdict.MATCHED, Verdict.MATCHED]
    again = make_figure("spectral_linearized", "smoke", tmp_path)
    assert again.folder == made.folder and not again.new


def test_spectra_are_computed_once_and_reused(tmp_path: Path) -> None:
    figure = registry.load("spectral_fig1_spectra")
    first = figure.compute(Context("smoke", tmp_path))
    tables = {path: path.stat().st_mtime_ns for path in (tmp_path / "tables").iterdir()}
    second = figure.compute(Context("smoke", tmp_path))
    assert len(tables) == 2 and {path: path.stat().st_mtime_ns for path in (tmp_path / "tables").iterdir()} == tables
    np.testing.assert_array_equal(first["counts"]["b"], second["counts"]["b"])
    counts = first["counts"]
    assert (counts["d"] <= counts["b"] + 1e-9).all() and (counts["b"] <= counts["e"] + 1e-9).all()
