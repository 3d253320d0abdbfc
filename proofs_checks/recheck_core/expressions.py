"""The EXPR object of a witness: a number, a quantity of a network, or arithmetic; and certain comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import reduce
from typing import Any, TypeAlias

from proofs_checks.recheck_core.exact_rank import RankInterval
from proofs_checks.recheck_core.network import Network, check_keys, check_list
from proofs_checks.recheck_core.numbers import Balls, Number, Undecided, WitnessError, match, parse_rational, show
from proofs_checks.recheck_core.quantities import QUANTITIES, Point
from proofs_checks.recheck_core.steps import TRAINING_KEYS, initial_theta, theta_after

Value: TypeAlias = Any  # Number | RankInterval

OPERATORS = ("==", "!=", "<", "<=", ">", ">=")

_ARITHMETIC = ("sum", "product", "max", "min")


class Evaluator:
    """Evaluates expressions at the current precision; each network is differentiated once for each parameter vector.

    >>> Evaluator({}).evaluate({"sum": ["1/2", {"abs": "-3"}]}, "left")
    Fraction(7, 2)
    """

    def __init__(self, networks: Mapping[str, Network]) -> None:
        self._networks = networks
        self._points: dict[tuple[str, str], Point] = {}

    def evaluate(self, expr: object, place: str) -> Value:
        """The number that the expression denotes, or the interval that a rank is proved to lie in."""
        if not isinstance(expr, dict):
            value = parse_rational(expr, place)
            return value.numerator if value.denominator == 1 else value
        if "quantity" in expr:
            return self._quantity(expr, place)
        if len(expr) != 1 or next(iter(expr)) not in (*_ARITHMETIC, "abs"):
            known = "quantity, abs, " + ", ".join(_ARITHMETIC)
            raise WitnessError(place, expr, "an expression object has one operation", f"use one of {known}")
        operation, argument = next(iter(expr.items()))
        if operation == "abs":
            return abs(self._number(argument, f"{place}.abs"))
        parts = check_list(argument, f"{place}.{operation}")
        if not parts:
            raise WitnessError(f"{place}.{operation}", parts, "needs a term", "give at least one")
        terms = [self._number(part, f"{place}.{operation}[{k}]") for k, part in enumerate(parts)]
        return reduce(lambda left, right: _combine(operation, *match(left, right)), terms)

    def _number(self, expr: object, place: str) -> Number:
        value = self.evaluate(expr, place)
        if isinstance(value, RankInterval):
            raise Undecided(f"the rank is only known to lie {value}, so arithmetic on it decides nothing")
        return value

    def _quantity(self, expr: Mapping[str, Any], place: str) -> Value:
        name = expr["quantity"]
        if not isinstance(name, str) or name not in QUANTITIES:
            raise WitnessError(f"{place}.quantity", name, "unknown quantity", f"use one of {', '.join(QUANTITIES)}")
        arguments, compute = QUANTITIES[name]
        required = ("quantity", *arguments, *(TRAINING_KEYS[:3] if name.endswith("_after") else ()))
        check_keys(dict(expr), place, required, ("net", *TRAINING_KEYS))
        return compute(self._point(expr, place), expr, place)

    def _point(self, expr: Mapping[str, Any], place: str) -> Point:
        net = expr.get("net", "net")
        if not isinstance(net, str) or net not in self._networks:
            known = ", ".join(self._networks)
            raise WitnessError(f"{place}.net", net, "no such network in the witness", f"use one of {known}")
        training = {key: expr[key] for key in TRAINING_KEYS if key in expr}
        key = (net, json.dumps(training, sort_keys=True))
        if key not in self._points:
            network = self._networks[net]
            theta = theta_after(network, training, place) if training else initial_theta(network)
            self._points[key] = Point(network, theta)
        return self._points[key]


def _combine(operation: str, left: Number, right: Number) -> Number:
    if operation == "sum":
        return left + right
    if operation == "product":
        return left * right
    left_is_larger = Balls().sign(left - right) >= 0  # the sign of an exact number is as good as that of a ball
    return left if left_is_larger == (operation == "max") else right


def decide(left: Value, op: str, right: Value) -> bool | None:
    """Whether ``left op right``, or None when the enclosures leave it open.

    >>> decide(6, ">", 5), decide(RankInterval(26, 32), ">=", 26), decide(RankInterval(26, 32), "==", 32)
    (True, True, None)
    """
    if op in (">", ">="):
        return decide(right, op.replace(">", "<"), left)
    if op == "<":
        return True if _surely(left, "<", right) else False if _surely(right, "<=", left) else None
    if op == "<=":
        return True if _surely(left, "<=", right) else False if _surely(right, "<", left) else None
    different = _surely(left, "<", right) or _surely(right, "<", left)
    equal = _surely(left, "<=", right) and _surely(right, "<=", left)
    if not (different or equal):
        return None
    return equal if op == "==" else different


def _surely(left: Value, op: str, right: Value) -> bool:
    """Whether every member of ``left`` is in relation to every member of ``right``."""
    top = left.upper if isinstance(left, RankInterval) else left
    bottom = right.lower if isinstance(right, RankInterval) else right
    top, bottom = match(top, bottom)
    return bool(top < bottom if op == "<" else top <= bottom)


def describe(value: Value) -> str:
    """Text of a value for a report.

    >>> describe(RankInterval(3, 4)), describe(7)
    ('between 3 and 4', '7')
    """
    return str(value) if isinstance(value, RankInterval) else show(value)


def label(expr: object) -> str:
    """Short text of an expression.

    >>> label({"quantity": "value", "unit": 3, "sample": 0}), label({"sum": ["1", "2"]})
    ('value(unit=3, sample=0)', 'sum(1, 2)')
    """
    if not isinstance(expr, dict):
        return str(expr)
    if "quantity" in expr:
        shown = [f"{key}={value}" for key, value in expr.items() if isinstance(value, (int, str)) and key != "quantity"]
        return f"{expr['quantity']}({', '.join(shown)})" if shown else str(expr["quantity"])
    if len(expr) != 1:
        return str(expr)
    operation, argument = next(iter(expr.items()))
    parts = argument if isinstance(argument, list) else [argument]
    return f"{operation}({', '.join(label(part) for part in parts)})"
