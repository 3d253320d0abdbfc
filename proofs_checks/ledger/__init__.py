"""The ledger: verdicts of all claims as a document (JSON), a console table, and one offline HTML page.

document.py  the document: what follows from all rows together; provenance; JSON
table.py     the console table
page.py      the HTML page: summary, matrix, dependency graph, cards; assets.py holds its style and script
cards.py     one claim opened: statement, evidence, counterexamples
drawing.py   networks and the dependency graph as SVG
words.py     what a witness asserts, in words
markup.py    tables and links; latex.py  the LaTeX of the statements as HTML
"""

from proofs_checks.ledger.document import build, provenance, write_json
from proofs_checks.ledger.page import page, write_html
from proofs_checks.ledger.table import print_table

__all__ = ["build", "provenance", "print_table", "page", "write_html", "write_json"]
