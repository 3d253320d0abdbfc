"""The ledger on a terminal: one line per claim, grouped by paper, with what is surprising printed beneath.

It fits 120 columns; below :data:`WIDE` columns it leaves out what can be looked up in the JSON. Colour only repeats what
a shape already says, and a terminal without Unicode gets ASCII shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proofs_checks.claim import PAPERS
from proofs_checks.ledger.latex import to_text

WIDE = 104

VERDICTS = {"holds": ("✔", "green"), "fails": ("✘", "red"), "undecided": ("?", "yellow"), "not run": ("·", "dim")}
NEEDED = {"yes": "■", "no": "□", "unknown": "?"}
ASCII = str.maketrans(
    {
        "✔": "+",
        "✘": "x",
        "·": ".",
        "■": "#",
        "□": "-",
        "–": "-",
        "—": "-",
        "∃": "E",
        "∀": "A",
        "≠": "!",
        "→": "->",
        "…": "~",
    }
)

LEGEND = (
    "assumptions: ■ needed, □ not needed, ? unknown · att.: some instance has equality · mut.: altered statements refuted",
    "idle: share of the instances that were undecided, or for which the statement is trivial (a bound that counts nothing)",
    "evidence: strength and scope; →S0 … if it rests on a claim that is weaker, fails, or is not in this run",
)

Row = Mapping[str, Any]


class Column(NamedTuple):
    """A column of the table; ``always`` keeps it on a narrow terminal."""

    header: str
    width: int
    right: bool
    always: bool
    cell: Callable[[Row], str]


def print_table(ledger: Mapping[str, Any], console: Console) -> None:
    """Print the claims by paper, the table of the trained network and a summary line."""
    rows = ledger["claims"]
    columns = _columns(rows, console.width)
    out = _Printer(console)
    head = "  ".join(_fit(c.header, c) for c in columns)
    for paper in ledger["summary"]["papers"]:
        out.line("")
        out.line(
            f"{PAPERS.get(paper, 'Not from the papers')}" + (f"  (arXiv:{paper})" if paper in PAPERS else ""), "bold"
        )
        out.line(head, "dim")
        for row in (r for r in rows if r["paper"] == paper):
            out.line("  ".join(_fit(c.cell(row), c) for c in columns), VERDICTS.get(row["verdict"], ("", ""))[1])
            for remark, style in remarks(row):
                out.wrapped(remark, style)
    if ledger["trained"] is not None:
        _print_trained(ledger["trained"], out)
    out.line("")
    for text in LEGEND:
        out.wrapped(text, "dim", indent="")
    for text in summary_lines(ledger["summary"]):
        out.wrapped(text, "bold", indent="")


def remarks(row: Row) -> list[tuple[str, str]]:
    """Lines beneath a row, with their style: the counterexample, and whatever is not as expected."""
    lines = []
    if row["verdict"] == "fails" and row["note"]:
        lines.append((f"→ {' '.join(row['note'].split())}", "default"))
    if row["verdict"] == "fails" and row["repaired_by"]:
        lines.append((f"→ repaired by {', '.join(row['repaired_by'])}", "dim"))
    if row["error"]:
        lines.append((f"! error: {' '.join(row['error'].split())}", "bold yellow"))
    elif row["verdict"] not in (row["expected"], "not run"):
        lines.append((f"! expected verdict: {row['expected']}", "bold magenta"))
    survivors = [m["name"] for m in row["mutants"]["rows"] if not m["killed"]]
    if row["mutants"]["killed"] < row["mutants"]["tried"]:
        lines.append((f"! mutants not killed: {', '.join(survivors) or 'unnamed'}", "bold magenta"))
    return lines


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The counts in words.

    >>> counts = {"claims": 3, "settled true": 1, "false as stated": 1, "tested": 1, "repaired": 1, "unexpected": [],
    ...           "mutants": {"tried": 4, "killed": 4}, "instances": 450, "seconds": 2.5}
    >>> summary_lines(counts)[0]
    '3 claims: 1 settled true · 1 false as stated, 1 of them repaired · 1 tested · mutants 4/4 killed · 450 instances · 2.5 s'
    """
    kinds = ("settled true", "false as stated", "refuted, no witness", "tested", "undecided", "not run", "error")
    parts = [f"{summary[kind]} {kind}" for kind in kinds if summary.get(kind)]
    parts = [p + (f", {summary['repaired']} of them repaired" if p.endswith("false as stated") else "") for p in parts]
    mutants = summary["mutants"]
    parts += [f"mutants {mutants['killed']}/{mutants['tried']} killed", f"{summary['instances']:,} instances"]
    parts.append(f"{summary['seconds']:.1f} s")
    number = summary["claims"]
    lines = [f"{number} claim{'s' if number != 1 else ''}: " + " · ".join(parts)]
    unexpected = summary["unexpected"]
    missing = summary.get("not run", 0)
    every = (
        f"every verdict that was reached is the expected one; {missing} not run"
        if missing
        else "every verdict is the expected one"
    )
    lines.append(f"≠ not as expected: {', '.join(unexpected)}" if unexpected else every)
    return lines


def evidence_badge(row: Row) -> str:
    """Strength and scope, and the strength that is left when a claim it rests on is weaker.

    >>> evidence_badge({"strength": "S4", "scope": "class", "effective_strength": "S2"})
    'S4 class→S2'
    """
    badge = f"{row['strength']} {row['scope']}"
    return badge if row["effective_strength"] == row["strength"] else f"{badge}→{row['effective_strength']}"


def assumption_squares(row: Row) -> str:
    """One square per assumption.

    >>> assumption_squares({"assumptions": [{"name": "A", "needed": "yes"}, {"name": "B", "needed": "no"}]})
    '■□'
    """
    return "".join(NEEDED.get(a["needed"], "?") for a in row["assumptions"])


def idle_share(row: Row) -> str:
    """Share of instances that say little: undecided, or vacuous.

    >>> idle_share({"instances": 80, "undecided": 4, "vacuous": 6}), idle_share({"instances": 80, "undecided": 0, "vacuous": 0})
    ('12 %', '0')
    """
    idle = row["undecided"] + row["vacuous"]
    return f"{100 * idle / row['instances']:.0f} %" if idle and row["instances"] else "0"


def verdict_text(row: Row) -> str:
    """Shape, verdict, and ``≠`` if it is not the expected one."""
    shape = VERDICTS.get(row["verdict"], ("?", ""))[0]
    return f"{shape} {row['verdict']}" + ("" if row["as_expected"] else " ≠")


def format_cell(value: Any) -> str:
    """A cell of a generic table.

    >>> [format_cell(v) for v in (None, True, 12345, 0.000123456, "S5")]
    ['–', 'yes', '12345', '0.0001235', 'S5']
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(format_cell(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _columns(rows: list[Row], width: int) -> list[Column]:
    longest = max((len(row["id"]) for row in rows), default=5)
    squares = max((len(row["assumptions"]) for row in rows), default=0)
    evidence = max((len(evidence_badge(row)) for row in rows), default=8)
    columns = [
        Column("claim", longest, False, True, lambda row: row["id"]),
        Column("verdict", 13, False, True, verdict_text),
        Column("evidence", max(8, evidence), False, True, evidence_badge),
        Column("settled", 7, False, False, lambda row: "–" if row["settled"] == "no" else row["settled"]),
        Column("inst.", 5, True, False, lambda row: str(row["instances"])),
        Column("idle", 4, True, False, idle_share),
        Column("assum.", max(6, squares), False, True, assumption_squares),
        Column("att.", 4, False, False, lambda row: "✔" if row["attained"].get("found") else "–"),
        Column("mut.", 4, True, True, lambda row: f"{row['mutants']['killed']}/{row['mutants']['tried']}"),
        Column("s", 5, True, False, lambda row: f"{row['seconds']:.1f}"),
    ]
    if width < WIDE:
        columns = [c for c in columns if c.always]
    spare = width - sum(c.width + 2 for c in columns[1:])
    return [columns[0]._replace(width=max(12, min(longest, spare))), *columns[1:]]


def _fit(text: str, column: Column) -> str:
    if cell_len(text) > column.width:
        return set_cell_size(text, column.width - 1) + "…"
    return " " * (column.width - cell_len(text)) + text if column.right else set_cell_size(text, column.width)


class _Printer:
    """Lines on a console, in ASCII where it has nothing else."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.ascii_only = console.options.ascii_only

    def clean(self, text: str) -> str:
        if not self.ascii_only:
            return text
        return text.translate(ASCII).encode("ascii", "replace").decode("ascii")

    def line(self, text: str, style: str = "") -> None:
        self.console.print(Text(self.clean(text), style=style), no_wrap=True, crop=True, overflow="crop")

    def wrapped(self, text: str, style: str, indent: str = "    ") -> None:
        room = max(20, self.console.width - len(indent))
        for piece in Text(self.clean(text), style=style).wrap(self.console, room):
            self.console.print(Text(indent) + piece, no_wrap=True, crop=False)


def _print_trained(trained: Mapping[str, Any], out: _Printer) -> None:
    out.line("")
    out.wrapped(to_text(trained["title"]), "bold", indent="")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for k, column in enumerate(trained["columns"]):
        numeric = all(isinstance(row[k], (int, float, type(None))) for row in trained["rows"])
        table.add_column(out.clean(to_text(column["name"])), justify="right" if numeric else "left", overflow="fold")
    for row in trained["rows"]:
        table.add_row(*(Text(out.clean(format_cell(value))) for value in row))
    out.console.print(table)
    for column in trained["columns"]:
        if column.get("help"):
            out.wrapped(f"{column['name']}: {to_text(column['help'])}", "dim")
    if trained.get("note"):
        out.wrapped(to_text(trained["note"]), "default", indent="")
