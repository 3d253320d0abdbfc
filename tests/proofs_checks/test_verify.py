"""Many claims at once: files, interruption, dead workers, rounds of a deep run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proofs_checks import verify as module
from proofs_checks.recheck import recheck_file
from proofs_checks.verify import UnknownClaim, default_out_dir, run, select

CHEAP = ("spectral.constant-units", "spectral.dead-unit-bound")
Row = dict[str, Any]


def _fake(claim_id: str, budget: str, seed: str) -> Row:
    """A row at once; the dead-unit claim kills its process instead."""
    claim = next(c for c in module.CLAIMS if c.id == claim_id)
    row = {**module._not_run(claim), "verdict": "holds", "instances": 10, "undecided": 1, "seconds": 0.5, "note": seed}
    return row


def _die(claim_id: str, budget: str, seed: str) -> Row:
    if claim_id == "spectral.dead-unit-bound":
        os._exit(9)
    return _fake(claim_id, budget, seed)


def test_select_by_id_prefix_and_glob() -> None:
    assert [c.id for c in select(["spectral.dead-unit-bound"])] == ["spectral.dead-unit-bound"]
    assert {c.id for c in select(["spectral"])} == {c.id for c in module.CLAIMS if c.id.startswith("spectral.")}
    assert {c.id for c in select(["*.repaired"])} == {c.id for c in module.CLAIMS if c.id.endswith(".repaired")}
    assert select([]) == list(module.CLAIMS)


def test_an_unknown_id_is_named_with_close_ones() -> None:
    with pytest.raises(
        UnknownClaim, match=r"unknown claim 'spectral.dead-unit'; did you mean .*spectral.dead-unit-bound"
    ):
        select(["spectral.dead-unit"])


def test_rows_and_witnesses_are_on_disk_and_confirmed(tmp_path: Path) -> None:
    rows = run(select(CHEAP), "quick", 0, tmp_path, jobs=1)
    assert [r["id"] for r in rows] == ["spectral.dead-unit-bound", "spectral.constant-units"]  # paper order
    for row in rows:
        assert json.loads((tmp_path / "claims" / f"{row['id']}.json").read_text()) == row
    files = list((tmp_path / "witnesses").glob("*.json"))
    assert str(tmp_path / "witnesses" / "spectral.dead-unit-bound.json") == rows[0]["witness"]
    assert len(files) >= 4
    for path in files:
        assert recheck_file(path).confirmed, path


def test_processes_give_the_rows_of_one_process(tmp_path: Path) -> None:
    one = run(select(CHEAP), "quick", 3, tmp_path / "one", jobs=1)
    two = run(select(CHEAP), "quick", 3, tmp_path / "two", jobs=2)
    for a, b in zip(one, two, strict=True):
        for key in ("verdict", "instances", "attained", "assumptions", "counterexample", "settled"):
            drop = {"witness"}
            clean = [
                [{k: v for k, v in e.items() if k not in drop} for e in r[key]] if key == "assumptions" else r[key]
                for r in (a, b)
            ]
            assert clean[0] == clean[1], key


def test_an_interrupted_run_keeps_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_second(claim_id: str, budget: str, seed: str) -> Row:
        if claim_id == "spectral.constant-units":
            raise KeyboardInterrupt
        return _fake(claim_id, budget, seed)

    monkeypatch.setattr(module, "_work", stop_second)
    rows = run(select(CHEAP), "quick", 0, tmp_path, jobs=1)
    assert [r["verdict"] for r in rows] == ["holds", "not run"]
    assert (tmp_path / "claims" / "spectral.dead-unit-bound.json").exists()


def test_a_worker_that_dies_costs_its_claim_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_work", _die)
    rows = run(
        select(["spectral.dead-unit-bound", "spectral.constant-units", "spectral.gate-bound"]),
        "quick",
        0,
        tmp_path,
        jobs=2,
    )
    verdicts = {r["id"]: r["verdict"] for r in rows}
    assert verdicts["spectral.dead-unit-bound"] == "undecided"
    assert "worker process died" in rows[0]["error"]
    assert list(verdicts.values()).count("holds") == 2


def test_a_deep_run_adds_rounds_with_new_seeds_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_work", _fake)
    run(select(CHEAP), "deep", 5, tmp_path, jobs=1, rounds=2)
    rows = run(select(CHEAP), "deep", 5, tmp_path, jobs=1, rounds=1)
    assert {(r["rounds"], r["instances"], r["undecided"], r["seconds"]) for r in rows} == {(3, 30, 3, 1.5)}
    assert {r["note"] for r in rows} == {"5+2"}


def test_a_deep_run_first_finishes_an_interrupted_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_work", _fake)
    run(select(CHEAP[:1]), "deep", 5, tmp_path, jobs=1, rounds=1)
    rows = run(select(CHEAP), "deep", 5, tmp_path, jobs=1, rounds=1)
    assert [r["rounds"] for r in rows] == [1, 1]


def test_a_refutation_found_in_an_earlier_round_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_round_fails(claim_id: str, budget: str, seed: str) -> Row:
        return {**_fake(claim_id, budget, seed), "verdict": "fails" if seed == "5" else "holds"}

    monkeypatch.setattr(module, "_work", first_round_fails)
    rows = run(select(CHEAP[:1]), "deep", 5, tmp_path, jobs=1, rounds=3)
    assert (rows[0]["verdict"], rows[0]["instances"]) == ("fails", 30)


def test_results_are_never_overwritten(tmp_path: Path) -> None:
    first = default_out_dir("quick", 0, tmp_path)
    first.mkdir()
    assert default_out_dir("quick", 0, tmp_path) != first
    assert default_out_dir("deep", 0, tmp_path) == default_out_dir("deep", 0, tmp_path)


_PARENT = """
import sys, time
from pathlib import Path
from proofs_checks import verify as module

if __name__ == "__main__":
    import tests.proofs_checks.test_verify as here
    module._work = here._sleep
    module.run(module.select(["spectral.constant-units", "spectral.gate-bound"]), "quick", 0, Path(sys.argv[1]), jobs=2)
"""


def _sleep(claim_id: str, budget: str, seed: str) -> Row:
    Path(os.environ["LOP_TEST_PIDS"], str(os.getpid())).touch()
    time.sleep(120)
    return {}


@pytest.mark.skipif(not hasattr(os, "getppid") or os.name == "nt", reason="process ids are looked up the POSIX way")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    root = str(Path(module.__file__).resolve().parents[1])
    environment = {**os.environ, "LOP_TEST_PIDS": str(pids), "PYTHONPATH": root}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], cwd=root, env=environment)
    try:
        _wait_for(lambda: len(list(pids.iterdir())) == 2, 90)
        parent.kill()
        parent.wait()
        _wait_for(lambda: not any(_alive(int(p.name)) for p in pids.iterdir()), 30)
    finally:
        parent.kill()
    assert not any(_alive(int(p.name)) for p in pids.iterdir())


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # a zombie has ended, whoever has not collected it
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
