"""What a claim is, and what counts as evidence for or against it.

A :class:`Claim` is one numbered statement of one version of one paper (or a repair of it), as an object: it states itself,
generates instances that satisfy its assumptions by construction, checks one instance, says what to try when an assumption
is dropped, and lists weakened or sharpened statements (mutants) that its own check must be able to refute.

Verdicts and strengths are computed by ``check.py``; nothing here is a verdict typed by hand. ``expected`` is what the
ledger states, so that ``lop verify`` can say when the world has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from hypothesis.strategies import SearchStrategy


class Verdict(StrEnum):
    """Outcome of a check. ``UNDECIDED`` is an outcome: a rank interval that does not close is neither a pass nor a fail."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"


class Strength(IntEnum):
    """How strong the evidence is, from transcribed only to an exact certificate."""

    STATED = 0
    EMPIRICAL = 1
    PROPERTY_TESTED = 2
    ENCLOSURE = 3
    SYMBOLIC = 4
    EXACT_CERTIFICATE = 5

    @property
    def badge(self) -> str:
        """``S0`` to ``S5``."""
        return f"S{int(self)}"


class Scope(StrEnum):
    """For which instances the evidence speaks."""

    NONE = "–"
    EXISTS = "∃"
    LIST = "list"
    BOX = "box"
    CLASS = "class"
    ALL = "∀"


class Needed(StrEnum):
    """Is an assumption needed? YES has a witness without it; NO was searched without it and nothing was found."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


PAPERS = {
    "2510.00304": "Barriers for Learning in an Evolving World",
    "2509.22335": "Spectral Collapse Drives Loss of Plasticity",
    "2306.13812": "Maintaining Plasticity in Deep Continual Learning",
}


@dataclass(frozen=True)
class Source:
    """Where a statement stands: arXiv id, version and label; ``note`` if the text was reconstructed or is ours."""

    arxiv: str
    version: str
    label: str
    note: str = ""

    def __str__(self) -> str:
        return f"arXiv:{self.arxiv} {self.version}, {self.label}" + (f" ({self.note})" if self.note else "")


Witness = dict[str, Any]  # the JSON document that proofs_checks/recheck.py re-checks


@dataclass(frozen=True)
class Evidence:
    """What one instance says. ``margin`` = predicted − observed where that makes sense: 0 means the bound is attained.

    ``vacuous``: the statement is trivial for this instance (a bound that counts nothing), so it says little for the claim.
    ``witness`` builds the re-checkable document of this evidence; it is called only for what is reported.
    """

    verdict: Verdict
    observed: Any = None
    predicted: Any = None
    margin: Any = None
    note: str = ""
    witness: Callable[[], Witness] | None = None
    vacuous: bool = False


Check = Callable[[Any], Evidence]


@dataclass(frozen=True)
class Assumption:
    """A named predicate on instances. ``text`` is the sentence a reader sees."""

    name: str
    text: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Mutant:
    """A weakened or sharpened statement that must be refuted: it shows that the check has teeth.

    ``instances`` defaults to the claim's own strategy.
    """

    name: str
    text: str
    check: Check
    instances: SearchStrategy[Any] | None = None


@dataclass(frozen=True)
class Certificate:
    """A proof that is replayed: ``prove()`` returns a sentence saying what was derived, or raises."""

    name: str
    text: str
    strength: Strength
    scope: Scope
    prove: Callable[[], str]


def require(condition: bool, step: str) -> None:
    """Raise unless a step of a symbolic proof is as stated; for use in ``prove``.

    >>> require(1 + 1 == 3, "the sum")
    Traceback (most recent call last):
    ...
    AssertionError: the symbolic proof breaks at: the sum
    """
    if not condition:
        raise AssertionError(f"the symbolic proof breaks at: {step}")


@dataclass(frozen=True)
class Claim:
    """One statement. See the module docstring; ``cost`` scales the number of instances (2 = half as many)."""

    id: str
    title: str
    source: Source
    kind: str  # definition, lemma, theorem, remark, folklore, ours
    statement: str  # LaTeX, in our words
    quantifier: str  # "for all" or "exists"
    assumptions: tuple[Assumption, ...]
    instances: SearchStrategy[Any]
    check: Check
    expected: Verdict
    proof: str = ""  # why it holds, or why it fails
    without: Mapping[str, SearchStrategy[Any]] = field(default_factory=dict)
    attained: SearchStrategy[Any] | None = None
    mutants: tuple[Mutant, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    depends_on: tuple[str, ...] = ()
    repairs: str = ""  # the id of the claim that this one corrects
    scope: Scope = Scope.CLASS  # the family that ``instances`` ranges over
    cost: float = 1.0

    def __post_init__(self) -> None:
        names = [a.name for a in self.assumptions]
        unknown = set(self.without) - set(names)
        if unknown:
            raise ValueError(
                f"{self.id}: `without` names {sorted(unknown)}, which are not among its assumptions {names}"
            )
        if self.quantifier not in ("for all", "exists"):
            raise ValueError(f"{self.id}: quantifier {self.quantifier!r}; write 'for all' or 'exists'")
