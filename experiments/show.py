"""What ``lop show`` prints: a claim in words, and its last result."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proofs_checks.claim import PAPERS, Claim

WIDTH = 110


def claim_text(claim: Claim, repaired_by: Sequence[str], result: dict[str, Any] | None) -> str:
    """The claim as plain text, at most ``WIDTH`` columns wide where words allow it."""
    paper = PAPERS.get(claim.source.arxiv)
    lines = [f"{claim.id}: {claim.title}", ""]
    lines += _field("source", f"{claim.source}" + (f", {paper}" if paper else ""))
    lines += _field("kind", f"{claim.kind}, {claim.quantifier}")
    lines += _field("expected", claim.expected.value)
    lines += _field("statement", claim.statement)
    for assumption in claim.assumptions:
        dropped = "" if assumption.name in claim.without else " (not dropped alone)"
        lines += _field("assumes", f"{assumption.name}: {assumption.text}{dropped}")
    lines += _field("proof", claim.proof)
    for mutant in claim.mutants:
        lines += _field("mutant", f"{mutant.name}: {mutant.text}")
    for certificate in claim.certificates:
        badge = f"{certificate.strength.badge} {certificate.scope.value}"
        lines += _field("replays", f"{certificate.name} ({badge}): {certificate.text}")
    lines += _field("rests on", ", ".join(claim.depends_on))
    lines += _field("repairs", claim.repairs)
    lines += _field("repaired by", ", ".join(repaired_by))
    return "\n".join(lines + _result(result))


def last_result(results: Path, claim_id: str) -> dict[str, Any] | None:
    """The newest row of the claim in any run below ``results``, with its file under ``"file"``; ``None`` if there is none."""
    found = sorted(results.glob(f"*/claims/{claim_id}.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(found):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # not ours, or damaged: an older one will do
        if isinstance(row, dict) and "verdict" in row:
            return {**row, "file": str(path)}
    return None


def _result(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return _field("last result", "none yet; run `lop verify` with this id")
    needed = ", ".join(f"{a['name']} {a['needed']}" for a in row["assumptions"])
    mutants = row["mutants"]
    text = (
        f"{row['verdict']}, {row['strength']} {row['scope']}, settled: {row['settled']}, {row['instances']} instances"
    )
    lines = _field("last result", f"{text}, {row['seconds']:.1f} s ({row['file']})")
    lines += _field("needed", needed)
    lines += _field("mutants", f"{mutants['killed']} of {mutants['tried']} refuted" if mutants["tried"] else "")
    lines += _field("witness", row.get("witness") or "")
    return lines + _field("error", row["error"]) + _field("note", "" if row["error"] else row["note"])


def _field(name: str, text: str) -> list[str]:
    """``name`` in a column of its own, then the text; nothing if the text is empty."""
    words = " ".join(text.split())
    if not words:
        return []
    indent = " " * 13
    return textwrap.wrap(
        words,
        WIDTH,
        initial_indent=f"{name:<13}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
