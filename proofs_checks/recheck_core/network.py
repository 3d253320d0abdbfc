"""The NETWORK object of a witness: a directed acyclic graph of units with its parameters, data and loss, validated.

Units 0..I-1 are the inputs, unit I is the constant one if there is one, and the computed units follow in topological
order.  ``param`` of an edge is an index into theta (a repeated index is a tied weight), or None for a fixed weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from proofs_checks.recheck_core.activations import Activation, make_activation
from proofs_checks.recheck_core.numbers import WitnessError, parse_rational

LOSSES = ("mse_sum", "mse", "cross_entropy")

_REQUIRED = ("num_inputs", "has_constant", "activation", "outputs", "edges", "theta", "x", "y", "loss")
_OPTIONAL = ("normalization", "bits")


@dataclass(frozen=True)
class Edge:
    """An edge with a trainable parameter, or with the fixed ``weight`` when ``param`` is None."""

    source: int
    target: int
    param: int | None
    weight: Fraction


@dataclass(frozen=True)
class Normalization:
    """Pre-activations normalised without affine parameters: ``layernorm`` per sample, ``batchnorm`` per unit."""

    kind: str
    units: tuple[int, ...]
    eps: Fraction


@dataclass(frozen=True)
class Network:
    """A validated network; ``x`` is [N][I], ``y`` is [N][O] rationals or [N] classes, ``theta`` is [P]."""

    place: str
    num_inputs: int
    has_constant: bool
    activations: tuple[Activation, ...]
    outputs: tuple[int, ...]
    edges: tuple[Edge, ...]
    theta: tuple[Fraction, ...]
    x: tuple[tuple[Fraction, ...], ...]
    y: tuple[Any, ...]
    loss: str
    normalizations: tuple[Normalization, ...]
    bits: int

    @property
    def first_computed(self) -> int:
        return self.num_inputs + self.has_constant

    @property
    def num_units(self) -> int:
        return self.first_computed + len(self.activations)

    @cached_property
    def incoming(self) -> dict[int, list[Edge]]:
        """Incoming edges of every unit."""
        edges: dict[int, list[Edge]] = {unit: [] for unit in range(self.num_units)}
        for edge in self.edges:
            edges[edge.target].append(edge)
        return edges

    @cached_property
    def hidden_units(self) -> tuple[int, ...]:
        """Computed units that are not outputs."""
        return tuple(unit for unit in range(self.first_computed, self.num_units) if unit not in self.outputs)

    @property
    def is_rational(self) -> bool:
        """Whether every quantity of the network is a rational number."""
        rational = all(activation.rational for activation in self.activations)
        return rational and self.loss != "cross_entropy" and not self.normalizations

    def activation(self, unit: int) -> Activation:
        return self.activations[unit - self.first_computed]

    def trainable_params(self, unit: int) -> list[int]:
        """Parameter indices of the trainable edges at a unit, incoming first, bias included, ties repeated."""
        touching = [edge for edge in self.edges if unit in (edge.source, edge.target)]
        return [edge.param for edge in touching if edge.param is not None]


def parse_network(raw: object, place: str) -> Network:
    """Validate a NETWORK object and convert its numbers to rationals.

    >>> parse_network({"num_inputs": 1}, "net")
    Traceback (most recent call last):
    ...
    proofs_checks.recheck_core.numbers.WitnessError: net.has_constant = None: required key is missing; fix: add it
    """
    data = check_keys(raw, place, _REQUIRED, _OPTIONAL)
    num_inputs = check_int(data["num_inputs"], f"{place}.num_inputs", low=0)
    if not isinstance(data["has_constant"], bool):
        raise WitnessError(f"{place}.has_constant", data["has_constant"], "must be a boolean", "use true or false")
    names = check_list(data["activation"], f"{place}.activation")
    first = num_inputs + data["has_constant"]
    units = range(first, first + len(names))
    theta = parse_numbers(data["theta"], f"{place}.theta")
    outputs = parse_units(data["outputs"], f"{place}.outputs", units)
    edges = _parse_edges(data["edges"], f"{place}.edges", first, units.stop, len(theta))
    unused = set(range(len(theta))) - {edge.param for edge in edges}
    if unused:
        rule = f"parameters {sorted(unused)} label no edge"
        raise WitnessError(f"{place}.theta", data["theta"], rule, "drop them: they would inflate P")
    x = [parse_numbers(row, f"{place}.x[{n}]", num_inputs) for n, row in enumerate(_rows(data["x"], f"{place}.x"))]
    if data["loss"] not in LOSSES:
        raise WitnessError(f"{place}.loss", data["loss"], "unknown loss", f"use one of {', '.join(LOSSES)}")
    return Network(
        place=place,
        num_inputs=num_inputs,
        has_constant=data["has_constant"],
        activations=tuple(make_activation(name, f"{place}.activation[{k}]") for k, name in enumerate(names)),
        outputs=outputs,
        edges=edges,
        theta=theta,
        x=tuple(x),
        y=_parse_targets(data["y"], f"{place}.y", data["loss"], len(x), len(outputs)),
        loss=data["loss"],
        normalizations=_parse_normalizations(data.get("normalization") or [], place, units, edges),
        bits=check_int(data.get("bits", 256), f"{place}.bits", low=32, high=4096),
    )


def check_keys(raw: object, place: str, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON object itself, once it has every required key and no unknown one.

    >>> check_keys({"a": 1}, "top", ["a"])
    {'a': 1}
    """
    if not isinstance(raw, dict):
        raise WitnessError(place, raw, "must be a JSON object", f"give an object with keys {', '.join(required)}")
    for key in required:
        if key not in raw:
            raise WitnessError(f"{place}.{key}", None, "required key is missing", "add it")
    for key in raw:
        if key not in required and key not in optional:
            known = ", ".join([*required, *optional])
            raise WitnessError(f"{place}.{key}", raw[key], "unknown key", f"use only {known}")
    return raw


def check_int(raw: object, place: str, low: int, high: int | None = None) -> int:
    """A JSON integer in [low, high].

    >>> check_int(3, "steps", low=0)
    3
    """
    top = "" if high is None else f", at most {high}"
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < low or (high is not None and raw > high):
        raise WitnessError(place, raw, f"must be an integer, at least {low}{top}", "correct the index or the count")
    return raw


def check_list(raw: object, place: str, length: int | None = None) -> list[Any]:
    """A JSON list, of the given length if one is given.

    >>> check_list([1, 2], "outputs", 2)
    [1, 2]
    """
    if not isinstance(raw, list):
        raise WitnessError(place, raw, "must be a JSON list", "use [...]")
    if length is not None and len(raw) != length:
        raise WitnessError(place, raw, f"has {len(raw)} entries, needs {length}", "give one entry for each")
    return raw


def parse_numbers(raw: object, place: str, length: int | None = None) -> tuple[Fraction, ...]:
    """A list of rational numbers.

    >>> parse_numbers(["1/2", "3"], "theta")
    (Fraction(1, 2), Fraction(3, 1))
    """
    return tuple(parse_rational(text, f"{place}[{k}]") for k, text in enumerate(check_list(raw, place, length)))


def parse_units(raw: object, place: str, units: range) -> tuple[int, ...]:
    """A non-empty list of distinct unit ids in ``units``.

    >>> parse_units([4, 3], "outputs", range(2, 5))
    (4, 3)
    """
    ids = [
        check_int(unit, f"{place}[{k}]", units.start, units.stop - 1) for k, unit in enumerate(check_list(raw, place))
    ]
    if not ids or len(set(ids)) != len(ids):
        raise WitnessError(place, raw, "must hold distinct units, at least one", "name each unit once")
    return tuple(ids)


def _rows(raw: object, place: str) -> list[Any]:
    rows = check_list(raw, place)
    if not rows:
        raise WitnessError(place, raw, "the batch needs a sample", "give N >= 1 rows")
    return rows


def _parse_edges(raw: object, place: str, first: int, num_units: int, num_params: int) -> tuple[Edge, ...]:
    edges: dict[tuple[int, int], Edge] = {}
    for k, row in enumerate(check_list(raw, place)):
        spot = f"{place}[{k}]"
        if not isinstance(row, list) or len(row) not in (3, 4):
            raise WitnessError(
                spot, row, "an edge is [source, target, param] or [source, target, -1, weight]", "use it"
            )
        target = check_int(row[1], f"{spot} target", first, num_units - 1)
        source = check_int(row[0], f"{spot} source", 0, target - 1)  # source < target makes the graph acyclic
        param = check_int(row[2], f"{spot} param", -1, num_params - 1)
        if (param == -1) != (len(row) == 4):
            raise WitnessError(
                spot, row, "a fixed weight goes with param -1, and only with it", "add or drop the weight"
            )
        if (source, target) in edges:
            raise WitnessError(spot, row, "two edges join the same units", "merge them into one edge")
        fixed = parse_rational(row[3], f"{spot} weight") if param == -1 else Fraction(0)
        edges[source, target] = Edge(source, target, None if param == -1 else param, fixed)
    return tuple(edges.values())


def _parse_targets(raw: object, place: str, loss: str, num_samples: int, num_outputs: int) -> tuple[Any, ...]:
    rows = check_list(raw, place, num_samples)
    if loss == "cross_entropy":
        return tuple(check_int(label, f"{place}[{n}]", 0, num_outputs - 1) for n, label in enumerate(rows))
    return tuple(parse_numbers(row, f"{place}[{n}]", num_outputs) for n, row in enumerate(rows))


def _parse_normalizations(raw: object, place: str, units: range, edges: tuple[Edge, ...]) -> tuple[Normalization, ...]:
    groups: list[Normalization] = []
    seen: set[int] = set()
    for k, item in enumerate(check_list(raw, f"{place}.normalization")):
        spot = f"{place}.normalization[{k}]"
        data = check_keys(item, spot, ("kind", "units", "eps"))
        if data["kind"] not in ("layernorm", "batchnorm"):
            raise WitnessError(f"{spot}.kind", data["kind"], "unknown normalization", "use layernorm or batchnorm")
        group = Normalization(data["kind"], parse_units(data["units"], f"{spot}.units", units), _eps(data["eps"], spot))
        if seen & set(group.units):
            raise WitnessError(f"{spot}.units", data["units"], "a unit is normalised twice", "list each unit once")
        sources = [edge.source for edge in edges if edge.target in group.units]
        if group.kind == "layernorm" and max(sources, default=-1) >= min(group.units):
            rule = "the units of a layernorm are computed together, so all their sources must come before the first"
            raise WitnessError(f"{spot}.units", data["units"], rule, "renumber the units layer by layer")
        seen |= set(group.units)
        groups.append(group)
    return tuple(groups)


def _eps(raw: object, spot: str) -> Fraction:
    eps = parse_rational(raw, f"{spot}.eps")
    if eps < 0:
        raise WitnessError(f"{spot}.eps", raw, "must not be negative", 'give eps >= 0, for example "1/100000"')
    return eps
