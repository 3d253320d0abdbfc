"""Claims judged along a run: real verdicts, rows that survive a stop, loud surprises, and networks that are too large."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from experiments.errors import Failure
from experiments.live import CLONED_CLAIM, FROZEN_CLAIM, LIVE_CLAIMS, NULLITY_CLAIM
from experiments.run import run
from experiments.run_claim_rows import claims_csv, pack, read_claims, stack, surprising_lines, unpack
from experiments.run_claims import RUN_CLAIMS, judge_run, run_claims
from experiments.run_cli import add_commands
from experiments.run_clones import clone_params
from experiments.run_config import Run, run_name
from experiments.run_curvature import LiveNet, live_net
from lop_theory.algorithms.base import generators, mlp_init
from lop_theory.architectures import mlp
from proofs_checks.claim import Claim, Evidence, Source, Verdict

SMALL = Run(
    stream="permuted-images", tasks=3, seeds=2, hidden=(5, 4), examples=80, curvature_examples=30, claims_every=2
)


def claim(verdict=Verdict.FAILS, expected=Verdict.HOLDS, name="spectral.gate-bound"):
    return Claim(name, "toy", Source("ours", "v1", "toy"), "ours", "", "for all", (), st.none(),
                 lambda instance: Evidence(verdict, 1, 2, note="toy note"), expected)  # fmt: skip


def net_of(widths, generator, cloned=1, kill=(), examples=20, activation="relu"):
    base = (widths[0], *(n // cloned for n in widths[1:-1]), widths[-1])
    params = clone_params(tuple(p + 0.1 for p in mlp_init(base, generators([2]), torch.float64)), cloned)
    for l, unit in kill:
        params[2 * l + 1][0, unit] = -50.0
    x = torch.randn(examples, widths[0], generator=generator, dtype=torch.float64)
    return live_net(params, activation, x, torch.randint(0, widths[-1], (examples,), generator=generator))


def by_claim(rows):
    return {row["claim"]: row for row in rows}


# -- verdicts --------------------------------------------------------------------------------------------------------------


def test_a_small_net_with_dead_units_in_both_layers(generator):
    """Counted by hand: one dead unit in each hidden layer of 4-5-4-3, joined by one weight that the printed bound counts twice."""
    rows = by_claim(judge_run(net_of((4, 5, 4, 3), generator, kill=[(0, 1), (1, 2)]), 3, 6))
    assert tuple(rows) == RUN_CLAIMS and {(row["seed"], row["task"]) for row in rows.values()} == {(3, 6)}
    size = 4 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3
    assert int(rows[LIVE_CLAIMS[0]]["predicted"]) == size - (4 + 1 + 4) - (5 + 1 + 3)
    assert (
        int(rows[LIVE_CLAIMS[1]]["predicted"]) == size - (4 + 1 + 4) - (5 + 1 + 3) + 1 - 4
    )  # 3 live units and the bias
    for name in (LIVE_CLAIMS[1], LIVE_CLAIMS[2], FROZEN_CLAIM):
        assert rows[name]["verdict"] == "holds", rows[name]
    assert rows[CLONED_CLAIM]["applies"] == "no cloned units"
    assert not any(row["surprising"] for row in rows.values())


def test_cloned_units_are_judged_as_long_as_they_are_equitable(generator):
    net = net_of((4, 6, 4, 3), generator, cloned=2)
    assert by_claim(judge_run(net, 0, 0, cloned=2))[CLONED_CLAIM]["verdict"] == "holds"
    moved = net._replace(theta=net.theta + torch.arange(len(net.theta)) * 2.0**-20)
    row = by_claim(judge_run(moved, 0, 0, cloned=2))[CLONED_CLAIM]
    assert row["verdict"] == "not run" and row["applies"] == "does not satisfy: RE, CE"


def test_the_nullity_book_names_clones_and_dead_units(generator):
    """Without clones it says what the gates say; two copies of each unit have null directions that no gate knows."""
    plain = by_claim(judge_run(net_of((4, 6, 3), generator, kill=[(0, 0)]), 0, 0))
    assert plain[NULLITY_CLAIM]["verdict"] == "holds"
    assert plain[NULLITY_CLAIM]["predicted"] == plain["spectral.gate-bound"]["predicted"]
    cloned = by_claim(judge_run(net_of((4, 6, 3), generator, cloned=2, kill=[(0, 0)]), 0, 0, cloned=2))
    book, gates = cloned[NULLITY_CLAIM], cloned["spectral.gate-bound"]
    assert int(book["predicted"]) < int(gates["predicted"])
    assert (
        gates["verdict"] == "holds" and book["verdict"] != "fails"
    )  # undecided: the proved interval ends at the gates


def test_a_pre_activation_on_the_kink_is_no_surprise(generator):
    net = net_of((4, 5, 3), generator)
    rows = judge_run(net._replace(theta=torch.zeros_like(net.theta)), 0, 0)
    assert {row["verdict"] for row in rows} == {"not run"} and not any(row["surprising"] for row in rows)
    assert all(row["applies"].startswith("on a kink: pre-activation 0") for row in rows)


@pytest.mark.parametrize(("widths", "activation", "limit"), [((900, 4, 2), "relu", 3000), ((64, 6, 2), "tanh", 300)])
def test_large_networks_are_not_run(widths, activation, limit):
    dag = mlp(widths, activation)
    net = LiveNet(dag, torch.zeros(dag.num_params), torch.zeros(1, widths[0]), torch.zeros(1, dtype=torch.long))
    rows = judge_run(net, 0, 0)
    assert {(row["verdict"], row["applies"]) for row in rows} == {("not run", f"P = {dag.num_params} > limit {limit}")}


def test_the_claims_are_those_of_the_ledger():
    assert tuple(c.id for c in run_claims()) == RUN_CLAIMS
    assert all(c.expected in (Verdict.HOLDS, Verdict.FAILS) for c in run_claims())


def test_only_a_true_claim_that_fails_is_surprising(generator):
    net = net_of((4, 5, 3), generator)

    def surprising(**changes):
        return judge_run(net, 0, 0, claims=[claim(**changes)])[0]["surprising"]

    assert surprising() and not surprising(expected=Verdict.FAILS) and not surprising(verdict=Verdict.UNDECIDED)


# -- rows in files ---------------------------------------------------------------------------------------------------------


def test_rows_survive_packing():
    tasks = [[], [{"note": "ε ≤ “1”\n", "seed": 3}], [{"a": 1}, {"a": None}]]
    assert [unpack(row) for row in stack([pack(rows) for rows in tasks])] == tasks
    assert stack([]).shape == (0, 0)


def test_a_run_keeps_one_row_per_seed_task_and_claim_through_a_stop(tmp_path: Path):
    list(run(SMALL, tmp_path / "whole"))
    stopped = run(SMALL, tmp_path / "stopped", save_every=1)
    for _ in range(3):
        next(stopped)
    stopped.close()
    list(run(SMALL, tmp_path / "stopped", save_every=2))
    rows = read_claims(tmp_path / "whole")
    assert [(r["seed"], r["task"], r["claim"]) for r in rows] == [
        (s, t, c) for s in (0, 1) for t in (0, 2) for c in RUN_CLAIMS
    ]
    assert read_claims(tmp_path / "stopped") == rows
    assert any(row["verdict"] == "holds" for row in rows) and surprising_lines(tmp_path / "whole") == []
    table = list(csv.DictReader(io.StringIO(claims_csv([tmp_path / "whole"]))))
    assert (
        len(table) == len(rows)
        and {row["surprising"] for row in table} == {"no"}
        and all(row["expected"] for row in table)
    )


def test_the_bounds_of_the_rows_are_about_the_network_of_that_moment(tmp_path: Path):
    """λ_max and rank of one Hessian: the ε-rank beside the certified interval, and never above the bounds."""
    config = Run(**{**vars(SMALL), "curvature_every": 2, "curvature_eps": 1e-6, "dtype": "float64"})
    measured = {(int(row["seed"]), int(row["task"])): row for row in run(config, tmp_path / "run")}
    for row in read_claims(tmp_path / "run"):
        if row["claim"] == "spectral.gate-bound" and row["verdict"] == "holds":
            assert measured[row["seed"], row["task"]]["start_epsilon_rank"] <= int(row["predicted"])


# -- the command line ------------------------------------------------------------------------------------------------------


def lop(*arguments: object) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_commands(parser.add_subparsers())
    options = parser.parse_args([str(a) for a in arguments])
    return int(options.command(options))


def test_a_surprise_is_loud_and_the_exit_status_stays(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(
        "experiments.run_claims.run_claims", lambda: (claim(), claim(expected=Verdict.FAILS, name="x.y"))
    )
    options = ["permuted-images", "--tasks", 1, "--seeds", 1, "--hidden", "4", "--examples", 16, "--claims-every", 1]
    assert lop("run", *options, "--out", tmp_path) == 0
    loud = [line for line in capsys.readouterr().err.splitlines() if line.startswith("SURPRISING")]
    assert len(loud) == 1 and "claim spectral.gate-bound" in loud[0] and "seed 0" in loud[0] and "toy note" in loud[0]
    assert lop("results", tmp_path, "--claims", "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["claim"], row["surprising"], row["note"]) for row in rows] == [
        ("spectral.gate-bound", "yes", "toy note"), ("x.y", "no", "toy note")]  # fmt: skip
    assert lop("results", tmp_path, "--claims") == 0
    assert "spectral.gate-bound: fails 1" in capsys.readouterr().out


def test_a_run_without_claims_says_how_to_get_them(tmp_path: Path):
    config = Run(stream="permuted-images", tasks=1, seeds=1, hidden=(4,), examples=16)
    list(run(config, tmp_path / run_name(config)))
    assert read_claims(tmp_path / run_name(config)) == []
    with pytest.raises(Failure, match="--claims-every"):
        lop("results", tmp_path, "--claims", "--csv")


def test_claims_are_about_active_outputs_only(generator):
    """Two of three outputs count: P is that of the net with two."""
    params = mlp_init((4, 5, 3), generators([0]), torch.float64)
    x = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    net = live_net(params, "relu", x, torch.tensor([0, 2] * 10), np.array([0, 2]))
    assert net.dag.num_params == 4 * 5 + 5 + 5 * 2 + 2
    row = by_claim(judge_run(net, 0, 0))["spectral.gate-bound"]
    assert row["verdict"] == "holds" and "P = 37" in row["note"]
