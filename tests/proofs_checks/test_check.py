"""The engine on small claims whose truth is known: planted falsehoods, toothless checks, errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st

from proofs_checks.check import Budget, fails, search, smallest, verify
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict

BUDGET = Budget("test", instances=100, searches=300, shrink=True)
SOURCE = Source("2510.00304", "v1", "test")
NET = {
    "num_inputs": 1,
    "has_constant": False,
    "activation": ["identity"],
    "outputs": [1],
    "edges": [[0, 1, 0]],
    "x": [["1"]],
    "y": [["0"]],
    "loss": "mse_sum",
}


def _below(limit: int) -> Any:
    """The output of the net x → θ x at x = 1, that is θ, is below the limit."""

    def check(n: int) -> Evidence:
        def witness() -> dict[str, Any]:
            value = {"quantity": "value", "net": "net", "unit": 1, "sample": 0}
            return {
                "format": "lop-witness/1",
                "statement": f"{n} and {limit} compared",
                "networks": {"net": {**NET, "theta": [str(n)]}},
                "assertions": [{"left": value, "op": "<" if n < limit else ">=", "right": str(limit)}],
            }

        verdict = Verdict.HOLDS if n < limit else Verdict.FAILS
        return Evidence(verdict, n, limit, limit - 1 - n, f"{n}", witness)

    return check


TRUE = Claim(
    id="test.true",
    title="Numbers up to 99 are below 100",
    source=SOURCE,
    kind="ours",
    statement="n < 100",
    quantifier="for all",
    assumptions=(Assumption("small", "n ≤ 99", lambda n: n <= 99), Assumption("whole", "n is whole", lambda n: True)),
    instances=st.integers(0, 99),
    check=_below(100),
    expected=Verdict.HOLDS,
    without={"small": st.integers(100, 500), "whole": st.integers(0, 50)},
    attained=st.integers(90, 99),
    mutants=(Mutant("half", "n < 50", _below(50)), Mutant("less", "n < 99", _below(99), st.integers(90, 99))),
)


def test_a_true_claim_holds_with_needed_and_idle_assumptions() -> None:
    result = verify(TRUE, BUDGET)
    assert (result.verdict, result.strength, result.scope, result.settled) == ("holds", "S2", "class", "no")
    assert {a["name"]: a["needed"] for a in result.assumptions} == {"small": "yes", "whole": "no"}
    assert result.attained["found"]
    assert (result.mutants["tried"], result.mutants["killed"]) == (2, 2)
    assert result.as_expected


def test_the_refutation_without_an_assumption_is_shrunk_to_the_smallest() -> None:
    result = verify(TRUE, BUDGET)
    assert result.witnesses["assumption:small"]["networks"]["net"]["theta"] == ["100"]


def test_a_planted_falsehood_is_refuted_exactly_and_minimally() -> None:
    result = verify(replace(TRUE, assumptions=(), without={}, instances=st.integers(0, 1000)), BUDGET)
    assert (result.verdict, result.strength, result.scope, result.settled) == ("fails", "S5", "∃", "false")
    assert result.counterexample is not None
    assert result.counterexample["networks"]["net"]["theta"] == ["100"]
    assert not result.as_expected


def test_a_surviving_mutant_is_reported() -> None:
    result = verify(replace(TRUE, mutants=(Mutant("same", "n < 100", _below(100)),)), BUDGET)
    assert (result.mutants["tried"], result.mutants["killed"]) == (1, 0)
    assert result.verdict == "holds" and not result.as_expected


def test_a_check_that_raises_is_an_error_of_its_claim() -> None:
    def broken(n: int) -> Evidence:
        raise RuntimeError("no luck")

    result = verify(replace(TRUE, check=broken), BUDGET)
    assert "no luck" in result.error
    assert result.verdict == "undecided" and not result.as_expected


def test_a_strategy_that_violates_an_assumption_is_an_error() -> None:
    result = verify(replace(TRUE, instances=st.integers(0, 120)), BUDGET)
    assert "violates ['small']" in result.error


def test_a_refutation_that_drops_nothing_is_an_error() -> None:
    claim = replace(
        TRUE, assumptions=(Assumption("idle", "always true", lambda n: True),), without={"idle": st.integers(100, 200)}
    )
    assert "does not drop that assumption alone" in verify(claim, BUDGET).error


def test_an_unconfirmed_witness_is_an_error() -> None:
    def wrong(n: int) -> Evidence:
        def lie() -> dict[str, Any]:  # says n ≥ 100 for every n
            document = _below(100)(n).witness()  # type: ignore[misc]
            return {**document, "assertions": [{**document["assertions"][0], "op": ">="}]}

        return Evidence(Verdict.FAILS, witness=lie)

    assert "does not confirm" in verify(replace(TRUE, check=wrong, without={}), BUDGET).error


def test_undecided_is_neither_pass_nor_fail() -> None:
    result = verify(replace(TRUE, check=lambda n: Evidence(Verdict.UNDECIDED), mutants=(), attained=None), BUDGET)
    assert result.verdict == "undecided"
    assert result.undecided == result.instances > 0


@pytest.mark.parametrize(
    ("strength", "scope", "settled"),
    [
        (Strength.SYMBOLIC, Scope.ALL, "true"),
        (Strength.SYMBOLIC, Scope.LIST, "no"),
        (Strength.ENCLOSURE, Scope.CLASS, "no"),
    ],
)
def test_only_wide_proofs_settle_a_universal_claim(strength: Strength, scope: Scope, settled: str) -> None:
    proof = Certificate("proof", "replayed", strength, scope, lambda: "derived")
    result = verify(replace(TRUE, certificates=(proof,)), BUDGET)
    assert (result.strength, result.scope, result.settled) == (strength.badge, scope.value, settled)


def test_a_proof_that_no_longer_replays_is_an_error() -> None:
    def gone() -> str:
        raise ValueError("the identity does not simplify to zero")

    proof = Certificate("proof", "replayed", Strength.SYMBOLIC, Scope.ALL, gone)
    assert "does not simplify" in verify(replace(TRUE, certificates=(proof,)), BUDGET).error


def test_an_existential_claim_is_settled_by_one_witness() -> None:
    result = verify(replace(TRUE, quantifier="exists", mutants=(), without={}, attained=None), BUDGET)
    assert (result.verdict, result.scope) == ("holds", "∃")


def test_the_same_seed_gives_the_same_search() -> None:
    def trail(seed: str) -> list[int]:
        seen: list[int] = []

        def check(n: int) -> Evidence:
            seen.append(n)
            return Evidence(Verdict.HOLDS)

        search(st.integers(0, 10**6), check, fails, examples=50, seed=seed)
        return seen

    assert trail("a") == trail("a") != trail("b")


def test_smallest_never_returns_a_longer_witness_than_one_search() -> None:
    check = _below(100)
    strategy = st.one_of(st.just(10**9), st.integers(0, 10**9))
    one = search(strategy, check, fails, examples=100, seed="x")
    best = smallest(strategy, check, fails, examples=100, seed="x", shrink=True)
    assert one.found is not None and best.found is not None
    assert len(str(best.found)) <= len(str(one.found))
