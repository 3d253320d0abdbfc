"""Ledger level: what follows from all rows together is right, and every way of showing it tells the whole of it."""

import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from proofs_checks import ledger
from proofs_checks.check import Budget, verify
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.ledger.drawing import FILLS, graph_svg, network_svg
from proofs_checks.ledger.latex import to_html
from proofs_checks.ledger.page import most_wanted, page
from proofs_checks.ledger.words import assertion_in_words
from tests.reference.witness_networks import layered


def row(claim_id, verdict="holds", strength="S2", settled="no", source="arXiv:2509.22335 v3, Theorem 1", **more):
    """What ``Result.row()`` returns, shortened to what the ledger insists on."""
    return {
        "id": claim_id,
        "source": source,
        "verdict": verdict,
        "expected": verdict,
        "strength": strength,
        "scope": "class",
        "settled": settled,
        "instances": 10,
        **more,
    }


def rank_witness():
    """dims [1, 2, 2, 1] with a dead unit in each hidden layer, joined by a weight: P = 13, printed bound 5, rank 6."""
    net = layered(
        weights=[[[0], [0]], [[0, 2], [2, 0]], [[1, 0]]],
        biases=[[-1, 2], [1, -2], [-1]],
        x=[[-3], [2], [1], [0]],
        y=[[0], [0], [0], [-1]],
    )
    return {
        "format": "lop-witness/1",
        "claim": "printed",
        "role": "counterexample",
        "variant": "",
        "statement": "the rank exceeds $P - k(I+O+1)$",
        "networks": {"net": net},
        "assertions": [{"left": {"quantity": "hessian_rank"}, "op": ">", "right": {"quantity": "dead_unit_bound"}}],
    }


def sample_rows():
    """One row of every kind; ``top`` rests on ``middle``, which rests on ``base``."""
    return [
        row(
            "base",
            strength="S5",
            settled="true",
            assumptions=[{"name": "finite <b>", "needed": "yes", "text": "$x < 1$"}],
        ),
        row(
            "middle",
            strength="S2",
            depends_on=["base"],
            assumptions=[{"name": "A", "needed": "no"}, {"name": "B", "needed": "unknown"}],
        ),
        row("top", strength="S4", settled="true", depends_on=["middle"]),
        row(
            "printed",
            "fails",
            "S5",
            "false",
            counterexample=rank_witness(),
            witness="w/printed.json",
            note="rank 6, bound 5",
        ),
        row("repaired", strength="S4", settled="true", repairs="printed"),
        row("open", "undecided", "S0", source="folklore", expected="holds"),
        row("later", "not run", "S0", instances=0, source="arXiv:2510.00304 v2, Def. 2", expected="holds"),
        row("broken", "undecided", "S0", error="ZeroDivisionError: division by <zero>", expected="holds"),
        row("toothless", mutants={"tried": 2, "killed": 1, "rows": [mutant("sharp", True), mutant("blunt", False)]}),
    ]


def mutant(name, killed):
    return {"name": name, "text": "$r < P$", "killed": killed, "instances": 7, "note": ""}


TABLE = {
    "title": "on digits",
    "columns": [{"name": "task", "help": "tasks $t$ finished"}, {"name": "gap", "help": ""}],
    "rows": [[0, None], [10, float("nan")], [20, 12.34567]],
    "note": "one seed",
}


@pytest.fixture(scope="module")
def document():
    return ledger.build(sample_rows(), {"command": "lop verify", "versions": {"torch": "1 & 2"}}, TABLE)


def by_id(document):
    return {entry["id"]: entry for entry in document["claims"]}


def printed(document, width=120, **options):
    out = io.StringIO()
    ledger.print_table(document, Console(file=out, width=width, color_system=None, **options))
    return out.getvalue()


# -- the document


def test_a_claim_is_only_as_strong_as_what_it_rests_on(document):
    found = {name: (entry["effective_strength"], entry["weakest"]) for name, entry in by_id(document).items()}
    assert found["base"] == ("S5", "base")
    assert found["top"] == ("S2", "middle")


@pytest.mark.parametrize(
    "ancestor", [row("base", "fails", "S5", "false"), row("base", "undecided", "S3"), row("elsewhere")]
)
def test_what_rests_on_a_claim_that_does_not_hold_or_was_not_checked_has_no_strength(ancestor):
    rows = [ancestor, row("top", strength="S4", settled="true", depends_on=["base"])]
    top = by_id(ledger.build(rows, {}))["top"]
    assert (top["effective_strength"], top["weakest"], top["grounded"]) == ("S0", "base", False)


def test_a_refutation_rests_on_its_witness_alone():
    rows = [row("base", "undecided", "S0"), row("printed", "fails", "S5", "false", depends_on=["base"])]
    refuted = by_id(ledger.build(rows, {}))["printed"]
    assert (refuted["effective_strength"], refuted["grounded"]) == ("S5", True)


@given(st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 7))), min_size=1, max_size=8))
def test_effective_strength_is_the_least_over_all_paths_downwards(nodes):
    """Against plain recursion; node k may rest on earlier ones only."""
    needs = [sorted(j for j in lower if j < k) for k, (_, lower) in enumerate(nodes)]
    rows = [row(f"c{k}", strength=f"S{s}", depends_on=[f"c{j}" for j in needs[k]]) for k, (s, _) in enumerate(nodes)]

    def least(k):
        return min([nodes[k][0], *(least(j) for j in needs[k])])

    assert [entry["effective_strength"] for entry in ledger.build(rows, {})["claims"]] == [
        f"S{least(k)}" for k in range(len(nodes))
    ]


def test_grounded_means_settled_all_the_way_down(document):
    grounded = {name for name, entry in by_id(document).items() if entry["grounded"]}
    assert grounded == {"base", "printed", "repaired"}  # top is settled itself, but middle is not


def test_a_refutation_without_a_checked_witness_is_not_grounded():
    assert not by_id(ledger.build([row("a", "fails", "S2")], {}))["a"]["grounded"]


def test_repairs_dependants_and_papers_are_found_from_the_other_side(document):
    entries = by_id(document)
    assert entries["printed"]["repaired_by"] == ["repaired"] and entries["base"]["repaired_by"] == []
    assert [entries[name]["dependants"] for name in ("base", "middle", "top")] == [2, 1, 0]
    assert (entries["open"]["paper"], entries["later"]["paper"]) == ("ours", "2510.00304")


def test_summary_puts_every_claim_into_one_state_and_papers_add_up(document):
    summary = document["summary"]
    expected = {"settled true": 3, "false as stated": 1, "tested": 2, "undecided": 1, "not run": 1, "error": 1}
    assert {name: summary[name] for name in expected} == expected
    assert sum(expected.values()) == summary["claims"] == 9
    assert (summary["repaired"], summary["mutants"]) == (1, {"tried": 2, "killed": 1})
    assert summary["unexpected"] == ["open", "broken", "toothless"]
    assert list(summary["papers"]) == ["2510.00304", "2509.22335", "ours"]
    for name in ("claims", "repaired", *expected):
        assert summary[name] == sum(counts[name] for counts in summary["papers"].values())


@pytest.mark.parametrize(
    "repair, repaired",
    [
        (row("r", repairs="printed"), 1),
        (row("r", "fails", repairs="printed"), 0),
        (row("r", repairs="printed", error="E"), 0),
    ],
)
def test_only_a_repair_that_holds_counts(repair, repaired):
    assert ledger.build([row("printed", "fails", "S5", "false"), repair], {})["summary"]["repaired"] == repaired


def test_input_rows_are_not_changed():
    rows = sample_rows()
    ledger.build(rows, {})
    assert rows == sample_rows()


@pytest.mark.parametrize(
    "rows, table, message",
    [
        ([row("a"), row("a")], None, r"claims \['a'\] occur more than once"),
        ([row("a", depends_on=["b"]), row("b", depends_on=["a"])], None, "form a cycle"),
        ([{"id": "a"}], None, r"row 'a' lacks \['source', 'verdict'"),
        ([row("a")], {**TABLE, "rows": [[1]]}, "row 0 of the table 'on digits' has 1 cells; it needs 2"),
    ],
)
def test_inconsistent_ledgers_are_refused(rows, table, message):
    with pytest.raises(ValueError, match=message):
        ledger.build(rows, {}, table)


def test_provenance_names_versions_without_importing_anything_heavy():
    code = (
        "import sys; from proofs_checks.ledger import provenance; p = provenance(7, 'quick', 'lop verify', jobs=2);"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; print(p['versions']['torch'], p['seed'], p['jobs'])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert re.match(r"\d+\.\d+", shown[0]) and shown[1:] == ["7", "2"]


def test_commit_is_unknown_for_sources_that_are_not_a_checkout(tmp_path, monkeypatch):
    from proofs_checks.ledger import document as module

    monkeypatch.setattr(module, "__file__", str(tmp_path / "document.py"))
    assert module.provenance(0, "quick", "lop")["commit"] == "unknown"


# -- files


def test_json_file_reads_back_as_the_document(document, tmp_path):
    path = tmp_path / "ledger.json"
    ledger.write_json(document, path)
    assert json.loads(path.read_text(encoding="utf-8")) == document
    assert document["trained"]["rows"][1][1] == "nan"  # JSON has no NaN
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.json"]


@pytest.mark.parametrize("write", [ledger.write_json, ledger.write_html])
def test_paths_that_cannot_be_written_raise_oserror(document, tmp_path, write):
    for path in (tmp_path / "missing" / "file", tmp_path):
        with pytest.raises(OSError):
            write(document, path)


# -- the console table


@pytest.mark.parametrize("width", [80, 120])
def test_table_fits_and_shows_every_claim_with_its_verdict(document, width):
    text = printed(document, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    for entry in document["claims"]:
        line = next(line for line in text.splitlines() if line.startswith(entry["id"] + " "))
        assert entry["verdict"] in line


def test_table_explains_failures_errors_surprises_and_squares(document):
    text = printed(document)
    for expected in (
        "✘ fails",
        "→ rank 6, bound 5",
        "→ repaired by repaired",
        "! expected verdict: holds",
        "! error: ZeroDivisionError",
        "! mutants not killed: blunt",
        "□?",
        "S4 class→S2",
        "on digits",
        "task: tasks t finished",
        "12.35",
        "≠ not as expected: open, broken, toothless",
    ):
        assert expected in text, expected


def test_narrow_terminals_keep_ids_whole_and_leave_columns_out():
    name = "spectral.dead-unit-bound.repaired"
    wide, narrow = (printed(ledger.build([row(name)], {}), width) for width in (120, 80))
    assert name in narrow and "settled" not in narrow.split("claim", 1)[1].splitlines()[0]
    assert name in wide and "settled" in wide.split("claim", 1)[1].splitlines()[0]


def test_long_ids_are_shortened_where_there_is_no_room():
    text = printed(ledger.build([row("x" * 90)], {}), width=80)
    assert max(map(cell_len, text.splitlines())) <= 80 and "xxx…" in text


def test_a_terminal_without_unicode_gets_ascii(document):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    ledger.print_table(document, Console(file=out, width=120, color_system=None))
    text = out.buffer.getvalue().decode("ascii")
    assert "x fails" in text and "+ holds" in text and "\n" in text


# -- the page


class Page(HTMLParser):
    """Checks nesting, and collects ids, links and whatever would be loaded."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.links, self.loads = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a":
            self.links.append(found["href"])
        self.loads += [value for name, value in attrs if name in ("src", "srcset") or (name == "href" and tag != "a")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_loads_nothing_and_every_link_has_a_target(document, tmp_path):
    ledger.write_html(document, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = Page(html)
    assert parsed.loads == [] and "@import" not in html and "url(" not in html.replace("url(#tip)", "")
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link for link in parsed.links if link[1:] not in parsed.ids} == set()
    assert {f"card-{entry['id']}" for entry in document["claims"]} <= set(parsed.ids)


def test_page_escapes_what_it_shows(document):
    html = page(document)
    assert "finite &lt;b&gt;" in html and "finite <b>" not in html
    assert "division by &lt;zero&gt;" in html and "torch 1 &amp; 2" in html


def test_page_shows_the_counterexample_as_a_network_with_its_words_and_the_command(document):
    html = page(document)
    assert html.count('class="unit hidden dead"') == 2
    assert "b = −2" in html and "lop recheck w/printed.json" in html
    assert "the rank of the Hessian is greater than the printed bound" in html
    assert "All confirmed by the independent checker" in html and "hessian_rank [6] &gt; dead_unit_bound [5]" in html


def test_page_says_so_when_a_witness_is_wrong_or_unreadable():
    wrong = rank_witness()
    wrong["assertions"][0]["op"] = "<"
    unreadable = {**rank_witness(), "networks": {"net": {"num_inputs": 1}}}
    for document, expected in ((wrong, "NOT confirmed"), (unreadable, "cannot be drawn")):
        html = page(ledger.build([row("printed", "fails", "S5", "false", counterexample=document)], {}))
        Page(html)
        assert expected in html


def test_witness_files_of_dropped_assumptions_are_drawn_if_they_are_still_there(tmp_path):
    path = tmp_path / "witness.json"
    rows = [row("a", assumptions=[{"name": "A", "text": "", "needed": "yes", "witness": str(path)}])]
    assert "<svg" not in page(ledger.build(rows, {}))
    path.write_text(json.dumps(rank_witness()), encoding="utf-8")
    assert "counterexample without “A”" in page(ledger.build(rows, {}))


def test_most_wanted_is_unsettled_and_starts_with_what_most_rests_on(document):
    wanted = [entry["id"] for entry in most_wanted(document["claims"])]
    assert wanted[0] == "middle" and set(wanted) == {"middle", "open", "later", "broken", "toothless"}


def test_empty_ledger_can_be_shown():
    empty = ledger.build([], {})
    Page(page(empty))
    assert "0 claims" in printed(empty)


# -- drawings


def test_network_drawing_has_one_mark_per_unit_and_edge():
    svg = network_svg(rank_witness()["networks"]["net"])
    assert svg.count("<circle") == 5 and svg.count('<rect class="unit input"') == 1
    assert svg.count('class="edge') == 2 + 4 + 2  # biases stand at their units
    assert svg.count('class="edge zero"') == 5
    assert svg.count("b = ") == 5


def test_tied_and_fixed_weights_are_told_apart():
    net = {
        "num_inputs": 1,
        "has_constant": False,
        "activation": ["tanh", "gelu", "identity"],
        "outputs": [3],
        "edges": [[0, 1, 0], [0, 2, 0], [1, 3, 1], [2, 3, -1, "7"], [0, 3, 2]],
        "theta": ["5", "-1/2", "3"],
        "x": [["1"]],
        "y": [["0"]],
        "loss": "mse_sum",
    }
    svg = network_svg(net)
    labels = re.findall(r'class="weight"[^>]*>([^<]*)<', svg)
    assert sorted(labels) == sorted(["θ₀=5", "θ₀=5", "−1/2", "[7]", "3"])


@pytest.mark.parametrize("skips", [1, 3])
def test_skip_edges_stay_inside_the_picture_and_avoid_the_units_between(skips):
    depth = skips + 1
    chain = [[k, k + 1, k] for k in range(depth)]
    net = {
        "num_inputs": 1,
        "has_constant": False,
        "activation": ["identity"] * depth,
        "outputs": [depth],
        "edges": [*chain, [0, depth, depth]],
        "theta": ["1"] * (depth + 1),
        "x": [["1"]],
        "y": [["0"]],
        "loss": "mse_sum",
    }
    svg = network_svg(net)
    top, height = (float(v) for v in re.search(r'viewBox="0 (\S+) \S+ (\S+)"', svg).groups())
    x0, y0, bx, by, x1, y1 = map(float, re.findall(r'd="M(\S+) (\S+) Q(\S+) (\S+) (\S+) (\S+)"', svg)[-1])
    circles = [(float(x), float(y)) for x, y in re.findall(r'cx="(\S+)" cy="(\S+)"', svg)][:-1]
    for k in range(101):
        t = k / 100
        x = (1 - t) ** 2 * x0 + 2 * t * (1 - t) * bx + t**2 * x1
        y = (1 - t) ** 2 * y0 + 2 * t * (1 - t) * by + t**2 * y1
        assert top <= y <= top + height
        assert all((x - cx) ** 2 + (y - cy) ** 2 > 19**2 for cx, cy in circles)


def test_graph_draws_refuted_claims_as_octagons_and_settled_ones_with_double_borders(document):
    svg = graph_svg(document["claims"])
    assert svg.count('class="needs"') == 2 and svg.count('class="repair"') == 1
    boxes = dict(re.findall(r'<a href="#card-(\w+)">(.*?)</a>', svg))
    assert set(boxes) == {"base", "middle", "top", "printed", "repaired"}  # the others stand alone
    assert boxes["printed"].count("<polygon") == 2
    assert all(len(points.split()) == 8 for points in re.findall(r'points="([^"]*)"', boxes["printed"]))
    assert [boxes[name].count("<rect") for name in ("base", "middle", "top")] == [2, 1, 1]
    assert FILLS[2] in boxes["top"] and FILLS[5] in boxes["base"]


# -- words and formulas


@pytest.mark.parametrize(
    "source, html",
    [
        (r"$x_{i+1}^2$", "<i>x</i><sub><i>i</i> + 1</sub><sup>2</sup>"),
        (r"$\theta \in \mathbb{R}^P$", "<i>θ</i> ∈ ℝ<sup><i>P</i></sup>"),
        (r"$-\frac{a+b}{2}$", "−(<i>a</i> + <i>b</i>)/2"),
        (r"$\nabla L(\theta)\ne 0$", "∇<i>L</i>(<i>θ</i>) ≠ 0"),
        (r"$\text{if } k \ge 1$", "if <i>k</i> ≥ 1"),
        (r"$\max_j |w_j| > c$", "max<sub><i>j</i></sub>|<i>w</i><sub><i>j</i></sub>| &gt; <i>c</i>"),
        (r"$\bigl\|A\bigr\|_F$", "‖<i>A</i>‖<sub><i>F</i></sub>"),
        (
            r"out-weights \lambda_i of a unit, w_uv",
            "out-weights <i>λ</i><sub><i>i</i></sub> of a unit, <i>w</i><sub><i>uv</i></sub>",
        ),
        (r"rank H \le P - k", "rank <i>H</i> ≤ <i>P</i> − <i>k</i>"),
        ("no formula: x < y & z", "no formula: x &lt; y &amp; z"),
        (r"\emph{not} 50\% of $P$", "<em>not</em> 50% of <i>P</i>"),
    ],
)
def test_latex_of_the_claims_becomes_html(source, html):
    assert to_html(source).replace("\u2009", "") == html


@pytest.mark.parametrize("source", [r"$\unknown{x}$", r"$\frac{a}$", r"$x_{$", r"\begin{matrix}", r"$a}$"])
def test_latex_that_is_not_understood_is_shown_as_source(source):
    assert to_html(source) == f"<code>{source}</code>"


@given(st.text(alphabet=r"\{}^_$ab1<&+-' ", max_size=25) | st.text(max_size=25))
def test_any_text_becomes_well_formed_html(source):
    Page(to_html(source))


def test_words_name_network_training_and_arithmetic():
    step = {"steps": 2, "rate": "1/10", "rule": {"name": "sgd", "momentum": "1/2", "nesterov": False}}
    form = {"quantity": "form_after", "coefficients": ["0", "1", "-1"], "net": "clone", **step}
    words = assertion_in_words({"left": {"abs": form}, "op": "!=", "right": {"max": ["0", "-1"]}})
    assert (
        words
        == "|θ₁ − θ₂ of the network “clone” after 2 steps of sgd (rate 1/10, momentum 1/2)| differs from max(0, −1)"
    )


# -- with the engine


def test_a_claim_checked_by_the_engine_shows_up_in_the_ledger(tmp_path):
    """All integers are even (refuted), with one assumption and one mutant."""

    def parity(n):
        even = n % 2 == 0
        return Evidence(Verdict.HOLDS if even else Verdict.FAILS, observed=n, margin=n % 2, note=f"{n} mod 2 = {n % 2}")

    claim = Claim(
        id="toy.even",
        title="All integers are even",
        source=Source("2510.00304", "v2", "Toy 1"),
        kind="folklore",
        statement=r"$n \equiv 0$ for all $n \in \mathbb{Z}$",
        quantifier="for all",
        assumptions=(Assumption("integer", "$n$ is an integer", lambda n: isinstance(n, int)),),
        instances=st.integers(0, 50),
        check=parity,
        expected=Verdict.FAILS,
        mutants=(Mutant("odd", "all are odd", lambda n: Evidence(Verdict.FAILS if n % 2 == 0 else Verdict.HOLDS)),),
    )
    result = verify(claim, Budget("tiny", 20, 20, True))
    document = ledger.build([result.row()], ledger.provenance(0, "tiny", "test"))
    (entry,) = document["claims"]
    assert entry["as_expected"] == result.as_expected is True
    assert entry["status"] == "refuted, no witness"  # nothing that the independent checker could confirm
    assert "→ 1 mod 2 = 1" in printed(document)
    Page(page(document))
