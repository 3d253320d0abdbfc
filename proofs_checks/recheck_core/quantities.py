"""The quantities that a witness may speak of, each computed from the network alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from proofs_checks.recheck_core.effective_rank import EFFECTIVE_RANK_QUANTITIES
from proofs_checks.recheck_core.exact_rank import RankInterval, ball_rank, rational_rank
from proofs_checks.recheck_core.forward import NUDGE, Forward, Trace, field_of
from proofs_checks.recheck_core.gaussian import GAUSSIAN_QUANTITIES
from proofs_checks.recheck_core.inertia import epsilon_rank
from proofs_checks.recheck_core.jets import Jet
from proofs_checks.recheck_core.network import Network, check_int, parse_numbers
from proofs_checks.recheck_core.numbers import Number, WitnessError, parse_rational
from proofs_checks.recheck_core.smoothed_density import SMOOTHED_QUANTITIES


@dataclass
class Point:
    """A network at one parameter vector ``theta`` [P]; derivatives are computed once for each order, on request."""

    network: Network
    theta: list[Number]
    _traces: dict[int, Trace] = field(default_factory=dict)
    _losses: dict[int, Jet] = field(default_factory=dict)

    def trace(self, order: int = 0) -> Trace:
        if order not in self._traces:
            self._traces[order] = Forward(self.network, self.theta, order).trace()
        return self._traces[order]

    def loss(self, order: int) -> Jet:
        if order not in self._losses:
            self._losses[order] = Forward(self.network, self.theta, order).loss(self.trace(order))
        return self._losses[order]

    def index(self, raw: object, place: str) -> int:
        return check_int(raw, place, 0, len(self.theta) - 1)

    def vector(self, raw: object, place: str) -> list[Number]:
        number = field_of(self.network).number
        return [number(value) for value in parse_numbers(raw, place, len(self.theta))]


def constant_units(point: Point, names: tuple[str, ...] | None = None) -> list[int]:
    """Hidden units strictly inside one flat piece of their activation on every sample (of the named activations)."""
    network, trace, units = point.network, point.trace(), []
    number_field = field_of(network)
    for unit in network.hidden_units:
        activation = network.activation(unit)
        if not activation.flat or (names is not None and activation.name not in names):
            continue
        pieces = {activation.flat_piece(jet.value, number_field) for jet in trace.z[unit]}
        if len(pieces) == 1 and None not in pieces:  # one and the same piece, so one constant
            units.append(unit)
    return units


def _dead(point: Point) -> list[int]:
    return constant_units(point, ("relu",))


def _additive_bound(point: Point, units: list[int]) -> int:
    return len(point.theta) - sum(len(point.network.trainable_params(unit)) for unit in units)


def _union_bound(point: Point) -> int:
    union = {param for unit in _dead(point) for param in point.network.trainable_params(unit)}
    return len(point.theta) - len(union)


def _hessian_rank(point: Point) -> int | RankInterval:
    entries = point.loss(2).hessian
    return rational_rank(entries) if point.network.is_rational else ball_rank(entries)


def _epsilon_rank(point: Point, args: Mapping[str, Any], place: str) -> int:
    level = parse_rational(args["level"], f"{place}.level")
    if level < 0:
        raise WitnessError(f"{place}.level", args["level"], "a level must not be negative", "give a rational >= 0")
    return epsilon_rank(point.loss(2).hessian, len(point.theta), level, field_of(point.network))


def _unit_and_sample(point: Point, args: Mapping[str, Any], place: str, first: int) -> tuple[int, int]:
    network = point.network
    unit = check_int(args["unit"], f"{place}.unit", first, network.num_units - 1)
    return unit, check_int(args["sample"], f"{place}.sample", 0, len(network.x) - 1)


def _value(point: Point, args: Mapping[str, Any], place: str) -> Number:
    unit, sample = _unit_and_sample(point, args, place, 0)
    return point.trace().h[unit][sample].value


def _preactivation(point: Point, args: Mapping[str, Any], place: str) -> Number:
    unit, sample = _unit_and_sample(point, args, place, point.network.first_computed)
    return point.trace().z[unit][sample].value


def _adjoint(point: Point, args: Mapping[str, Any], place: str) -> Number:
    """d (sum of the sample losses) / d z: no 1/N, whatever the loss; z is the normalised one where there is one."""
    nudge = _unit_and_sample(point, args, place, point.network.first_computed)
    forward = Forward(point.network, point.theta, order=1, nudge=nudge)
    return forward.summed_loss(forward.trace()).gradient.get(NUDGE, 0)


def _gradient(point: Point, args: Mapping[str, Any], place: str) -> Number:
    return point.loss(1).gradient.get(point.index(args["index"], f"{place}.index"), 0)


def _gradient_form(point: Point, args: Mapping[str, Any], place: str) -> Number:
    coefficients = point.vector(args["coefficients"], f"{place}.coefficients")
    return sum((coefficients[i] * slope for i, slope in point.loss(1).gradient.items()), 0)


def _hessian(point: Point, args: Mapping[str, Any], place: str) -> Number:
    i, j = sorted(point.index(args[key], f"{place}.{key}") for key in "ij")
    return point.loss(2).hessian.get((i, j), 0)


def _form(point: Point, args: Mapping[str, Any], place: str, keys: str) -> Number:
    """u' H v; the quadratic form takes u = v."""
    u, v = (point.vector(args[key], f"{place}.{key}") for key in keys)
    total: Number = 0
    for (i, j), entry in point.loss(2).hessian.items():
        total = total + entry * (u[i] * v[i] if i == j else u[i] * v[j] + u[j] * v[i])
    return total


def _param(point: Point, args: Mapping[str, Any], place: str) -> Number:
    return point.theta[point.index(args["index"], f"{place}.index")]


def _param_form(point: Point, args: Mapping[str, Any], place: str) -> Number:
    coefficients = point.vector(args["coefficients"], f"{place}.coefficients")
    return sum((a * w for a, w in zip(coefficients, point.theta, strict=True)), 0)


Quantity = Callable[[Point, Mapping[str, Any], str], Number | RankInterval]

QUANTITIES: dict[str, tuple[tuple[str, ...], Quantity]] = {
    # name                  arguments                  computation
    "num_params": ((), lambda point, args, place: len(point.theta)),
    "hessian_rank": ((), lambda point, args, place: _hessian_rank(point)),
    "epsilon_rank": (("level",), _epsilon_rank),
    "dead_units": ((), lambda point, args, place: len(_dead(point))),
    "dead_unit_bound": ((), lambda point, args, place: _additive_bound(point, _dead(point))),
    "dead_unit_bound_union": ((), lambda point, args, place: _union_bound(point)),
    "constant_unit_bound": ((), lambda point, args, place: _additive_bound(point, constant_units(point))),
    "value": (("unit", "sample"), _value),
    "preactivation": (("unit", "sample"), _preactivation),
    "adjoint": (("unit", "sample"), _adjoint),
    "loss": ((), lambda point, args, place: point.loss(0).value),
    "gradient": (("index",), _gradient),
    "gradient_form": (("coefficients",), _gradient_form),
    "hessian": (("i", "j"), _hessian),
    "quadratic_form": (("v",), partial(_form, keys="vv")),
    "bilinear_form": (("u", "v"), partial(_form, keys="uv")),
    "param_after": (("index",), _param),
    "form_after": (("coefficients",), _param_form),
    **GAUSSIAN_QUANTITIES,
    **SMOOTHED_QUANTITIES,
    **EFFECTIVE_RANK_QUANTITIES,
}
"""Every quantity also takes ``net``, and the training keys of :mod:`~proofs_checks.recheck_core.steps`: then it is
evaluated at the parameters after training.  ``param_after`` and ``form_after`` require them."""
