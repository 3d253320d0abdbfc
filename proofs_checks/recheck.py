"""Re-check witness files (format ``lop-witness/1``) in exact arithmetic, independently of whatever wrote them.

A witness is a JSON object that carries concrete networks (rational weights and data) and assertions about them, such
as "the Hessian has rank greater than the printed bound".  It is *confirmed* when every assertion is proved true:

* on networks whose quantities are rational, by ``fractions`` alone;
* with smooth activations, cross-entropy or normalisation, by ball arithmetic (``flint.arb``), the precision doubled
  up to 4096 bits while an answer is open.  A rank is then an interval: proven pivots below, non-zero rows above.

The derivatives come from second-order forward jets, a slow route that shares neither formula nor code with the
library.  Imports: the standard library and, for balls, ``flint``; neither torch nor the prover.  Nothing stored in the
file besides networks and assertions influences the answer.

    python -m proofs_checks.recheck FILE...     exit 0: all confirmed, 1: some not, 2: some not readable as a witness
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proofs_checks.recheck_core.expressions import OPERATORS, Evaluator, decide, describe, label
from proofs_checks.recheck_core.network import Network, check_keys, check_list, parse_network
from proofs_checks.recheck_core.numbers import Undecided, WitnessError

__all__ = ["AssertionResult", "FORMAT", "Outcome", "WitnessError", "main", "recheck", "recheck_file"]

FORMAT = "lop-witness/1"
ROLES = ("counterexample", "assumption", "mutant", "attained")
MAX_BITS = 4096

_TEXT_KEYS = ("claim", "variant", "statement")


@dataclass(frozen=True)
class AssertionResult:
    """One assertion: ``holds`` is True (proved), False (refuted) or None (open); ``text`` shows the values."""

    holds: bool | None
    text: str


@dataclass(frozen=True)
class Outcome:
    """Whether every assertion of a witness is proved, with an explanation and the assertions one by one."""

    confirmed: bool
    explanation: str
    assertions: list[AssertionResult]


def recheck(witness: Mapping[str, Any]) -> Outcome:
    """Prove or refute the assertions of a witness; a malformed one raises :class:`WitnessError`.

    >>> net = {"num_inputs": 1, "has_constant": True, "activation": ["identity"], "outputs": [2],
    ...        "edges": [[0, 2, 0], [1, 2, 1]], "theta": ["1/2", "1"], "x": [["1"], ["3"]], "y": [["0"], ["1"]],
    ...        "loss": "mse_sum"}
    >>> witness = {"format": "lop-witness/1", "claim": "example", "role": "attained", "variant": "",
    ...            "statement": "two samples, two parameters: full rank", "networks": {"net": net},
    ...            "assertions": [{"left": {"quantity": "hessian_rank"}, "op": "==", "right": "2"}]}
    >>> recheck(witness).explanation
    'confirmed: hessian_rank [2] == 2'
    """
    networks, assertions = _parse(witness)
    results = _check_all(networks, assertions)
    failed = [result for result in results if result.holds is not True]
    verdict = "not confirmed" if failed else "confirmed"
    return Outcome(not failed, f"{verdict}: " + "; ".join(result.text for result in failed or results), results)


def recheck_file(path: str | Path) -> Outcome:
    """:func:`recheck` of a JSON file; unreadable or invalid JSON raises :class:`WitnessError` too."""
    try:
        witness = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise WitnessError("file", str(path), error.strerror or str(error), "give a readable file") from error
    except (ValueError, RecursionError) as error:
        raise WitnessError("file", str(path), f"not valid JSON ({error})", "write the witness again") from error
    try:
        return recheck(witness)
    except RecursionError as error:
        raise WitnessError("file", str(path), "an expression is nested too deeply", "use flat sums") from error


def _parse(witness: object) -> tuple[dict[str, Network], list[dict[str, Any]]]:
    known = tuple(witness) if isinstance(witness, Mapping) else ()  # further keys are notes: they prove nothing
    data = check_keys(witness, "witness", ("format", "claim", "role", "networks", "assertions"), known)
    if data["format"] != FORMAT:
        raise WitnessError("format", data["format"], "unknown witness format", f'use "{FORMAT}"')
    if data["role"] not in ROLES:
        raise WitnessError("role", data["role"], "unknown role", f"use one of {', '.join(ROLES)}")
    for key in _TEXT_KEYS:
        if not isinstance(data.get(key, ""), str):
            raise WitnessError(key, data[key], "must be text", "use a string")
    if not isinstance(data["networks"], dict) or not data["networks"]:
        raise WitnessError("networks", data["networks"], "needs a network", 'use {"net": {...}}')
    networks = {name: parse_network(raw, f"networks.{name}") for name, raw in data["networks"].items()}
    assertions = check_list(data["assertions"], "assertions")
    if not assertions:
        raise WitnessError("assertions", assertions, "a witness asserts something", "give at least one assertion")
    for k, assertion in enumerate(assertions):
        check_keys(assertion, f"assertions[{k}]", ("left", "op", "right"))
        if assertion["op"] not in OPERATORS:
            raise WitnessError(f"assertions[{k}].op", assertion["op"], "unknown operator", f"use {' '.join(OPERATORS)}")
    return networks, assertions


def _check_all(networks: dict[str, Network], assertions: list[dict[str, Any]]) -> list[AssertionResult]:
    """All assertions at the starting precision, the open ones again at twice the bits until MAX_BITS."""
    exact = all(network.is_rational for network in networks.values())
    bits = max(network.bits for network in networks.values())
    results: list[AssertionResult] = []
    while True:
        with nullcontext() if exact else _precision(bits):
            evaluator = Evaluator(networks)
            results = [
                results[k] if results and results[k].holds is not None else _check(evaluator, assertion, k)
                for k, assertion in enumerate(assertions)
            ]
        if exact or bits >= MAX_BITS or all(result.holds is not None for result in results):
            return results
        bits = min(2 * bits, MAX_BITS)


def _precision(bits: int) -> AbstractContextManager[object]:
    import flint

    context: AbstractContextManager[object] = flint.ctx.workprec(bits)
    return context


def _check(evaluator: Evaluator, assertion: dict[str, Any], k: int) -> AssertionResult:
    op = assertion["op"]
    names = {side: label(assertion[side]) for side in ("left", "right")}
    try:
        values = {side: evaluator.evaluate(assertion[side], f"assertions[{k}].{side}") for side in names}
    except Undecided as reason:
        return AssertionResult(None, f"{names['left']} {op} {names['right']} is not decided: {reason}")
    holds = decide(values["left"], op, values["right"])
    sides = [
        names[side] if names[side] == describe(values[side]) else f"{names[side]} [{describe(values[side])}]"
        for side in ("left", "right")
    ]
    remark = {True: "", False: " is false", None: " is not decided"}[holds]
    return AssertionResult(holds, f"{sides[0]} {op} {sides[1]}{remark}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: one line per file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m proofs_checks.recheck", description="Re-check witness files.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="witness file, format lop-witness/1")
    status = 0
    for path in parser.parse_args(arguments).files:
        try:
            outcome = recheck_file(path)
        except WitnessError as error:
            print(f"{path}: unreadable: {error}", file=sys.stderr)
            status = 2
            continue
        print(f"{path}: {outcome.explanation}")
        status = max(status, 0 if outcome.confirmed else 1)
    return status


if __name__ == "__main__":
    sys.exit(main())
