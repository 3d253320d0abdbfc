"""The engine: it decides verdicts. Instances satisfy · claim holds · each assumption is needed · bound is attained · mutants die.

One claim is checked in five parts, each a search by Hypothesis with its own seed, so that a part can be re-run alone:

* *statement*: instances of the claim; the first that refutes it is shrunk, written as a witness and re-checked exactly;
* *assumptions*: for each, instances that violate it alone; a refutation shows that the assumption is needed;
* *attained*: an instance with margin zero, so that a bound that is merely loose does not pass;
* *mutants*: each must be refuted, so that a check without teeth does not pass;
* *certificates*: proofs, replayed.

Strength follows from what was found: a re-checked refutation is S5 ∃; a replayed proof has the strength and scope that it
declares; instances alone are S2. A universal claim is settled true only by S4 or S5 with scope class or ∀.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from proofs_checks.claim import (
    Assumption,
    Certificate,
    Claim,
    Evidence,
    Mutant,
    Needed,
    Scope,
    Strength,
    Verdict,
    Witness,
)
from proofs_checks.recheck import recheck


class NotConfirmed(AssertionError):
    """The independent checker does not confirm a witness."""


@dataclass(frozen=True)
class Budget:
    """How many instances each part may look at."""

    name: str
    instances: int
    searches: int  # for refutations that are expected: dropped assumptions, mutants, attainment
    shrink: bool
    starts: int = 3  # searches for the smallest counterexample of a statement that fails
    shrink_mutants: bool = True  # a mutant is dead with any refutation; a small one is only nicer to read


BUDGETS = {
    "quick": Budget("quick", 80, 600, True, starts=2, shrink_mutants=False),
    "full": Budget("full", 1_500, 4_000, True),
    "deep": Budget("deep", 20_000, 20_000, True),
}


@dataclass
class Search:
    """What a search saw: how many instances, how many of them undecided or vacuous, how many attained the bound."""

    seen: int = 0
    undecided: int = 0
    vacuous: int = 0
    attained: int = 0
    found: Any = None
    evidence: Evidence | None = None


@dataclass
class Result:
    """The row of one claim in the ledger. JSON-ready through :meth:`row`."""

    id: str
    title: str
    source: str
    kind: str
    statement: str
    proof: str
    quantifier: str
    expected: str
    verdict: str = Verdict.NOT_RUN.value
    strength: str = Strength.STATED.badge
    scope: str = Scope.NONE.value
    settled: str = "no"
    instances: int = 0
    undecided: int = 0
    vacuous: int = 0
    assumptions: list[dict[str, Any]] = field(default_factory=list)
    attained: dict[str, Any] = field(default_factory=dict)
    mutants: dict[str, Any] = field(default_factory=lambda: {"tried": 0, "killed": 0, "rows": []})
    certificates: list[dict[str, Any]] = field(default_factory=list)
    witness: str | None = None
    counterexample: Witness | None = None
    note: str = ""
    error: str = ""
    depends_on: list[str] = field(default_factory=list)
    repairs: str = ""
    witnesses: dict[str, Witness] = field(default_factory=dict)
    seconds: float = 0.0

    @staticmethod
    def of(claim: Claim) -> Result:
        """The row of a claim that has not been checked yet."""
        return Result(
            claim.id,
            claim.title,
            str(claim.source),
            claim.kind,
            claim.statement,
            claim.proof,
            claim.quantifier,
            claim.expected.value,
            depends_on=list(claim.depends_on),
            repairs=claim.repairs,
        )

    def row(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def as_expected(self) -> bool:
        """Is the verdict the stated one, without errors, and is every mutant dead?"""
        survived = self.mutants["killed"] < self.mutants["tried"]
        return self.verdict == self.expected and not self.error and not survived


def search(
    strategy: SearchStrategy[Any],
    check: Callable[[Any], Evidence],
    wanted: Callable[[Evidence], bool],
    *,
    examples: int,
    seed: str,
    shrink: bool = True,
) -> Search:
    """Look for an instance whose evidence is ``wanted``; ``found`` is the smallest one that shrinking reached, or ``None``.

    The same seed gives the same search. Only instances of the generation phase are counted.
    """
    outcome = Search()
    counting = True

    def predicate(instance: Any) -> bool:
        nonlocal counting
        evidence = check(instance)
        hit = wanted(evidence)
        if counting:
            outcome.seen += 1
            outcome.undecided += evidence.verdict is Verdict.UNDECIDED
            outcome.vacuous += evidence.vacuous
            outcome.attained += evidence.margin is not None and evidence.margin == 0
            counting = not hit
        return hit

    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    options = settings(
        max_examples=max(1, examples),
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        outcome.found = find(strategy, predicate, settings=options, random=Random(seed))
    except NoSuchExample:
        return outcome
    outcome.evidence = check(outcome.found)
    return outcome


def smallest(
    strategy: SearchStrategy[Any],
    check: Callable[[Any], Evidence],
    wanted: Callable[[Evidence], bool],
    *,
    examples: int,
    seed: str,
    shrink: bool,
    starts: int = 3,
) -> Search:
    """A search that, once it has found something, looks again from other seeds and keeps the shortest witness.

    Shrinking is greedy and stops in local minima; a second start is the cheapest way out. Counts are those of the first.
    """
    first = search(strategy, check, wanted, examples=examples, seed=seed, shrink=shrink)
    if first.evidence is None or not shrink or first.evidence.witness is None:
        return first
    best, size = first, _length(first.evidence)
    for k in range(1, starts):
        other = search(strategy, check, wanted, examples=examples, seed=f"{seed}:{k}", shrink=True)
        if other.evidence is not None and _length(other.evidence) < size:
            best, size = other, _length(other.evidence)
    first.found, first.evidence = best.found, best.evidence
    return first


def _length(evidence: Evidence) -> int:
    return len(json.dumps(evidence.witness())) if evidence.witness is not None else 1 << 30


def fails(evidence: Evidence) -> bool:
    """Does this evidence refute?"""
    return evidence.verdict is Verdict.FAILS


def verify(
    claim: Claim, budget: Budget, seed: int | str = 0, progress: Callable[[str], None] = lambda part: None
) -> Result:
    """Check one claim; an exception inside its check becomes the ``error`` of its row."""
    result = Result.of(claim)
    start = time.perf_counter()
    try:
        progress("statement")
        _statement(claim, budget, seed, result)
        for assumption in claim.assumptions:
            progress(f"without {assumption.name}")
            result.assumptions.append(_assumption(claim, assumption, budget, seed, result))
        progress("attained")
        result.attained = _attained(claim, budget, seed, result)
        for mutant in claim.mutants:
            progress(f"mutant {mutant.name}")
            _mutant(claim, mutant, budget, seed, result)
        for certificate in claim.certificates:
            progress(f"certificate {certificate.name}")
            result.certificates.append(_replay(certificate))
        _grade(claim, result)
    except Exception as error:
        result.error = f"{type(error).__name__}: {error}"
        result.note = traceback.format_exc(limit=-4)
        result.verdict = Verdict.UNDECIDED.value
    result.seconds = round(time.perf_counter() - start, 3)
    return result


def _examples(number: int, claim: Claim) -> int:
    return max(5, int(number / claim.cost))


def _statement(claim: Claim, budget: Budget, seed: int | str, result: Result) -> None:
    """Universal: look for a refutation. Existential: look for an instance that holds."""
    universal = claim.quantifier == "for all"
    wanted = fails if universal else (lambda evidence: evidence.verdict is Verdict.HOLDS)
    effort = budget.searches if claim.expected is Verdict.FAILS else budget.instances  # a refutation ends the search
    outcome = smallest(
        _checked(claim),
        claim.check,
        wanted,
        examples=_examples(effort, claim),
        seed=f"{seed}:{claim.id}:statement",
        shrink=budget.shrink,
        starts=budget.starts,
    )
    result.instances, result.undecided, result.vacuous = outcome.seen, outcome.undecided, outcome.vacuous
    result.attained = {"count": outcome.attained, "found": outcome.attained > 0}
    if outcome.evidence is not None:
        result.verdict = (Verdict.FAILS if universal else Verdict.HOLDS).value
        result.note = outcome.evidence.note
        result.counterexample = _confirmed(claim, outcome.evidence, "counterexample", "", result)
    elif outcome.undecided == outcome.seen:
        result.verdict = Verdict.UNDECIDED.value
    else:
        result.verdict = (Verdict.HOLDS if universal else Verdict.UNDECIDED).value


def _checked(claim: Claim) -> SearchStrategy[Any]:
    """The claim's instances, each seen to satisfy every assumption (they should by construction: a violation is a bug)."""

    def satisfied(instance: Any) -> Any:
        broken = [a.name for a in claim.assumptions if not a.holds(instance)]
        if broken:
            raise AssertionError(f"the strategy of {claim.id} drew an instance that violates {broken}: {instance!r}")
        return instance

    return claim.instances.map(satisfied)


def _confirmed(claim: Claim, evidence: Evidence, role: str, variant: str, result: Result) -> Witness | None:
    """The witness of a piece of evidence, if the independent checker confirms it."""
    if evidence.witness is None:
        return None
    document = {**evidence.witness(), "claim": claim.id, "role": role, "variant": variant}
    outcome = recheck(document)
    if not outcome.confirmed:
        raise NotConfirmed(
            f"the independent checker does not confirm the {role} {variant} of {claim.id}: {outcome.explanation}"
        )
    result.witnesses[":".join(filter(None, (role, variant)))] = document
    return document


def _assumption(
    claim: Claim, assumption: Assumption, budget: Budget, seed: int | str, result: Result
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": assumption.name,
        "text": assumption.text,
        "needed": Needed.UNKNOWN.value,
        "instances": 0,
        "note": "",
    }
    strategy = claim.without.get(assumption.name)
    if strategy is None:
        return row
    outcome = search(
        strategy,
        claim.check,
        fails,
        examples=_examples(budget.searches, claim),
        seed=f"{seed}:{claim.id}:{assumption.name}",
        shrink=budget.shrink,
    )
    row["instances"] = outcome.seen
    if outcome.evidence is None:
        row["needed"] = Needed.NO.value if outcome.undecided < outcome.seen else Needed.UNKNOWN.value
        return row
    kept = [a.name for a in claim.assumptions if a is not assumption and not a.holds(outcome.found)]
    if assumption.holds(outcome.found) or kept:
        broken = [assumption.name] if assumption.holds(outcome.found) else kept
        raise AssertionError(
            f"{claim.id} without {assumption.name}: the refutation does not drop that assumption alone ({broken})"
        )
    row.update(needed=Needed.YES.value, note=outcome.evidence.note)
    row["witness"] = _confirmed(claim, outcome.evidence, "assumption", assumption.name, result) is not None
    return row


def _attained(claim: Claim, budget: Budget, seed: int | str, result: Result) -> dict[str, Any]:
    row = dict(result.attained)
    if claim.attained is None or row["found"]:
        return row
    outcome = search(
        claim.attained,
        claim.check,
        lambda evidence: evidence.margin is not None and evidence.margin == 0,
        examples=_examples(budget.searches, claim),
        seed=f"{seed}:{claim.id}:attained",
        shrink=budget.shrink,
    )
    row["found"] = outcome.evidence is not None
    row["count"] += int(row["found"])
    if outcome.evidence is not None and outcome.evidence.witness is not None:
        _confirmed(claim, outcome.evidence, "attained", "", result)
    return row


def _mutant(claim: Claim, mutant: Mutant, budget: Budget, seed: int | str, result: Result) -> None:
    def hunt(shrink: bool) -> Search:
        return search(
            mutant.instances if mutant.instances is not None else claim.instances,
            mutant.check,
            fails,
            examples=_examples(budget.searches, claim),
            seed=f"{seed}:{claim.id}:mutant:{mutant.name}",
            shrink=shrink,
        )

    outcome = hunt(budget.shrink and budget.shrink_mutants)
    if outcome.evidence is not None:
        try:
            _confirmed(claim, outcome.evidence, "mutant", mutant.name, result)
        except NotConfirmed:  # too large for the independent checker: balls too wide
            outcome = hunt(shrink=True)
            assert outcome.evidence is not None
            _confirmed(claim, outcome.evidence, "mutant", mutant.name, result)
    killed = outcome.evidence is not None
    note = outcome.evidence.note if outcome.evidence is not None else ""
    result.mutants["tried"] += 1
    result.mutants["killed"] += killed
    row = {"name": mutant.name, "text": mutant.text, "killed": killed, "instances": outcome.seen, "note": note}
    result.mutants["rows"].append(row)


def _replay(certificate: Certificate) -> dict[str, Any]:
    return {
        "name": certificate.name,
        "text": certificate.text,
        "strength": certificate.strength.badge,
        "scope": certificate.scope.value,
        "replayed": certificate.prove(),
    }


def _grade(claim: Claim, result: Result) -> None:
    """Strength, scope and settledness, computed from what was found."""
    universal = claim.quantifier == "for all"
    if result.verdict == Verdict.FAILS.value or (result.verdict == Verdict.HOLDS.value and not universal):
        exact = result.counterexample is not None
        result.strength = (Strength.EXACT_CERTIFICATE if exact else Strength.PROPERTY_TESTED).badge
        result.scope = Scope.EXISTS.value
        result.settled = ("false" if universal else "true") if exact else "no"
        return
    if result.verdict != Verdict.HOLDS.value:
        return
    proofs = [(Strength(int(c["strength"][1:])), Scope(c["scope"])) for c in result.certificates]
    best = max(proofs, key=lambda p: (p[0], list(Scope).index(p[1])), default=(Strength.PROPERTY_TESTED, claim.scope))
    if best[0] < Strength.PROPERTY_TESTED:
        best = (Strength.PROPERTY_TESTED, claim.scope)
    result.strength, result.scope = best[0].badge, best[1].value
    wide = best[1] in (Scope.CLASS, Scope.ALL)
    result.settled = "true" if best[0] >= Strength.SYMBOLIC and wide else "no"
