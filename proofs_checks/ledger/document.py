"""The ledger document: the rows of all claims with what follows from them, where they come from, and its JSON file.

The document (format ``lop-ledger/1``) is plain JSON::

    {"format", "provenance": {...}, "claims": [row, ...], "trained": table | None, "summary": {...}}

A row is :meth:`proofs_checks.check.Result.row` plus what only the whole ledger knows: ``paper``, ``status``, ``as_expected``,
``effective_strength`` with ``weakest``, ``grounded``, ``dependants``, ``repaired_by``. Nothing here decides a verdict.
The console table and the HTML page show this document and compute nothing about verdicts themselves.

A table "on a trained network" is ``{"title": str, "columns": [{"name", "help"}], "rows": [[...]], "note": str}``.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import networkx as nx

from proofs_checks.claim import PAPERS

FORMAT = "lop-ledger/1"
OURS = "ours"
"""The group of claims that stand in none of the papers."""

STATUSES = {
    "settled true": "holds, and is settled by an exact or symbolic argument",
    "false as stated": "refuted by a witness that was re-checked exactly",
    "tested": "holds on all instances that were tried; not settled",
    "refuted, no witness": "an instance refutes it, but there is no exactly re-checked witness",
    "undecided": "the check could not decide",
    "not run": "not run",
    "error": "the check itself raised an error",
}
PACKAGES = ("torch", "numpy", "python-flint", "hypothesis", "networkx", "sympy", "rich", "lop-theory")

Json = dict[str, Any]


# -- the document ----------------------------------------------------------------------------------------------------


def build(results: Sequence[Mapping[str, Any]], provenance: Json, trained: Json | None = None) -> Json:
    """The ledger document of the rows ``results`` (in the order given).

    Raises ValueError for duplicate ids, circular dependencies and a trained table whose rows do not fit its columns.

    >>> row = {"id": "a", "source": "ours", "verdict": "holds", "expected": "holds", "strength": "S2", "settled": "no"}
    >>> document = build([row, {**row, "id": "b", "strength": "S4", "settled": "true", "depends_on": ["a"]}], {})
    >>> [(r["id"], r["status"], r["effective_strength"], r["weakest"]) for r in document["claims"]]
    [('a', 'tested', 'S2', 'a'), ('b', 'settled true', 'S2', 'a')]
    """
    rows = [_with_defaults(row) for row in results]
    by_id = {row["id"]: row for row in rows}
    if len(by_id) < len(rows):
        twice = sorted({row["id"] for row in rows if sum(other["id"] == row["id"] for other in rows) > 1})
        raise ValueError(f"claims {twice} occur more than once in the ledger; give each claim one row")
    graph = dependency_graph(rows)
    for row in rows:
        row["paper"] = paper_of(row)
        row["status"] = status(row)
        row["as_expected"] = _as_expected(row)
        row["effective_strength"], row["weakest"] = _effective(row, by_id, graph)
        row["grounded"] = _is_grounded(row, by_id, graph)
        row["dependants"] = len(nx.descendants(graph, row["id"]))
        row["repaired_by"] = [other["id"] for other in rows if other["repairs"] == row["id"]]
    if trained is not None:
        _check_table(trained)
    document = {
        "format": FORMAT,
        "provenance": provenance,
        "claims": rows,
        "trained": trained,
        "summary": summarize(rows),
    }
    plain: Json = _plain(document)
    return plain


def dependency_graph(rows: Sequence[Mapping[str, Any]]) -> nx.DiGraph:
    """Edges from a claim to those that depend on it; ids that are named but have no row are nodes too."""
    graph = nx.DiGraph()
    graph.add_nodes_from(row["id"] for row in rows)
    graph.add_edges_from((needed, row["id"]) for row in rows for needed in row.get("depends_on", []))
    if not nx.is_directed_acyclic_graph(graph):
        cycle = " -> ".join(edge[0] for edge in nx.find_cycle(graph))
        raise ValueError(f"the dependencies {cycle} -> ... form a cycle; a proof may not rest on itself: drop one")
    return graph


def paper_of(row: Mapping[str, Any]) -> str:
    """arXiv id of the paper that a row's ``source`` names, or ``"ours"``.

    >>> paper_of({"source": "arXiv:2510.00304 v2, Theorem 2.1"}), paper_of({"source": "folklore"})
    ('2510.00304', 'ours')
    """
    found = re.search(r"\d{4}\.\d{4,5}", str(row["source"]))
    return found.group() if found else OURS


def status(row: Mapping[str, Any]) -> str:
    """One of :data:`STATUSES`, from verdict, ``settled`` and ``error`` of a row."""
    if row.get("error"):
        return "error"
    by_verdict = {
        "holds": "settled true" if row["settled"] == "true" else "tested",
        "fails": "false as stated" if row["settled"] == "false" else "refuted, no witness",
    }
    return by_verdict.get(row["verdict"], str(row["verdict"]))


def summarize(rows: Sequence[Mapping[str, Any]]) -> Json:
    """Counts over all rows, and the same per paper under ``"papers"``."""
    papers = [paper for paper in (*PAPERS, OURS) if any(row["paper"] == paper for row in rows)]
    papers += sorted({row["paper"] for row in rows} - set(papers))
    return _counts(rows) | {"papers": {paper: _counts([r for r in rows if r["paper"] == paper]) for paper in papers}}


def _counts(rows: Sequence[Mapping[str, Any]]) -> Json:
    good = {row["id"] for row in rows if row["verdict"] == "holds" and not row["error"]}
    return {
        "claims": len(rows),
        **{name: sum(row["status"] == name for row in rows) for name in STATUSES},
        "repaired": sum(row["verdict"] == "fails" and bool(good & set(row["repaired_by"])) for row in rows),
        "unexpected": [row["id"] for row in rows if not row["as_expected"]],
        "mutants": {key: sum(row["mutants"][key] for row in rows) for key in ("tried", "killed")},
        "instances": sum(row["instances"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 3),
    }


def _with_defaults(row: Mapping[str, Any]) -> Json:
    """A copy of the row in which every optional field exists."""
    missing = [key for key in ("id", "source", "verdict", "expected", "strength", "settled") if key not in row]
    if missing:
        raise ValueError(f"ledger row {row.get('id', '(no id)')!r} lacks {missing}; pass what Result.row() returns")
    optional: Json = {
        **dict.fromkeys(("title", "kind", "statement", "proof", "quantifier", "note", "error", "repairs"), ""),
        **{
            "scope": "–",
            "instances": 0,
            "undecided": 0,
            "vacuous": 0,
            "seconds": 0.0,
            "witness": None,
            "counterexample": None,
        },
        **{"assumptions": [], "attained": {}, "certificates": [], "depends_on": []},
    }
    full = {**optional, **row}
    full["mutants"] = {"tried": 0, "killed": 0, "rows": [], **(row.get("mutants") or {})}
    return full


def _as_expected(row: Mapping[str, Any]) -> bool:
    """As ``Result.as_expected``: the stated verdict, no error, every mutant killed; a row that was not run is no surprise."""
    if row["verdict"] == "not run":
        return not row["error"]
    survived = row["mutants"]["killed"] < row["mutants"]["tried"]
    return row["verdict"] == row["expected"] and not row["error"] and not survived


def _effective(row: Json, by_id: Mapping[str, Json], graph: nx.DiGraph) -> tuple[str, str]:
    """Strength that is left when every claim it rests on is counted, and the id of the weakest of them.

    The minimum over the row and its ancestors; an ancestor that does not hold, or has no row, counts as S0. A refutation
    rests on its witness alone.
    """
    own = (row["strength"], row["id"])
    if row["verdict"] == "fails":
        return own

    def strength(claim_id: str) -> str:
        ancestor = by_id.get(claim_id)
        return ancestor["strength"] if ancestor is not None and ancestor["verdict"] == "holds" else "S0"

    others = [(strength(name), name) for name in sorted(nx.ancestors(graph, row["id"]))]
    return min([own, *others], key=lambda pair: int(pair[0][1:]))


def _is_grounded(row: Json, by_id: Mapping[str, Json], graph: nx.DiGraph) -> bool:
    """Whether the row is settled and all its ancestors are settled true (for a refutation: whether it is settled)."""
    if row["verdict"] == "fails":
        return bool(row["settled"] == "false")
    names = nx.ancestors(graph, row["id"]) | {row["id"]}
    return all(name in by_id and by_id[name]["settled"] == "true" for name in names)


def _check_table(table: Json) -> None:
    width = len(table["columns"])
    for k, cells in enumerate(table["rows"]):
        if len(cells) != width:
            raise ValueError(
                f"row {k} of the table {table['title']!r} has {len(cells)} cells; it needs {width}, one per column"
            )


def _plain(value: Any) -> Any:
    """JSON-ready copy: tuples become lists, scalars of array libraries numbers, NaN and infinities text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "item"):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


# -- provenance ------------------------------------------------------------------------------------------------------


def provenance(seed: int | str, budget: str, command: str, **more: Any) -> Json:
    """What is needed to run the same thing again; ``more`` is added as it is. Loads none of the packages it names."""
    return {
        "command": command,
        "seed": seed,
        "budget": budget,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "threads": _threads(),
        **more,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str:
    """The commit of these sources, with ``-dirty`` if they were changed since; unknown if they are not a checkout."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie inside some other repository
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or "unknown"
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _threads() -> int:
    """Threads of one process of this run."""
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else os.cpu_count() or 1


# -- files -----------------------------------------------------------------------------------------------------------


def write_json(ledger: Mapping[str, Any], path: str | Path) -> None:
    """Write the document; a path that cannot be written raises OSError."""
    write_whole(json.dumps(ledger, indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)


def write_whole(text: str, path: str | Path) -> None:
    """Write a text file by way of a temporary name, so that a reader (or a kill) never sees half of it."""
    path = Path(path)
    if (
        path.exists() and not path.is_file()
    ):  # a directory raises here; a device such as /dev/stdout is written directly
        path.write_text(text, encoding="utf-8")
        return
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
