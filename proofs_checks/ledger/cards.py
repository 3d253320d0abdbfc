"""One claim opened: statement, why, evidence, what each assumption is good for, and its counterexamples as drawings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from proofs_checks.ledger.drawing import data_table, network_svg
from proofs_checks.ledger.latex import to_html
from proofs_checks.ledger.markup import link, table
from proofs_checks.ledger.table import NEEDED, VERDICTS
from proofs_checks.ledger.words import assertion_in_words
from proofs_checks.recheck import recheck
from proofs_checks.recheck_core.numbers import WitnessError

Row = Mapping[str, Any]
Document = Mapping[str, Any]

_NEEDED_WORDS = {"yes": "needed", "no": "not needed", "unknown": "unknown"}
_LOSSES = {"mse_sum": "½ Σₙ|f − y|²", "mse": "1/N · ½ Σₙ|f − y|²", "cross_entropy": "mean softmax cross-entropy"}


def card(row: Row) -> str:
    """The card of a claim, a ``<details>`` element that the matrix and the graph link to."""
    name = f"<strong>{escape(row['id'])}</strong> — {to_html(row['title'])}"
    parts = [
        f'<details class="card is-{escape(row["verdict"].replace(" ", ""))}" id="card-{escape(row["id"])}">',
        f"<summary>{verdict_html(row)} {evidence_html(row)} {name}</summary>",
        _facts(row),
        f'<div class="statement">{to_html(row["statement"])}</div>' if row["statement"] else "",
        _why(row),
        _error(row),
        _counterexample(row),
        _assumptions(row),
        _certificates(row),
        _attained(row),
        _mutants(row),
        "</details>",
    ]
    return "\n".join(part for part in parts if part)


def verdict_html(row: Row) -> str:
    """Shape and word; a frame around what was not expected."""
    shape = VERDICTS.get(row["verdict"], ("?", ""))[0]
    kind = row["verdict"].replace(" ", "")
    html = f'<span class="verdict {escape(kind)}">{shape} {escape(row["verdict"])}</span>'
    if row["as_expected"]:
        return html
    why = (
        "error"
        if row["error"]
        else f"≠ expected {row['expected']}"
        if row["verdict"] != row["expected"]
        else "mutants survive"
    )
    return f'{html} <span class="unexpected">{escape(why)}</span>'


def evidence_html(row: Row) -> str:
    """Badge of strength and scope; what is left of it when a claim it rests on is weaker."""
    badge = f'<span class="badge {row["strength"].lower()}">{row["strength"]}</span> {escape(row["scope"])}'
    if row["effective_strength"] != row["strength"]:
        badge += (
            f' <span class="soft small" title="rests on {escape(row["weakest"])}">→ {row["effective_strength"]}</span>'
        )
    return badge


def squares_html(row: Row) -> str:
    """One square per assumption, named in its tooltip."""
    marks = [
        f'<span title="{escape(a["name"])}: {_NEEDED_WORDS.get(a["needed"], "unknown")}">{NEEDED.get(a["needed"], "?")}</span>'
        for a in row["assumptions"]
    ]
    return f'<span class="squares">{"".join(marks)}</span>'


def witness_html(document: Document, path: str = "") -> str:
    """A witness: its networks drawn, data, assertions in words with the checker's values, re-check command, JSON.

    What cannot be read as a witness is shown as its JSON only.
    """
    command = f"<p>Check it again: <code>lop recheck {escape(path)}</code></p>" if path else ""
    source = escape(json.dumps(document, indent=1, ensure_ascii=False))
    collapsed = (
        f'<details class="json"><summary class="soft small">witness as JSON</summary><pre>{source}</pre></details>'
    )
    try:
        body = _networks(document) + _assertions(document)
    except WitnessError as error:
        body = f"<p>This witness cannot be drawn: {escape(str(error))}</p>"
    statement = f"<p>{to_html(str(document['statement']))}</p>" if document.get("statement") else ""
    return f'<div class="witness">{statement}{body}{command}{collapsed}</div>'


def _networks(document: Document) -> str:
    """Drawings beside their data; parameters are named in them if an assertion speaks of parameters."""
    named = any("θ" in assertion_in_words(assertion) for assertion in document["assertions"])
    figures = []
    for name, net in document["networks"].items():
        drawing = network_svg(net, name, name_params=named)
        figures.append(f"<figure>{drawing}<figcaption>{escape(_caption(name, net))}</figcaption></figure>")
        figures.append(f"<div>{data_table(net, name)}</div>")
    return f'<div class="nets">{"".join(figures)}</div>'


def _caption(name: str, net: Mapping[str, Any]) -> str:
    samples = len(net["x"])
    facts = [f"{len(net['theta'])} parameters", f"{samples} sample{'' if samples == 1 else 's'}"]
    facts.append(f"loss {_LOSSES.get(net['loss'], net['loss'])}")
    for group in net.get("normalization") or []:
        facts.append(f"{group['kind']} on units {', '.join(map(str, group['units']))}")
    return f"{name}: {', '.join(facts)}"


def _assertions(document: Document) -> str:
    """Every assertion in words; beside it what the independent checker finds when this page is written."""
    outcome = recheck(document)
    marks = {True: "✔", False: "✘", None: "?"}
    rows = [
        [marks[result.holds], escape(assertion_in_words(assertion)), f"<code>{escape(result.text)}</code>"]
        for assertion, result in zip(document["assertions"], outcome.assertions)
    ]
    found = "All confirmed" if outcome.confirmed else "NOT confirmed"
    return table(["", f"{found} by the independent checker", "its values"], rows)


# -- the parts of a card ---------------------------------------------------------------------------------------------


def _facts(row: Row) -> str:
    facts = [
        escape(str(row["source"])),
        escape(row["kind"]),
        escape(row["quantifier"]),
        f"{row['instances']:,} instances",
    ]
    if row["undecided"]:
        facts.append(f"{row['undecided']:,} of them undecided")
    if row["vacuous"]:
        facts.append(f"{row['vacuous']:,} of them vacuous")
    facts += [f"settled: {row['settled']}", f"{row['seconds']:.1f} s", f"expected: {escape(row['expected'])}"]
    lines = [" · ".join(fact for fact in facts if fact)]
    if row["depends_on"]:
        lines.append("rests on " + ", ".join(map(link, row["depends_on"])))
    if row["effective_strength"] != row["strength"]:
        lines.append(f"only as strong as {link(row['weakest'])}: {row['effective_strength']}")
    if row["repairs"]:
        lines.append("repairs " + link(row["repairs"]))
    if row["repaired_by"]:
        lines.append("repaired by " + ", ".join(map(link, row["repaired_by"])))
    return "".join(f'<p class="soft small">{line}</p>' for line in lines)


def _why(row: Row) -> str:
    if not row["proof"]:
        return ""
    title = "Why it fails" if row["verdict"] == "fails" else "Why"
    return f"<h3>{title}</h3><p>{to_html(row['proof'])}</p>"


def _error(row: Row) -> str:
    if not row["error"]:
        return ""
    return f"<h3>Error in the check</h3><p><code>{escape(row['error'])}</code></p><pre>{escape(row['note'])}</pre>"


def _counterexample(row: Row) -> str:
    if row["error"]:
        return ""
    note = f"<p>{escape(row['note'])}</p>" if row["note"] else ""
    if row["counterexample"] is None and row["verdict"] != "fails":
        return note
    title = "Counterexample" if row["verdict"] == "fails" else "Example"
    drawn = witness_html(row["counterexample"], row["witness"] or "") if row["counterexample"] else ""
    return f"<h3>{title}</h3>{note}{drawn}"


def _assumptions(row: Row) -> str:
    if not row["assumptions"]:
        return ""
    rows = [
        [
            f"{NEEDED.get(a['needed'], '?')}&nbsp;{_NEEDED_WORDS.get(a['needed'], 'unknown')}",
            f"<strong>{escape(a['name'])}</strong><br>{to_html(a.get('text', ''))}",
            f"{a['instances']:,}" if a.get("instances") else "–",
            escape(a.get("note") or ""),
        ]
        for a in row["assumptions"]
    ]
    titles = ["needed?", "assumption", "tried without it", "found without it"]
    drawn = "".join(_refutation(row, a, "assumption", f"without “{a['name']}”") for a in row["assumptions"])
    return f"<h3>Assumptions</h3>{table(titles, rows, numeric={titles[2]})}{drawn}"


def _refutation(row: Row, entry: Row, role: str, title: str) -> str:
    """The witness of a dropped assumption or a mutant, collapsed; nothing if there is none."""
    document = (row.get("witnesses") or {}).get(f"{role}:{entry['name']}")
    path = entry.get("witness") if isinstance(entry.get("witness"), str) else ""
    if document is None and path:
        document = _read(path)
    if document is None:
        return ""
    return f"<details><summary>counterexample {escape(title)}</summary>{witness_html(document, path or '')}</details>"


def _read(path: str) -> Document | None:
    """A witness file, if it is still there."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _certificates(row: Row) -> str:
    if not row["certificates"]:
        return ""
    rows = [
        [
            f'<span class="badge {c["strength"].lower()}">{c["strength"]}</span> {escape(c["scope"])}',
            f"<strong>{escape(c['name'])}</strong><br>{to_html(c['text'])}",
            to_html(str(c["replayed"])),
        ]
        for c in row["certificates"]
    ]
    return f"<h3>Proofs that were replayed</h3>{table(['evidence', 'shows', 'derived'], rows)}"


def _attained(row: Row) -> str:
    attained = row["attained"]
    if not attained:
        return ""
    if not attained.get("found"):
        return '<p class="small">Attained: no instance with equality was found or asked for.</p>'
    count = attained.get("count", 0)
    return f'<p class="small">Attained: ✔ with equality on {count:,} instance{"s" if count != 1 else ""}.</p>'


def _mutants(row: Row) -> str:
    mutants = row["mutants"]
    if not mutants["rows"]:
        return ""
    rows = [
        [
            "✘&nbsp;refuted" if m["killed"] else "≠&nbsp;<strong>NOT</strong>&nbsp;refuted",
            f"<strong>{escape(m['name'])}</strong><br>{to_html(m.get('text', ''))}",
            f"{m.get('instances', 0):,}",
            escape(m.get("note") or ""),
        ]
        for m in mutants["rows"]
    ]
    drawn = "".join(_refutation(row, m, "mutant", f"to the mutant “{m['name']}”") for m in mutants["rows"])
    shown = table(["", "altered statement", "instances", "found"], rows, numeric={"instances"})
    return f"<h3>Mutants: {mutants['killed']} of {mutants['tried']} refuted</h3>{shown}{drawn}"
