"""Sweeps: one table from one process, two processes and a Dask cluster, also when workers are killed; errors; the grid."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from experiments import sweep
from experiments.checkpoints import open_run
from experiments.cli import main
from experiments.errors import Failure
from experiments.execute import Config, run_name
from experiments.online.config import Online
from experiments.run_config import Run
from experiments.sweep import DEATHS, Job, RunsFailed, run_many
from experiments.sweep_cli import EXAMPLES, grid, read_configs
from experiments.sweep_crews import End, Outcome, Place, Processes, work

TASKS = 25
OPTIONS = f"""sweep permuted-images --algorithm bp,cbp --maturity 5,6 --tasks {TASKS} --seeds 2
              --examples 160 --hidden 12,10 --measure-every 5"""
CONFIGS: list[Config] = [
    Run(stream="permuted-images", algorithm=name, maturity=maturity, tasks=TASKS, seeds=2,
        examples=160, hidden=(12, 10), measure_every=5)
    for name, maturity in (("bp", None), ("cbp", 5), ("cbp", 6))
]  # fmt: skip
TINY = Run(stream="permuted-images", examples=80, hidden=(6,), tasks=3, seeds=1)


def lop(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def csv(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    """What ``lop results DIR --csv`` prints."""

    def printed(out: Path) -> str:
        capsys.readouterr()
        assert lop("results", out, "--csv") == 0
        return capsys.readouterr().out

    return printed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep in this process, undisturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert run_many(CONFIGS, out, progress=False) == [out / run_name(config) for config in CONFIGS]
    return out


@contextmanager
def kill_during(out: Path, pid: Callable[[], int]) -> Iterator[list[int]]:
    """Kill -9 a process once there are three checkpoints; yields a list that will hold the rows that there are then."""
    held: list[int] = []

    def watch() -> None:
        limit = time.monotonic() + 120
        while len(list(out.glob("*/rows-*"))) < 3 and time.monotonic() < limit:
            time.sleep(0.002)
        os.kill(pid(), signal.SIGKILL)
        held.append(sum(Job(config, out / run_name(config), 1.0, TASKS).saved() for config in CONFIGS))

    killer = threading.Thread(target=watch)
    killer.start()
    yield held
    killer.join()
    assert held and 3 <= held[0] < TASKS * len(CONFIGS), f"{held} rows when the worker was killed: not in the middle"


# -- the same table --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed(
    whole: Path, tmp_path: Path, csv: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[Any] = []

    class Watched(Processes):
        def _open(self) -> Any:
            pools.append(super()._open())
            return pools[-1]

    monkeypatch.setattr(sweep, "Processes", Watched)
    with kill_during(tmp_path, lambda: next(iter(pools[0]._processes))):
        assert lop(*OPTIONS.split(), "--out", tmp_path, "--jobs", 2, "--save-every", 1) == 0
    assert len(pools) == 2  # the first one broke
    assert csv(tmp_path) == csv(whole)
    assert len(csv(whole).splitlines()) == 1 + 3 * 2 * TASKS


@pytest.mark.slow
def test_a_dask_cluster_of_two_workers_of_which_one_is_killed(
    whole: Path, tmp_path: Path, csv: Callable[[Path], str]
) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra `distributed` is not installed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        victim = next(iter(cluster.workers.values())).pid
        with kill_during(tmp_path, lambda: victim):
            address = cluster.scheduler_address
            assert lop(*OPTIONS.split(), "--out", tmp_path, "--dask", address, "--save-every", 1) == 0
    assert csv(tmp_path) == csv(whole)
    assert not list(tmp_path.glob(".sweep-*"))


def test_an_interrupted_sweep_goes_on(
    whole: Path,
    tmp_path: Path,
    csv: Callable[[Path], str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = iter(range(10**6))

    def interrupt(line: object) -> None:
        if next(rows) == 2 * TASKS + 33:  # in the middle of the second run
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("experiments.sweep._Progress.show", interrupt)
        assert lop(*OPTIONS.split(), "--out", tmp_path, "--jobs", 1) == 130
    assert "the same command goes on" in capsys.readouterr().err
    saved = [Job(config, tmp_path / run_name(config), 1.0, TASKS).saved() for config in CONFIGS]
    assert sum(n == TASKS for n in saved) == 1 and sum(0 < n < TASKS for n in saved) == 1
    old = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/rows-*")}
    assert lop(*OPTIONS.split(), "--out", tmp_path, "--jobs", 1) == 0
    assert "3 of 3 runs are finished" in capsys.readouterr().out
    assert csv(tmp_path) == csv(whole)
    assert all(path.stat().st_mtime_ns == written for path, written in old.items())


def test_both_kinds_of_runs_and_equal_ones_once(tmp_path: Path) -> None:
    online = Online(steps=2000, every=1000, seeds=2)
    folders = run_many([TINY, online, TINY], tmp_path, progress=False)
    assert folders == [tmp_path / run_name(config) for config in (TINY, online, TINY)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({path.name for path in folders})
    assert run_many([], tmp_path / "none", progress=False) == []


# -- what goes wrong -------------------------------------------------------------------------------------------------------


def test_a_failing_run_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "sweep permuted-images --algorithm bp,l2 --examples 80 --hidden 6 --tasks 3 --seeds 1"
    taken = tmp_path / run_name(TINY)
    taken.mkdir()
    (taken / "letter.txt").write_text("not a run")
    assert lop(*options.split(), "--out", tmp_path, "--jobs", 1) == 1
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("lop: ")]
    assert len(lines) == 1 and lines[0].startswith(f"lop: {taken.name}: ") and "not empty and holds no run" in lines[0]
    assert "1 of 2 runs are finished" in said.out
    assert [path.name for path in taken.iterdir()] == ["letter.txt"]


def test_an_error_of_the_program_is_one_line_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(*arguments: object, **options: object) -> Iterator[dict[str, float]]:
        yield {}
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("experiments.execute.execute", execute)
    with pytest.raises(RunsFailed, match="1 of 1 runs failed") as caught:
        run_many([TINY], tmp_path, progress=False)
    [(folder, text)] = caught.value.errors.items()
    assert folder == tmp_path / run_name(TINY)
    assert text.startswith("ZeroDivisionError: division by zero (test_sweep.py, line ")


def test_a_folder_in_use_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "PATIENCE", 0.05)
    [folder] = run_many([TINY], tmp_path, progress=False)
    identity = json.loads((folder / "config.json").read_text())
    with open_run(folder, identity):
        assert work(TINY, folder, Place(None, None)).end is End.BUSY
        waiting = threading.Thread(target=run_many, args=([TINY], tmp_path), kwargs={"progress": False})
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()


class Crew:
    """Two workers, of which the one that gets the poisoned job dies, and with it the other."""

    width, retries = 2, False

    def __init__(self) -> None:
        self.held: list[tuple[str, Future[Outcome]]] = []
        self.together: list[list[str]] = []

    def submit(self, config: object, folder: Path, place: Place) -> Any:
        future: Future[Outcome] = Future()
        self.held.append((folder.name, future))
        if len(self.held) == self.width or folder.name in ("poison", "bystander"):
            self.together.append([name for name, _ in self.held])
            died = any(name == "poison" for name, _ in self.held)
            for _, other in self.held:
                other.set_result(Outcome(End.DIED if died else End.DONE))
            self.held = []
        return future

    def outcome(self, future: Any) -> Outcome:
        result: Outcome = future.result()
        return result

    def close(self) -> None: ...


def test_a_run_that_kills_its_worker_is_given_up_and_its_neighbours_are_not(tmp_path: Path) -> None:
    jobs = [Job(TINY, tmp_path / name, 1.0, 3) for name in ("bystander", "poison")]
    crew = Crew()
    jobs.reverse()
    errors = sweep._drive(jobs, crew, Place(None, None), sweep._Progress(jobs, False))
    assert list(errors) == [tmp_path / "poison"] and "out of memory?" in errors[tmp_path / "poison"]
    assert sum("poison" in names for names in crew.together) == DEATHS


def test_a_run_that_gets_on_between_deaths_is_not_given_up(tmp_path: Path) -> None:
    job = Job(TINY, tmp_path, 1.0, 100)
    for saved in range(1, 3 * DEATHS):
        (tmp_path / f"rows-{saved - 1:07d}-{saved:07d}.safetensors").touch()
        assert sweep._after_death(job, retried=True).end is End.STOPPED
        assert not job.suspect
    assert sweep._after_death(job, retried=True).end is End.FAILED
    other = Job(TINY, tmp_path, 1.0, 100, seen=job.seen)
    ends = [sweep._after_death(other, retried=False).end for _ in range(DEATHS)]
    assert ends == [End.STOPPED] * (DEATHS - 1) + [End.FAILED]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("permuted-images --algorithm bp,nope", "algorithm = 'nope'; choose one of bp"),
        ("permuted-images --step-size .1,-1", "step_size = -1.0"),
        ("permuted-images --step-size .1,x", "'.1,x' is not a list of numbers"),
        ("permuted-images --tasks 2,", "'2,' is not a list of whole numbers"),
        ("permuted-images --algorithm bp,l2 --maturity 5,6", "algorithm 'bp' does not use it"),
        ("permuted-images --algorithm bp,cbp --tasks 1 --maturity 5,9999", "run 3 of 3 (cbp): maturity = 9999"),
        ("permuted-images --dataset digits,nope", "data set 'nope' is unknown"),
        ("nope", "stream 'nope' is unknown"),
        ("bit-flipping --epochs 2", "does not use it"),
        ("", "no stream given"),
        ("permuted-images --jobs 0", "jobs = 0"),
        ("permuted-images --save-every 0", "save-every = 0"),
        ("permuted-images --jobs 2 --dask 127.0.0.1:1", "give one of them"),
        ("permuted-images --config runs.json", "leave the stream and its options out"),
        ("--config nowhere.json", "cannot be read"),
        ("permuted-images,random-labels", "stream 'permuted-images,random-labels' is unknown"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lop("sweep", *arguments.split(), "--out", tmp_path / "out") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lop: ") and message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds no list of objects"),
        ("[" * 100_000, "is no JSON"),
        ('[{"stream": "bit-flipping", "tasks": true}]', "tasks = True"),
        ('[{"stream": "permuted-images", "dataset": []}]', "configuration 1 of"),
        ('[{"stream": "permuted-images", "step_size": 1' + "0" * 400 + "}]", "less than 2**63"),
        ('[{"stream": "bit-flipping", "step_size": 1' + "0" * 400 + "}]", "less than 2**63"),
    ],
)
def test_a_bad_file_of_configurations_is_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs.json").write_text(text)
    assert lop("sweep", "--config", tmp_path / "runs.json", "--out", tmp_path / "out") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lop: ") and message in line
    assert not (tmp_path / "out").exists()


def test_a_wrong_address_of_dask(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `distributed` is not installed")
    with pytest.raises(Failure, match="no address of a Dask scheduler"):
        run_many([TINY], tmp_path / "out", dask="nonsense", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_worker_in_another_place_refuses(tmp_path: Path) -> None:
    """Else it would write to its own disk, or round differently, and nobody would know."""
    unseen = work(TINY, tmp_path / "run", Place(None, None, tmp_path / "token"))
    assert unseen.end is End.FAILED and "give a folder that all machines share" in unseen.text
    other = work(TINY, tmp_path / "run", Place(None, None, None, {**sweep.versions(), "torch": "1.0"}))
    assert other.end is End.FAILED and "1.0 here" in other.text
    assert not (tmp_path / "run").exists()


# -- which runs ------------------------------------------------------------------------------------------------------------


def test_the_grid_has_all_combinations_and_no_axis_where_it_is_not_used() -> None:
    axes = {"algorithm": ["bp", "cbp", "adam"], "optimizer": ["sgd", "adam"], "maturity": [50, 60], "tasks": [30]}
    configs, notes = grid("permuted-images", axes)
    assert [(c.algorithm, c.optimizer, c.maturity) for c in configs] == [  # type: ignore[union-attr]
        ("bp", "sgd", None), ("bp", "adam", None),
        ("cbp", "sgd", 50), ("cbp", "sgd", 60), ("cbp", "adam", 50), ("cbp", "adam", 60),
        ("adam", "adam", None),
    ]  # fmt: skip
    assert notes == ["optimizer: not used by adam", "maturity: not used by bp, adam"]


def test_the_grid_of_an_online_stream() -> None:
    configs, notes = grid("bit-flipping", {"algorithm": ["bp", "cbp"], "switch": [0.0, 0.5], "hidden": [(5,), (9,)]})
    assert [(c.algorithm, c.switch, c.hidden) for c in configs] == [  # type: ignore[union-attr]
        ("bp", None, 5), ("bp", None, 9), ("cbp", 0.0, 5), ("cbp", 0.0, 9), ("cbp", 0.5, 5), ("cbp", 0.5, 9),
    ]  # fmt: skip
    assert notes == ["switch: not used by bp"]


def test_the_plan_is_printed_and_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "sweep permuted-images --algorithm bp,cbp --maturity 5,6 --hidden 6 --hidden 9,9 --tasks 3 --seeds 4"
    assert lop(*options.split(), "--out", tmp_path / "out", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "6 runs of 4 seeds: permuted-images, algorithm bp, cbp × maturity 5, 6 × hidden 6, 9,9"
    assert lines[1] == "maturity: not used by bp"
    assert len(lines) == 2 + 6 and sum("hidden 9,9" in line for line in lines[2:]) == 3
    assert not (tmp_path / "out").exists()


def test_a_file_of_configurations_takes_the_keys_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text("""[{"stream": "permuted-images", "hidden": [6], "maturity": null},
                        {"stream": "bit-flipping", "hidden": 6}]""")
    assert read_configs(path) == [Run(stream="permuted-images", hidden=(6,)), Online(hidden=6)]
    for text, message in [
        ('[{"stream": "permuted-images", "maturty": 3}]', "configuration 1 .*'maturty' is unknown"),
        ('[{"stream": "permuted-images", "hidden": "6,6"}]', "give a list of widths"),
        ('[{"stream": "permuted-images", "tasks": "6"}]', "tasks = '6'"),
        ('[{"algorithm": "bp"}]', "stream = None"),
        ('{"stream": "permuted-images"}', "no list of objects"),
        ("[", "no JSON"),
    ]:
        path.write_text(text)
        with pytest.raises(Failure, match=message):
            read_configs(path)


# -- documentation ---------------------------------------------------------------------------------------------------------

DOCS = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"^ *lop (sweep [a-z].*?)(?:  |$)", DOCS + EXAMPLES, re.MULTILINE))
def test_commands_that_are_shown_can_run(line: str) -> None:
    assert lop(*line.split(), "--dry-run") == 0


def test_the_file_of_configurations_that_is_shown(tmp_path: Path) -> None:
    [text] = re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL)
    (tmp_path / "runs.json").write_text(text)
    assert [config.step_size for config in read_configs(tmp_path / "runs.json")] == [0.01, 0.003]


def test_the_program_for_slurm() -> None:
    """Its sweep can run, and dask-jobqueue takes its settings and asks for what the text says."""
    slurm = pytest.importorskip("dask_jobqueue.slurm", reason="the extra `distributed` is not installed")
    [text] = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    names: dict[str, Any] = {"__name__": "program"}
    exec(text, names)
    assert lop("sweep", *names["SWEEP"], "--out", "runs", "--dry-run") == 0
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    [call] = [node for node in calls if ast.unparse(node.func) == "SLURMCluster"]
    options = {item.arg: eval(ast.unparse(item.value), names) for item in call.keywords if item.arg}
    del options["scheduler_options"]  # of the cluster; the rest describes a job
    job = slurm.SLURMJob(scheduler="tcp://127.0.0.1:1", name="worker", **options).job_script()
    assert "#SBATCH -p cpu" in job and "#SBATCH --cpus-per-task=8" in job and "export OMP_NUM_THREADS=1" in job
    assert "--nworkers 8" in job and "--nthreads 1" in job
