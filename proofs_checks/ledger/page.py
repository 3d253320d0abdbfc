"""The ledger as one HTML file: it loads nothing from anywhere, and can be sorted, filtered, printed and archived."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from proofs_checks.claim import PAPERS
from proofs_checks.ledger.assets import SCRIPT, STYLE
from proofs_checks.ledger.cards import card, evidence_html, squares_html, verdict_html
from proofs_checks.ledger.document import STATUSES, write_whole
from proofs_checks.ledger.drawing import graph_svg
from proofs_checks.ledger.latex import to_html
from proofs_checks.ledger.markup import link, table
from proofs_checks.ledger.table import format_cell, idle_share, summary_lines

Json = Mapping[str, Any]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_STRENGTHS = ("stated", "empirical", "property-tested", "enclosure", "symbolic proof", "exact certificate")
_VERDICT_ORDER = ("fails", "undecided", "not run", "holds")


def write_html(ledger: Json, path: str | Path) -> None:
    """Write :func:`page`; a path that cannot be written raises OSError."""
    write_whole(page(ledger), path)


def page(ledger: Json) -> str:
    """The whole page."""
    rows = ledger["claims"]
    sections = [
        ("summary", "Summary", _summary(ledger["summary"])),
        ("claims", "Claims", _matrix(rows)),
        ("graph", "What rests on what", _graph(rows)),
        ("wanted", "Most wanted", _most_wanted(rows)),
        ("trained", "On a trained network", _trained(ledger["trained"])),
        ("cards", "Each claim", _cards(rows, list(ledger["summary"]["papers"]))),
    ]
    sections = [section for section in sections if section[2]]
    nav = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    body = "".join(f'<section id="{anchor}"><h2>{title}</h2>{html}</section>' for anchor, title, html in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>Ledger of claims about loss of plasticity</title><style>{STYLE}</style></head><body>"
        f"<h1>Claims about loss of plasticity</h1><p>{escape(' — '.join(summary_lines(ledger['summary'])))}</p>"
        f"<nav>{nav}</nav>{body}{_provenance(ledger['provenance'])}<script>{SCRIPT}</script></body></html>\n"
    )


# -- sections --------------------------------------------------------------------------------------------------------


def _summary(summary: Json) -> str:
    """Counts by paper. Columns without any entry are left out."""
    kinds = [kind for kind in STATUSES if summary[kind]]
    groups = [(_paper_name(paper), counts) for paper, counts in summary["papers"].items()]
    if len(groups) > 1:
        groups.append(("all", summary))
    rows = []
    for name, counts in groups:
        cells = [escape(name), str(counts["claims"]), *(str(counts[kind] or "") for kind in kinds)]
        mutants = f"{counts['mutants']['killed']}/{counts['mutants']['tried']}"
        rows.append([*cells, str(counts["repaired"] or ""), mutants, str(len(counts["unexpected"]) or "")])
    titles = ["paper", "claims", *kinds, "with repair", "mutants refuted", "not as expected"]
    helps = {**STATUSES, "with repair": "refuted statements for which a corrected one holds"}
    shown = table(titles, rows, numeric=set(titles[1:]), helps=[helps.get(title, "") for title in titles])
    return f"{shown}<p class='soft small'>{_WHAT_SETTLES}</p>"


_WHAT_SETTLES = (
    "A statement about all networks is settled true only by a proof that is replayed (S4) or an exact certificate (S5), for "
    "a whole class; it is settled false by one counterexample that an independent program re-checked in exact arithmetic. "
    "Tested means that it holds on all instances tried, which settles nothing."
)

_COLUMNS = (  # title, class, help
    ("claim", "", "opens its card"),
    ("verdict", "", "a frame marks what is not as expected"),
    ("evidence", "", "strength S0 … S5 and scope; → what is left if a claim it rests on is weaker"),
    ("settled", "", ""),
    ("instances", "num", "instances of the statement that were checked"),
    ("idle", "num", "share of the instances that were undecided or for which the statement is trivial"),
    ("assumptions", "", "■ needed, □ not needed, ? unknown"),
    ("attained", "", "an instance with equality was found"),
    ("mutants", "num", "altered statements that were refuted"),
    ("s", "num", "seconds"),
)


def _matrix(rows: Sequence[Json]) -> str:
    head = "".join(
        f'<th scope="col" class="{kind}" title="{escape(about)}"><button type="button">{title}</button></th>'
        for title, kind, about in _COLUMNS
    )
    body = "".join(map(_matrix_row, rows))
    legend = ["✔ holds", "✘ fails", "? undecided", "· not run", "■ needed", "□ not needed", "? unknown"]
    legend += [f'<span><span class="badge s{k}">S{k}</span> {name}</span>' for k, name in enumerate(_STRENGTHS)]
    shown = "".join(f"<span>{entry}</span>" for entry in legend)
    matrix = f'<table id="matrix"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'{_filters(rows)}<div class="wide">{matrix}</div><p class="legend">{shown}</p>'


def _matrix_row(row: Json) -> str:
    attained = "✔" if row["attained"].get("found") else "–"
    mutants = row["mutants"]
    order = _VERDICT_ORDER.index(row["verdict"]) if row["verdict"] in _VERDICT_ORDER else 9
    cells = [
        (f'{link(row["id"])}<br><span class="soft small">{to_html(row["title"])}</span>', "", row["id"]),
        (verdict_html(row), "", order),
        (evidence_html(row), "", f"{row['effective_strength']} {row['strength']} {row['scope']}"),
        ("–" if row["settled"] == "no" else escape(row["settled"]), "", row["settled"]),
        (f"{row['instances']:,}", "num", row["instances"]),
        (idle_share(row), "num", (row["undecided"] + row["vacuous"]) / max(row["instances"], 1)),
        (squares_html(row), "", len(row["assumptions"])),
        (attained, "", attained),
        (f"{mutants['killed']}/{mutants['tried']}", "num", mutants["killed"]),
        (f"{row['seconds']:.1f}", "num", row["seconds"]),
    ]
    inner = "".join(f'<td class="{kind}" data-key="{escape(str(key))}">{html}</td>' for html, kind, key in cells)
    marks = {"paper": row["paper"], "verdict": row["verdict"], "strength": row["effective_strength"]}
    data = " ".join(f'data-{name}="{escape(value)}"' for name, value in marks.items())
    return f"<tr {data}>{inner}</tr>"


def _filters(rows: Sequence[Json]) -> str:
    def select(name: str, label: str, options: Iterable[tuple[str, str]]) -> str:
        shown = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options)
        return f'<label>{label} <select name="{name}"><option value="">all</option>{shown}</select></label>'

    papers = [(paper, _paper_name(paper)) for paper in dict.fromkeys(row["paper"] for row in rows)]
    verdicts = [(verdict, verdict) for verdict in sorted({row["verdict"] for row in rows})]
    strengths = [
        (badge, f"{badge} {_STRENGTHS[int(badge[1:])]}")
        for badge in sorted({row["effective_strength"] for row in rows})
    ]
    return (
        '<div class="filters">'
        + select("paper", "paper", papers)
        + select("verdict", "verdict", verdicts)
        + select("strength", "strength", strengths)
        + '<label>contains <input name="text" type="search" size="14"></label><span id="shown" class="soft small"></span></div>'
    )


def _graph(rows: Sequence[Json]) -> str:
    linked = {
        row["id"] for row in rows if row["depends_on"] or row["repairs"] or row["repaired_by"] or row["dependants"]
    }
    alone = [row["id"] for row in rows if row["id"] not in linked]
    legend = [
        "→ rests on the one at its left",
        "⇢ dashed: repaired by",
        "fill: strength (white S0 … dark S5), with what it rests on",
        "octagon and ✘: refuted",
        "dotted border: not executed",
        "double border: settled, and so is all it rests on",
    ]
    note = f'<p class="small">Stand alone: {", ".join(map(link, alone))}.</p>' if alone else ""
    shown = "".join(f"<span>{escape(entry)}</span>" for entry in legend)
    return f'<div class="wide">{graph_svg(rows)}</div><p class="legend">{shown}</p>{note}'


def most_wanted(rows: Sequence[Json], count: int = 8) -> list[Json]:
    """Unsettled claims, those first on which most others rest, then those with the weakest evidence."""
    unsettled = [row for row in rows if row["settled"] == "no"]
    return sorted(unsettled, key=lambda row: (-row["dependants"], row["effective_strength"], row["id"]))[:count]


def _most_wanted(rows: Sequence[Json]) -> str:
    wanted = most_wanted(rows)
    if not wanted:
        return "<p>Every claim is settled.</p>"
    cells = [[link(row["id"]), str(row["dependants"]), evidence_html(row), escape(row["status"])] for row in wanted]
    shown = table(["claim", "dependants", "evidence", "state"], cells, numeric={"dependants"})
    return f"<p>Not settled, and much rests on them: a proof or a counterexample here changes the most.</p>{shown}"


def _trained(trained: Json | None) -> str:
    if trained is None:
        return ""
    columns, rows = trained["columns"], trained["rows"]
    titles = [to_html(column["name"]) for column in columns]
    numeric = {
        title for k, title in enumerate(titles) if all(isinstance(row[k], (int, float, type(None))) for row in rows)
    }
    cells = [[escape(format_cell(value)) for value in row] for row in rows]
    helps = [column.get("help", "") for column in columns]
    shown = table(titles, cells, numeric, helps)
    note = f"<p>{to_html(trained['note'])}</p>" if trained.get("note") else ""
    terms = "".join(f"<li><strong>{title}</strong>: {to_html(text)}</li>" for title, text in zip(titles, helps) if text)
    return f"<p>{to_html(trained['title'])}</p>{shown}{note}" + (
        f'<ul class="soft small">{terms}</ul>' if terms else ""
    )


def _cards(rows: Sequence[Json], papers: Sequence[str]) -> str:
    html = '<p class="filters"><button type="button" id="toggle-all">open or close all</button></p>'
    for paper in papers:
        html += f"<h3>{escape(_paper_name(paper))}</h3>" + "".join(card(row) for row in rows if row["paper"] == paper)
    return html


def _provenance(provenance: Json) -> str:
    flat = {key: value for key, value in provenance.items() if not isinstance(value, Mapping)}
    for key, group in ((key, value) for key, value in provenance.items() if isinstance(value, Mapping)):
        flat[key] = ", ".join(f"{name} {value}" for name, value in group.items())
    items = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in flat.items())
    return f'<footer id="provenance"><h2>Where this comes from</h2><dl>{items}</dl></footer>'


def _paper_name(paper: str) -> str:
    return f"{PAPERS[paper]} ({paper})" if paper in PAPERS else "not from the papers" if paper == "ours" else paper
