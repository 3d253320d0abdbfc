"""Claims on a live network: the numbers agree with independent ones, and a claim that breaks costs its own cell only."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from experiments.live import (
    FROZEN_CLAIM,
    LIVE_CLAIMS,
    LiveConfig,
    frozen_instance,
    judge,
    live_document,
    live_rows,
    surprises,
)
from experiments.permuted_labels import PermutedLabels, checkpoints
from lop_theory.forward import gradient
from lop_theory.frozen import dead_units, frozen_manifold
from proofs_checks.claim import Assumption, Claim, Evidence, Source, Verdict
from proofs_checks.instances import is_rational

CONFIG = LiveConfig(
    PermutedLabels(hidden=(12, 8), step_size=0.03, tasks=3, steps=80, images=300), tasks=(0, 2), batch=60
)


def toy(check, name="spectral.gate-bound", expected=Verdict.HOLDS, assumptions=()):
    return Claim(
        name, "toy", Source("ours", "v1", "toy"), "ours", "", "for all", assumptions, st.none(), check, expected
    )


def says(verdict):
    return lambda instance: Evidence(verdict, observed=1, predicted=2)


def broken(instance):
    raise ZeroDivisionError("on purpose")


@pytest.fixture(scope="module")
def points():
    return [p for p in checkpoints(CONFIG.run) if p.task in CONFIG.tasks]


@pytest.fixture(scope="module")
def rows(points):
    return [judge(p, CONFIG.batch, [toy(says(Verdict.HOLDS))]) for p in points]


def activations(point, x):
    """Hidden activations of the 64-12-8-10 network, layer by layer, from θ alone."""
    h, taken, layers = x.numpy(), 0, []
    theta = point.theta.numpy()
    for n, m in ((64, 12), (12, 8)):
        weight, bias = theta[taken : taken + n * m].reshape(m, n), theta[taken + n * m : taken + (n + 1) * m]
        h, taken = np.maximum(h @ weight.T + bias, 0), taken + (n + 1) * m
        layers.append(h)
    return layers


def test_some_units_died(rows):
    assert sum(rows[-1].dead) > 0  # or the other tests say nothing


def test_dead_units_are_those_that_never_fire(points, rows):
    for point, row in zip(points, rows):
        batch = [int((h == 0).all(0).sum()) for h in activations(point, point.x[: CONFIG.batch])]
        assert list(row.dead) == batch
        assert row.dead_on_all == sum(int((h == 0).all(0).sum()) for h in activations(point, point.x)) <= sum(batch)


def test_printed_and_corrected_bounds_follow_from_the_counts(rows):
    for row in rows:
        k1, k2 = row.dead
        assert max(k1 - 11, k2 - 7) <= 0  # no whole dead layer: then the formula below is the union
        incident = k1 * (64 + 1 + 8) + k2 * (12 + 1 + 10)
        params = 64 * 12 + 12 + 12 * 8 + 8 + 8 * 10 + 10
        assert row.printed == params - incident
        shift = 8 - k2 + 1  # one null direction for each live unit of the last layer and the bias
        assert row.corrected == params - (incident - k1 * k2) - shift


def test_the_certified_interval_lies_below_the_valid_bounds(rows):
    for row in rows:
        assert 0 < row.lower <= row.upper <= row.gate <= row.corrected


def test_dead_units_are_tangent_and_live_ones_are_not(points, rows):
    assert all(row.residual == 0 for row in rows)
    point = points[-1]
    alive = [v for v, h in zip(point.dag.hidden, np.hstack(activations(point, point.x)).T) if (h > 0).any()]
    slope = gradient(point.dag, point.theta, point.x, point.y, point.kind)
    normal = frozen_manifold(point.dag, point.theta, alive).normal_part(slope)
    assert float(torch.as_tensor(normal).abs().max()) > 1e-6


def test_the_frozen_claim_gets_the_same_weights_and_units_that_are_certified(points):
    point = points[-1]
    dead = dead_units(point.dag, point.theta, point.x[: CONFIG.batch])
    instance = frozen_instance(point, dead)
    assert instance is not None and set(instance.extra["frozen"]) <= set(dead)
    first_layer = [v for v in dead if v in point.dag.blocks[2].units]
    assert first_layer and set(first_layer) <= set(instance.extra["frozen"])  # nothing upstream can move: F-d
    assert np.array_equal(instance.theta, point.theta.numpy()) and is_rational(instance)
    assert (instance.y.argmax(1) == point.y[: len(instance.y)].numpy()).all()
    seen = []
    claim = toy(lambda i: seen.append(i) or Evidence(Verdict.HOLDS), name=FROZEN_CLAIM)
    assert judge(point, CONFIG.batch, [claim]).verdicts[0].verdict == "holds"
    assert seen[0].extra["frozen"] == instance.extra["frozen"]
    assert frozen_instance(point, []) is None


def test_a_network_without_dead_units(points):
    point = points[0]
    theta = torch.where(torch.arange(len(point.theta)) < 64 * 12, point.theta.abs(), point.theta)
    theta[64 * 12 : 64 * 12 + 12] = 1.0
    layer2 = slice(65 * 12, 65 * 12 + 12 * 8)
    theta[layer2], theta[65 * 12 + 12 * 8 : 65 * 12 + 13 * 8] = theta[layer2].abs(), 1.0
    row = judge(replace(point, theta=theta), CONFIG.batch, [toy(broken, name=FROZEN_CLAIM)])
    assert row.verdicts[0].applies == "no dead unit with a persistence certificate" and not row.verdicts[0].surprising
    assert row.dead == (0, 0) and row.residual == 0 and row.printed == point.dag.num_params


def test_each_outcome_of_a_claim(points):
    absent = Assumption("absent", "never true", lambda instance: False)
    claims = [
        toy(says(Verdict.HOLDS)),
        toy(says(Verdict.FAILS)),
        toy(says(Verdict.FAILS), expected=Verdict.FAILS),
        toy(says(Verdict.FAILS), assumptions=(absent,)),
        toy(broken),
    ]
    row = judge(points[-1], CONFIG.batch, claims)
    assert [v.verdict for v in row.verdicts] == ["holds", "fails", "fails", "not run", "undecided"]
    assert [v.surprising for v in row.verdicts] == [False, True, False, False, True]
    assert row.verdicts[3].applies == "does not satisfy: absent"
    assert row.verdicts[4].error == "ZeroDivisionError: on purpose"
    assert surprises([row]) == [row.verdicts[1], row.verdicts[4]]


def test_only_listed_claims_run_and_in_the_order_of_the_columns():
    claims = [toy(broken, "other.claim"), *(toy(says(Verdict.HOLDS), name) for name in reversed(LIVE_CLAIMS))]
    small = LiveConfig(PermutedLabels(hidden=(4,), tasks=5, steps=5, images=50), tasks=(0, 1), batch=10)
    found = list(live_rows(claims, small))
    assert [row.task for row in found] == [0, 1]
    assert all(tuple(v.claim for v in row.verdicts) == LIVE_CLAIMS for row in found)


def test_the_document_is_a_plain_table(rows):
    document = json.loads(json.dumps(live_document(rows, CONFIG)))
    assert {"title", "columns", "rows", "note", "verdicts"} == set(document)
    names = [c["name"] for c in document["columns"]]
    assert all(len(cells) == len(names) for cells in document["rows"]) and all(c["help"] for c in document["columns"])
    assert document["rows"][0][names.index("gate bound")] == f"{rows[0].gate} holds"
    assert "P = 974" in document["note"]
    assert live_document([], CONFIG)["rows"] == []


@pytest.mark.parametrize("wrong", [{"tasks": ()}, {"tasks": (8,)}, {"batch": 0}, {"batch": 1798}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LiveConfig(**wrong)
