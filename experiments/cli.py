"""The command ``lop``: verify the claims, list them, show one, re-check a witness; train on a stream and print its results.

Nothing heavy is imported until a command needs it; ``lop recheck`` never loads torch nor the code that found the witness.
Every error of the user is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from experiments.data_cli import add_data_command
from experiments.errors import Failure
from experiments.figure_cli import add_figure_command
from experiments.run_cli import add_commands
from experiments.sweep_cli import add_command as add_sweep
from experiments.threads import one_thread, processors

BUDGETS = ("quick", "full", "deep")
RESULTS = Path("results")
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")  # in the errors of torch, for a CPU and for a GPU

VERIFY_HELP = """\
Check claims, print the ledger, and keep it with every witness in a results folder.

For each claim: random exact instances that satisfy its assumptions, instances that drop each assumption alone, a search
for equality where a bound should be attained, mutants of the statement that must be refuted, and proofs that are replayed.
Then the claims about a trained network are applied to a small one that is trained on real digits (leave out: --no-trained).

exit status: 0 every verdict is the one on record; 1 some verdict differs, a mutant survived or a check raised an error;
             2 wrong usage; 130 interrupted (what was finished is kept and shown)."""

VERIFY_EXAMPLES = """\
examples:
  lop verify                              all claims, about a minute
  lop verify spectral 'barriers.thm2*'    the claims below "spectral." and those that match the pattern
  lop verify --budget full --html ledger.html
  lop verify --budget deep --jobs 8       adds rounds until Ctrl-C; the same command goes on where it stopped"""


class _Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise Failure(f"{message} (see `{self.prog} --help`)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lop`` with these arguments (default: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="replace"
            )  # a terminal without Greek letters shows a question mark, not a traceback
    try:
        options = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        status = command(options)
        sys.stdout.flush()
        return status
    except Failure as failure:
        print(f"lop: {' '.join(str(failure).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lop: interrupted", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        print(
            "lop: this needs more memory than there is: give smaller nets, or fewer seeds or examples", file=sys.stderr
        )
        return 2
    except BrokenPipeError:  # the reader (head, less) has seen enough; Python must not complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


# -- arguments -------------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lop",
        description="The theory of loss of plasticity as claims that check themselves, and the training runs it speaks about.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lop {_version()}")
    parser.set_defaults(command=_no_command)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    _add_verify(commands)

    claims = _add(commands, "claims", _claims, "list the claims: id, verdict on record, source, title")
    claims.add_argument(
        "ids", nargs="*", metavar="ID", help="only these: an id, a prefix (spectral) or a glob ('barriers.*cloned*')"
    )

    show = _add(
        commands, "show", _show, "print a claim: statement, source, assumptions, proof, mutants, repairs, last result"
    )
    show.add_argument("ids", nargs="+", metavar="ID", help="id of a claim; a prefix or glob shows several")
    show.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="where earlier runs are (default: results)"
    )

    recheck = _add(
        commands,
        "recheck",
        _recheck,
        "re-check witness files in exact arithmetic, without torch and without the code that found them",
        epilog="exit status: 0 all confirmed; 1 some not confirmed; 2 some not readable as a witness",
    )
    recheck.add_argument(
        "witnesses", nargs="+", type=Path, metavar="WITNESS", help="a witness file, or a folder of them"
    )
    add_commands(commands)
    add_sweep(commands)
    add_figure_command(commands)
    add_data_command(commands)
    return parser


def _add_verify(commands: Any) -> None:
    verify = _add(
        commands,
        "verify",
        _verify,
        "check claims and print the ledger",
        description=VERIFY_HELP,
        epilog=VERIFY_EXAMPLES,
    )
    verify.add_argument("ids", nargs="*", metavar="ID", help="claims to check: id, prefix or glob (default: all)")
    verify.add_argument("--budget", choices=BUDGETS, default="quick", help="instances per claim (default: quick)")
    verify.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="same seed, same instances (default: 0)")
    verify.add_argument("--json", type=Path, metavar="FILE", help="also write the ledger as JSON here")
    verify.add_argument("--html", type=Path, metavar="FILE", help="also write the ledger as one offline web page here")
    verify.add_argument(
        "--out", type=Path, metavar="DIR", help="results folder (default: a fresh results/verify-BUDGET-seedN-…)"
    )
    verify.add_argument(
        "--jobs", type=_whole(1), default=processors(), metavar="N", help="processes (default: %(default)s here)"
    )
    verify.add_argument("--no-trained", action="store_true", help="leave out the table on a trained network")


def _add(
    commands: Any, name: str, command: Callable[[argparse.Namespace], int], text: str, **more: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **{"description": text[0].upper() + text[1:] + ".", **more},
    )
    parser.set_defaults(command=command)
    return parser


def _whole(least: int) -> Callable[[str], int]:
    """A type for argparse: a whole number that is at least ``least``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number that is at least {least}")
        return int(text)

    return parse


def _version() -> str:
    try:
        return metadata.version("lop-theory")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _no_command(options: argparse.Namespace) -> int:
    raise Failure("no command given; try `lop verify`, `lop claims`, `lop show ID` or `lop --help`")


# -- lop verify ------------------------------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    targets = [
        _writable_file(path, flag)
        for path, flag in ((options.json, "--json"), (options.html, "--html"))
        if path is not None
    ]
    if len({path.resolve() for path in targets}) < len(targets):
        raise Failure(f"--json and --html both write {options.json}; give two different files")
    one_thread()
    from experiments.verify_run import run_verify

    return run_verify(options, _selected(options.ids))


def _writable_file(path: Path, flag: str) -> Path:
    """Raise now what would be raised after minutes of work. Opening is the only sure test; it leaves no trace."""
    existed = path.exists()
    if not path.parent.is_dir():
        raise Failure(f"{flag} {path} cannot be written: there is no folder {path.parent}")
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise Failure(f"{flag} {path} cannot be written: {(error.strerror or str(error)).lower()}") from error
    if not existed:
        path.unlink()
    return path


def _selected(patterns: Sequence[str]) -> list[Any]:
    from proofs_checks.verify import UnknownClaim, select

    try:
        return select(patterns)
    except UnknownClaim as error:
        raise Failure(str(error)) from error


# -- lop claims, lop show --------------------------------------------------------------------------------------------------


def _claims(options: argparse.Namespace) -> int:
    claims = _selected(options.ids)
    table = [("id", "expected", "source", "title")]
    table += [
        (c.id, c.expected.value, f"{c.source.arxiv} {c.source.version}, {c.source.label}", c.title) for c in claims
    ]
    widths = [max(len(row[k]) for row in table) for k in range(3)]
    for row in table:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]).rstrip())
    return 0


def _show(options: argparse.Namespace) -> int:
    from experiments.show import claim_text, last_result

    repaired_by: dict[str, list[str]] = {}
    for claim in _selected([]):
        repaired_by.setdefault(claim.repairs, []).append(claim.id)
    chosen = _selected(options.ids)
    print("\n\n".join(claim_text(c, repaired_by.get(c.id, []), last_result(options.results, c.id)) for c in chosen))
    return 0


# -- lop recheck -----------------------------------------------------------------------------------------------------------


def _recheck(options: argparse.Namespace) -> int:
    from proofs_checks.recheck import WitnessError, recheck_file

    status = 0
    for path in _witness_files(options.witnesses):
        try:
            outcome = recheck_file(path)
        except WitnessError as error:
            print(f"{path}: unreadable: {' '.join(str(error).split())}", file=sys.stderr)
            status = 2
            continue
        print(f"{path}: {outcome.explanation}")
        status = max(status, 0 if outcome.confirmed else 1)
    return status


def _witness_files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise Failure(f"{path} is a folder without witness files (*.json)")
        files += inside
    return files


if __name__ == "__main__":
    sys.exit(main())
