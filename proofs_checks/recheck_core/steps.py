"""Exact optimiser steps: the parameters after k steps of a named rule on the full batch.

Order of operations in one ``sgd`` step, with gradient g, momentum mu, rate eta (all elementwise):

    g <- g + grad_noise;  g <- clamp(g, -clip_value, clip_value)
    g <- g + weight_decay * theta + l1 * sign(theta)
    v <- mu v + g;  d <- g + mu v if nesterov else v
    theta <- theta - eta d;  theta <- clamp(theta, -weight_clip, weight_clip)

``adam`` and ``rmsprop`` are exact for one step from a zero state only: there mhat = g and sqrt(vhat) = |g|, or
sqrt(1 - alpha) |g| for rmsprop.  Their decay, too, is added to g, unless ``decoupled``: theta <- (1 - eta wd) theta.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from proofs_checks.recheck_core.forward import Forward, field_of
from proofs_checks.recheck_core.network import Network, check_int, check_keys, parse_numbers
from proofs_checks.recheck_core.numbers import (
    Field,
    Number,
    WitnessError,
    is_certainly_equal,
    parse_rational,
    rational_sqrt,
)

TRAINING_KEYS = ("steps", "rate", "rule", "velocity", "grad_noise", "unit_mask")

Gradient = Callable[[list[Number]], list[Number]]

_RULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # name: (required keys, optional keys)
    "sgd": (("name",), ("momentum", "nesterov", "weight_decay", "l1", "clip_value", "weight_clip")),
    "adam": (("name", "eps"), ("beta1", "beta2", "weight_decay", "decoupled")),
    "rmsprop": (("name", "alpha", "eps"), ("weight_decay",)),
}


def initial_theta(network: Network) -> list[Number]:
    """The parameters of the witness as numbers of the network's field."""
    field = field_of(network)
    return [field.number(value) for value in network.theta]


def gradient(network: Network, theta: Sequence[Number], mask: Mapping[int, Fraction] | None = None) -> list[Number]:
    """dL/dtheta [P] by first-order jets, with the mask on the activations of its units."""
    forward = Forward(network, theta, order=1, mask=mask)
    slopes = forward.loss(forward.trace()).gradient
    zero = forward.field.number(0)
    return [slopes.get(index, zero) for index in range(len(theta))]


def theta_after(network: Network, training: Mapping[str, Any], place: str) -> list[Number]:
    """theta [P] after ``training["steps"]`` steps of ``training["rule"]`` at rate ``training["rate"]``."""
    check_keys(dict(training), place, TRAINING_KEYS[:3], TRAINING_KEYS[3:])
    steps = check_int(training["steps"], f"{place}.steps", low=0)
    field, num_params = field_of(network), len(network.theta)
    rate = field.number(parse_rational(training["rate"], f"{place}.rate"))
    noise = _vector(training, "grad_noise", num_params, field, place)
    mask = _parse_mask(training.get("unit_mask") or {}, network, f"{place}.unit_mask")

    def noisy_gradient(theta: list[Number]) -> list[Number]:
        return [g + xi for g, xi in zip(gradient(network, theta, mask), noise, strict=True)]

    rule = _parse_rule(training["rule"], f"{place}.rule")
    theta = initial_theta(network)
    if rule["name"] == "sgd":
        velocity = _vector(training, "velocity", num_params, field, place)
        for _ in range(steps):
            theta, velocity = _sgd_step(theta, velocity, noisy_gradient(theta), rate, rule, field, f"{place}.rule")
        return theta
    if steps != 1 or training.get("velocity") is not None:
        text = f"{rule['name']} is exact for one step from a zero state only"
        raise WitnessError(f"{place}.steps", steps, text, "use steps = 1 without velocity, or the sgd rule")
    return _adaptive_step(theta, noisy_gradient(theta), rate, rule, field, f"{place}.rule")


def _parse_rule(raw: object, place: str) -> dict[str, Any]:
    name = raw.get("name") if isinstance(raw, dict) else None
    if not isinstance(name, str) or name not in _RULES:
        raise WitnessError(f"{place}.name", name, "unknown rule", f"use one of {', '.join(_RULES)}")
    rule = check_keys(raw, place, *_RULES[name])
    for flag in ("nesterov", "decoupled"):
        if not isinstance(rule.get(flag, False), bool):
            raise WitnessError(f"{place}.{flag}", rule[flag], "must be a boolean", "use true or false")
    return rule


def _parse_mask(raw: object, network: Network, place: str) -> dict[int, Fraction]:
    if not isinstance(raw, dict):
        raise WitnessError(place, raw, "must be a JSON object", 'use {"unit id": "factor"}')
    mask = {}
    for key, factor in raw.items():
        if not key.isdecimal() or int(key) >= network.num_units:
            raise WitnessError(place, key, "is not a unit id", f"use 0..{network.num_units - 1}")
        mask[int(key)] = parse_rational(factor, f"{place}.{key}")
    return mask


def _vector(training: Mapping[str, Any], key: str, length: int, field: Field, place: str) -> list[Number]:
    raw = training.get(key)
    values = [Fraction(0)] * length if raw is None else parse_numbers(raw, f"{place}.{key}", length)
    return [field.number(value) for value in values]


def _constant(rule: Mapping[str, Any], key: str, field: Field, place: str) -> Number:
    return field.number(parse_rational(rule.get(key, "0"), f"{place}.{key}"))


def _clamp(values: list[Number], rule: Mapping[str, Any], key: str, field: Field, place: str) -> list[Number]:
    if rule.get(key) is None:
        return values
    bound = _constant(rule, key, field, place)
    if field.sign(bound) < 0:
        raise WitnessError(f"{place}.{key}", rule[key], "must not be negative", "give a bound >= 0, or null")

    def clamp(value: Number) -> Number:
        if field.sign(value - bound) > 0:
            return bound
        return -bound if field.sign(value + bound) < 0 else value

    return [clamp(value) for value in values]


def _sgd_step(
    theta: list[Number],
    velocity: list[Number],
    slopes: list[Number],
    rate: Number,
    rule: Mapping[str, Any],
    field: Field,
    place: str,
) -> tuple[list[Number], list[Number]]:
    momentum, decay, l1 = (_constant(rule, key, field, place) for key in ("momentum", "weight_decay", "l1"))
    slopes = _clamp(slopes, rule, "clip_value", field, place)
    slopes = [g + decay * w for g, w in zip(slopes, theta, strict=True)]
    if not is_certainly_equal(l1, 0):  # sign(theta) may be open, and is not needed then
        slopes = [g + l1 * field.sign(w) for g, w in zip(slopes, theta, strict=True)]
    velocity = [momentum * v + g for v, g in zip(velocity, slopes, strict=True)]
    direction = velocity
    if rule.get("nesterov", False):
        direction = [g + momentum * v for g, v in zip(slopes, velocity, strict=True)]
    theta = [w - rate * d for w, d in zip(theta, direction, strict=True)]
    return _clamp(theta, rule, "weight_clip", field, place), velocity


def _adaptive_step(
    theta: list[Number], slopes: list[Number], rate: Number, rule: Mapping[str, Any], field: Field, place: str
) -> list[Number]:
    decay, eps = _constant(rule, "weight_decay", field, place), _constant(rule, "eps", field, place)
    if field.sign(eps) <= 0:
        raise WitnessError(
            f"{place}.eps", rule["eps"], "must be positive, or a zero gradient divides 0 by 0", "eps > 0"
        )
    if rule.get("decoupled", False):
        theta = [w - rate * decay * w for w in theta]
    else:
        slopes = [g + decay * w for g, w in zip(slopes, theta, strict=True)]
    scale = field.number(1 if rule["name"] == "adam" else _rms_scale(rule, place))
    moved = []
    for w, g in zip(theta, slopes, strict=True):
        magnitude = abs(g)
        moved.append(w - rate * field.divide(g, scale * magnitude + eps))
    return moved


def _rms_scale(rule: Mapping[str, Any], place: str) -> Fraction:
    root = rational_sqrt(1 - parse_rational(rule["alpha"], f"{place}.alpha"))
    if root is None or root == 0:
        text = "1 - alpha must be the square of a positive rational"
        raise WitnessError(f"{place}.alpha", rule["alpha"], text, 'for example alpha = "3/4" or "99/100"')
    return root
