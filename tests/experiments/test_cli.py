"""The command line: exit statuses, one-line errors, results on disk, and a re-checker that loads nothing heavy."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st

from experiments.cli import main
from proofs_checks import verify
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict

NETWORK = {
    "num_inputs": 1,
    "has_constant": True,
    "activation": ["identity"],
    "outputs": [2],
    "edges": [[0, 2, 0], [1, 2, 1]],
    "theta": ["1/2", "1"],
    "x": [["1"], ["3"]],
    "y": [["0"], ["1"]],
    "loss": "mse_sum",
}


def witness(rank, role="counterexample"):
    return {
        "format": "lop-witness/1",
        "claim": "toy.false",
        "role": role,
        "variant": "",
        "statement": "two samples, two parameters: the rank is 2",
        "networks": {"net": NETWORK},
        "assertions": [{"left": {"quantity": "hessian_rank"}, "op": "==", "right": str(rank)}],
    }


def below(limit, document=None):
    """A check: the integer is below ``limit``."""
    return lambda n: Evidence(Verdict.HOLDS if n < limit else Verdict.FAILS, n, limit, limit - n, f"n = {n}", document)


def claim(name, check, expected, **more):
    source = Source("2510.00304", "v2", "Theorem 0")
    small = Assumption("small", "n is at most 9", lambda n: n <= 9)
    return Claim(
        name,
        f"title of {name}",
        source,
        "theorem",
        r"n < 10",
        "for all",
        (small,),
        st.integers(0, 9),
        check,
        expected,
        **more,
    )


def interrupt(n):
    signal.raise_signal(signal.SIGINT)


def explode(n):
    raise ZeroDivisionError("on purpose")


TRUE = claim(
    "toy.true",
    below(10),
    Verdict.HOLDS,
    without={"small": st.integers(0, 20).map(lambda n: n + 10)},
    mutants=(Mutant("sharper", "n < 9", below(9)),),
    repairs="toy.false",
    proof="Ten is larger than nine.",
)
FALSE = claim("toy.false", below(5, lambda: witness(2)), Verdict.FAILS)
SURPRISE = claim("bad.surprise", below(5), Verdict.HOLDS)
SURVIVOR = claim("bad.survivor", below(10), Verdict.HOLDS, mutants=(Mutant("weaker", "n < 11", below(11)),))
RAISES = claim("bad.raises", explode, Verdict.HOLDS)
INTERRUPTED = claim("bad.interrupted", interrupt, Verdict.HOLDS)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder, and a short list of claims."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verify, "CLAIMS", (FALSE, TRUE, SURPRISE, SURVIVOR, RAISES, INTERRUPTED))
    return tmp_path


def lop(*arguments):
    return main([str(a) for a in arguments])


def check(*arguments):
    return lop("verify", *arguments, "--jobs", 1)


# -- verify ----------------------------------------------------------------------------------------------------------------


def test_verify_keeps_everything_and_exits_zero(here, capsys):
    assert check("toy", "--json", "ledger.json", "--html", "ledger.html") == 0
    shown = capsys.readouterr()
    assert "toy.false" in shown.out and "toy.true" in shown.out
    assert "[2/2] toy.true: holds" in shown.err and "\x1b" not in shown.err + shown.out
    ledger = json.loads((here / "ledger.json").read_text())
    assert [(r["id"], r["verdict"], r["expected"]) for r in ledger["claims"]] == [
        ("toy.false", "fails", "fails"),
        ("toy.true", "holds", "holds"),
    ]
    assert ledger["claims"][1]["mutants"]["killed"] == 1 and ledger["claims"][1]["assumptions"][0]["needed"] == "yes"
    assert ledger["provenance"]["seed"] == 0 and ledger["provenance"]["interrupted"] is False
    assert "toy.false" in (here / "ledger.html").read_text()
    out = here / "results" / "verify-quick-seed0-001"
    assert {p.name for p in out.iterdir()} == {"claims", "witnesses", "ledger.json", "ledger.html", "run.json"}
    assert lop("recheck", here / ledger["claims"][0]["witness"]) == 0


def test_a_second_run_takes_a_fresh_folder(here):
    assert check("toy.true") == check("toy.true") == 0
    assert sorted(p.name for p in (here / "results").iterdir()) == ["verify-quick-seed0-001", "verify-quick-seed0-002"]


@pytest.mark.parametrize("name", ["bad.surprise", "bad.survivor", "bad.raises"])
def test_verify_exits_one_when_something_is_not_as_stated(name, capsys):
    assert check("toy.true", name) == 1
    assert name in capsys.readouterr().out


def test_a_claim_that_raises_is_an_error_and_the_others_still_run(here):
    assert check("bad.raises", "toy.true", "--json", "l.json") == 1
    rows = {r["id"]: r for r in json.loads((here / "l.json").read_text())["claims"]}
    assert rows["bad.raises"]["error"] == "ZeroDivisionError: on purpose" and rows["toy.true"]["verdict"] == "holds"


def test_interrupted_keeps_what_was_finished(here, capsys):
    handler = signal.getsignal(signal.SIGINT)
    assert check("toy", "bad.interrupted", "--out", "run") == 130
    assert signal.getsignal(signal.SIGINT) is handler
    ledger = json.loads((here / "run" / "ledger.json").read_text())
    assert {r["id"]: r["verdict"] for r in ledger["claims"]} == {
        "toy.false": "fails",
        "toy.true": "holds",
        "bad.interrupted": "not run",
    }
    assert ledger["provenance"]["interrupted"] is True
    assert "interrupted" in capsys.readouterr().err


def test_a_deep_run_goes_on_in_its_folder_and_nothing_else_does(here, capsys):
    assert check("toy.true", "--out", "run") == 0
    for arguments in (("--budget", "quick"), ("--budget", "deep")):
        assert check("toy.true", "--out", "run", *arguments) == 2
        assert "holds a run with budget quick, seed 0" in capsys.readouterr().err
    deep = ("bad.interrupted", "--budget", "deep", "--out", "deep")
    assert check(*deep) == check(*deep) == 130
    assert check(*deep, "--seed", 1) == 2


def test_the_trained_network_is_judged_when_one_of_its_claims_is_chosen(monkeypatch, here, capsys):
    from experiments import verify_run
    from experiments.live import LiveConfig
    from experiments.permuted_labels import PermutedLabels

    tiny = LiveConfig(PermutedLabels(hidden=(3,), tasks=1, steps=3, images=30), tasks=(0,), batch=8)
    monkeypatch.setattr(verify_run, "LiveConfig", lambda run: tiny)
    monkeypatch.setattr(verify_run, "LIVE_CLAIMS", ("toy.true",))
    assert check("toy.true", "--json", "with.json") == 0
    assert "on a trained network" in capsys.readouterr().out
    assert len(json.loads((here / "with.json").read_text())["trained"]["rows"]) == 1
    assert check("toy.true", "--no-trained", "--json", "without.json") == 0
    assert check("toy.false", "--json", "other.json") == 0
    assert all(json.loads((here / f"{name}.json").read_text())["trained"] is None for name in ("without", "other"))


# -- wrong usage: one line, exit 2, and nothing has run --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "no command given"),
        (("frobnicate",), "invalid choice: 'frobnicate'"),
        (("verify", "toy.tru"), "unknown claim 'toy.tru'; did you mean toy.true"),
        (("verify", "--frob"), "unrecognized arguments: --frob"),
        (("verify", "--budget", "huge"), "'huge'"),
        (("verify", "--seed", "x"), "'x' is not a whole number that is at least 0"),
        (("verify", "--seed=-1"), "'-1' is not a whole number"),
        (("verify", "--jobs", "0"), "'0' is not a whole number that is at least 1"),
        (("verify", "--json", "missing/l.json"), "--json missing/l.json cannot be written: there is no folder missing"),
        (("verify", "--html", "."), "--html . cannot be written"),
        (("verify", "--json", "same", "--html", "same"), "two different files"),
        (("verify", "--out", "file.txt"), "--out file.txt is not a folder"),
        (("verify", "--out", "file.txt/below"), "file.txt/below cannot be used"),
        (("verify", "--out", "full"), "--out full holds other files"),
        (("show",), "required: ID"),
        (("show", "nothing"), "unknown claim 'nothing'"),
        (("claims", "nothing"), "unknown claim 'nothing'"),
        (("recheck",), "required: WITNESS"),
        (("recheck", "full"), "full is a folder without witness files"),
    ],
)
def test_wrong_usage_is_one_line_and_nothing_runs(arguments, words, here, capsys):
    (here / "file.txt").write_text("mine")
    (here / "full").mkdir()
    (here / "full" / "notes.txt").write_text("mine")
    assert lop(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("lop: ") and shown.err.count("\n") == 1
    assert words in shown.err
    assert sorted(p.name for p in here.iterdir()) == ["file.txt", "full"]
    assert (here / "file.txt").read_text() == "mine"


def test_too_little_memory_is_one_line(monkeypatch, here, capsys):
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        monkeypatch.setattr("experiments.cli._claims", raising(error))
        assert lop("claims") == 2
        assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr("experiments.cli._claims", raising(RuntimeError("a defect")))
    with pytest.raises(RuntimeError, match="a defect"):
        lop("claims")


def raising(error):
    def command(options):
        raise error

    return command


def test_a_check_for_writability_leaves_an_existing_file_alone(here):
    (here / "old.json").write_text("mine")
    assert lop("verify", "nothing", "--json", "old.json") == 2
    assert (here / "old.json").read_text() == "mine"


def test_help_and_version(capsys):
    for arguments, words in ((("--help",), "recheck"), (("verify", "--help"), "exit status"), (("--version",), "lop ")):
        with pytest.raises(SystemExit) as stop:
            lop(*arguments)
        assert stop.value.code == 0 and words in capsys.readouterr().out


# -- claims, show ----------------------------------------------------------------------------------------------------------


def test_claims_lists_id_expected_source_title(capsys):
    assert lop("claims", "toy.*") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "expected", "source", "title"]
    assert [line.split()[:2] for line in lines] == [["toy.false", "fails"], ["toy.true", "holds"]]
    assert all("2510.00304 v2, Theorem 0" in line and "title of toy" in line for line in lines)


def test_show_before_and_after_a_run(here, capsys):
    assert lop("show", "toy.true") == 0
    before = capsys.readouterr().out
    for words in (
        "n < 10",
        "small: n is at most 9",
        "sharper: n < 9",
        "Ten is larger",
        "repairs      toy.false",
        "none yet",
    ):
        assert words in before
    assert lop("show", "toy.false") == 0
    assert "repaired by  toy.true" in capsys.readouterr().out
    check("toy.true", "--seed", 3)
    capsys.readouterr()
    (here / "results" / "damaged" / "claims").mkdir(parents=True)
    (here / "results" / "damaged" / "claims" / "toy.true.json").write_text("{")
    assert lop("show", "toy.true") == 0
    after = capsys.readouterr().out
    assert "last result  holds" in after and "verify-quick-seed3-001" in after and "1 of 1 refuted" in after


# -- recheck ---------------------------------------------------------------------------------------------------------------


def test_recheck_exit_statuses(here, capsys):
    for name, content in (("good", witness(2)), ("bad", witness(1)), ("odd", {"format": "lop-witness/0"})):
        (here / f"{name}.json").write_text(json.dumps(content))
    assert lop("recheck", "good.json") == 0
    assert capsys.readouterr().out.startswith("good.json: confirmed")
    assert lop("recheck", "good.json", "bad.json") == 1
    assert "bad.json: not confirmed" in capsys.readouterr().out
    assert lop("recheck", "odd.json", "bad.json", "missing.json") == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 2 and "bad.json: not confirmed" in shown.out
    assert lop("recheck", ".") == 2  # a folder: all that is in it


def test_recheck_loads_neither_torch_nor_the_prover(here):
    (here / "good.json").write_text(json.dumps(witness(2)))
    code = (
        "import sys; from experiments.cli import main; status = main(['recheck', 'good.json']);"
        "heavy = {'torch', 'numpy', 'scipy', 'hypothesis', 'rich', 'lop_theory', 'proofs_checks.claim', 'proofs_checks.verify'};"
        "sys.exit(status or (', '.join(heavy & set(sys.modules)) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("good.json: confirmed")


def test_a_closed_pipe_is_no_error(here):
    (here / "good.json").write_text(json.dumps(witness(2)))
    many = " ".join(["good.json"] * 2000)
    script = f"{sys.executable} -m experiments.cli recheck {many} | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=_environment())
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def _environment():
    """This checkout importable from another folder."""
    return {**os.environ, "PYTHONPATH": str(Path(verify.__file__).parents[1])}
