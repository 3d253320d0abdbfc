"""Generic tests over all claims: a claim adds no test code of its own."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proofs_checks.check import Budget, Result, verify
from proofs_checks.claim import PAPERS, Certificate, Claim, Mutant, Verdict
from proofs_checks.claims import CLAIMS
from proofs_checks.recheck import recheck

WANTED = (
    "barriers.def2.1",
    "barriers.flow-vs-step",
    "barriers.thm2.1.frozen",
    "barriers.thm2.1.frozen.repaired",
    "barriers.thm2.1.cloned",
    "barriers.thm2.1.cloned.repaired",
    "barriers.thmA.2.forward.v1",
    "barriers.thmA.2.forward.v2",
    "barriers.base-copy",
    "barriers.lumped-dynamics",
    "barriers.dimension",
    "barriers.stability",
    "barriers.stability.repaired",
    "spectral.dead-unit-bound",
    "spectral.dead-unit-bound.repaired",
    "spectral.gate-bound",
    "spectral.constant-units",
    "spectral.numerically-dead",
    "spectral.attained",
    "clones.rank-formula",
    "spectral.layernorm",
    "spectral.batchnorm",
    "spectral.persistence",
    "spectral.necessity",
    "ranks.chain",
)
_SMALL = Budget("test", instances=40, searches=400, shrink=True, starts=1, shrink_mutants=False)
_RESULTS: dict[str, Result] = {}


def _each(claims: Sequence[Claim]) -> pytest.MarkDecorator:
    """One test per claim; all tests of a claim run in one worker, which verifies it once."""
    return pytest.mark.parametrize(
        "claim", [pytest.param(c, id=c.id, marks=pytest.mark.xdist_group(c.id)) for c in claims]
    )


_EACH = _each(CLAIMS)


def _result(claim: Claim) -> Result:
    if claim.id not in _RESULTS:
        _RESULTS[claim.id] = verify(claim, _SMALL, seed=20260101)
    return _RESULTS[claim.id]


def test_ids_are_unique_and_references_resolve() -> None:
    ids = [c.id for c in CLAIMS]
    assert len(set(ids)) == len(ids)
    graph = nx.DiGraph([(c.id, parent) for c in CLAIMS for parent in c.depends_on])
    assert nx.is_directed_acyclic_graph(graph)
    assert set(graph.nodes) <= set(ids)
    assert {c.repairs for c in CLAIMS if c.repairs} <= set(ids)


def test_records_hold_what_they_say() -> None:
    """A name that is a certificate in one module and a claim in another is easily taken for the wrong one."""
    assert not [c for c in CLAIMS if type(c) is not Claim]
    assert not [c.id for c in CLAIMS if {type(part) for part in c.certificates} - {Certificate}]
    assert not [c.id for c in CLAIMS if {type(part) for part in c.mutants} - {Mutant}]


def test_the_issue_s_claims_are_all_there() -> None:
    ids = {c.id for c in CLAIMS}
    assert not [w for w in WANTED if w not in ids]
    assert sum(i.startswith("barriers.optimizers.") for i in ids) >= 12  # one row per update rule


@_EACH
def test_statement_is_complete(claim: Claim) -> None:
    assert claim.source.arxiv in PAPERS
    assert claim.source.version and claim.source.label
    assert claim.title and claim.statement and claim.proof
    assert len(claim.mutants) >= 2
    if claim.id.endswith(".repaired"):
        assert claim.repairs


@_EACH
def test_every_drawn_instance_satisfies_the_assumptions(claim: Claim) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        instance = data.draw(claim.instances)
        assert [a.name for a in claim.assumptions if not a.holds(instance)] == []

    holds()


@_EACH
def test_verdict_is_the_expected_one(claim: Claim) -> None:
    result = _result(claim)
    assert result.error == "", result.note
    assert result.verdict == claim.expected.value, result.note
    assert result.instances > 0
    assert result.undecided < result.instances


@_EACH
def test_every_mutant_dies(claim: Claim) -> None:
    assert [m["name"] for m in _result(claim).mutants["rows"] if not m["killed"]] == []


@_each([c for c in CLAIMS if c.attained is not None])
def test_bounds_are_attained(claim: Claim) -> None:
    assert _result(claim).attained["found"]


@_EACH
def test_witnesses_are_confirmed_by_the_independent_checker(claim: Claim) -> None:
    result = _result(claim)
    if claim.expected is Verdict.FAILS:
        assert result.counterexample is not None
        assert result.settled == "false"
    for name, witness in result.witnesses.items():
        assert recheck(witness).confirmed, name


@_EACH
def test_a_spoilt_witness_is_not_confirmed(claim: Claim) -> None:
    opposite = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
    for witness in _result(claim).witnesses.values():
        first, *rest = witness["assertions"]
        spoilt = {**witness, "assertions": [{**first, "op": opposite[first["op"]]}, *rest]}
        assert not recheck(spoilt).confirmed
