"""The two pieces of HTML that every section of the page uses."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape


def table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], numeric: Collection[str] = (), helps: Sequence[str] = ()
) -> str:
    """A table of cells that are HTML already; columns whose title is in ``numeric`` are set flush right.

    >>> table(["n"], [["1"]], numeric={"n"}).count('class="num"')
    2
    """
    kinds = [' class="num"' if title in numeric else "" for title in titles]
    tips = [f' title="{escape(text)}"' if text else "" for text in helps or [""] * len(titles)]
    head = "".join(f"<th{kind}{tip}>{title}</th>" for title, kind, tip in zip(titles, kinds, tips))
    body = "".join("<tr>" + "".join(f"<td{kind}>{c}</td>" for c, kind in zip(row, kinds)) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def link(claim_id: str) -> str:
    """A link to the card of a claim."""
    return f'<a href="#card-{escape(claim_id)}">{escape(claim_id)}</a>'
