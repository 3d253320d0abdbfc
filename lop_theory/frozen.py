r"""Frozen units: dead and saturated units, the frozen manifold, and certificates that they stay frozen.

A unit is *saturated* on a sample if its pre-activation lies strictly inside a piece on which its activation is constant
(f' = f'' = 0 exactly there), and *dead* if that constant is 0. A unit saturated on every sample gets no gradient on its
incoming parameters, so a gradient step stays on :func:`frozen_manifold`, where these parameters are fixed.

*Barriers* (arXiv 2510.00304, Theorem 2.1(1)) assumes saturation along the whole trajectory. As a statement about a
manifold it is false without more: learning upstream can revive a unit. :func:`persistence_certificate` looks for one of
four sufficient conditions that can be read off θ (``Kind``). *Spectral Collapse* (arXiv 2509.22335, Lemma 6.3) gives
the step from one task to the next: :func:`margin_persists`.

Everything is decided in exact arithmetic (floats are dyadic rationals), except where a name or ``exact=False`` says so.
A smooth unit (tanh, sigmoid) is never saturated: f' > 0 however large z is (``numerically_dead_units``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import flint
import numpy as np
import torch
from flint import arb, fmpq

from lop_theory.activations import Activation, get_activation
from lop_theory.arithmetic import BALLS, RATIONALS, Array, rational_array, to_fmpq
from lop_theory.dag import Dag
from lop_theory.forward import evaluate, run_forward
from lop_theory.manifolds import AffineSubspace, as_vector

Saturation = Fraction | tuple[Fraction, ...]

_BITS = 256  # working precision of the enclosures; it decides how often they decide, never whether they are right


# -- which units are saturated -----------------------------------------------------------------------------------------


def saturated_units(dag: Dag, theta: Any, x: Any, exact: bool = True) -> dict[int, Saturation]:
    """Units strictly inside a flat piece on every sample of x [N, I], with the constant they hold.

    The value is one Fraction, or one per sample if the piece differs. ``exact=True`` proves it: over Q if all
    activations are piecewise linear or polynomial, else by ball arithmetic, which raises
    :class:`~lop_theory.activations.KinkError` if some z is too close to a breakpoint to be decided. ``exact=False``
    compares *rounded* pre-activations of tensors θ and x: fast, no proof.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1], "hard_tanh")
    >>> saturated_units(net, [1, 1, 5, -5, 1, 1, 0], [[1], [2]])
    {2: Fraction(1, 1), 3: Fraction(-1, 1)}
    """
    z = _exact_preactivations(dag, theta, x) if exact else _float_preactivations(dag, theta, x)
    found: dict[int, Saturation] = {}
    for v, column in z.items():
        values = _flat_values(get_activation(dag.activation(v)), column)
        if values is not None:
            found[v] = values[0] if len(set(values)) == 1 else tuple(values)
    return found


def dead_units(dag: Dag, theta: Any, x: Any, exact: bool = True) -> tuple[int, ...]:
    """Units strictly inside a flat piece with value 0 on every sample of x [N, I]; see :func:`saturated_units`.

    With ``exact=False`` they are *numerically dead*: dead in rounded arithmetic.

    >>> from lop_theory.architectures import mlp
    >>> dead_units(mlp([1, 2, 1]), [1, 1, -3, 0, 1, 1, 0], [[1], [2]])            # z = x − 3 and z = x
    (2,)
    """
    return tuple(v for v, value in saturated_units(dag, theta, x, exact).items() if value == 0)


def numerically_dead_units(dag: Dag, theta: torch.Tensor, x: torch.Tensor, tol: float = 0.0) -> tuple[int, ...]:
    """Units with |f'(z)| ≤ tol on every sample, in the floating point arithmetic of θ and x. Proves nothing about f'.

    Smooth units pass although they are not dead: in float64 tanh'(z) rounds to 0 (or far below any tolerance) while
    tanh'(z) > 0 (Barriers says "≈ 0", which is not 0).

    >>> from lop_theory.architectures import mlp
    >>> net, far = mlp([1, 1, 1], "tanh"), torch.tensor([1.0, 500.0, 1.0, 0.0], dtype=torch.float64)
    >>> x = torch.tensor([[1.0]], dtype=torch.float64)
    >>> numerically_dead_units(net, far, x), dead_units(net, far, x)
    ((2,), ())
    """
    if not tol >= 0:
        raise ValueError(f"tol {tol} is not a bound for |f'|; give a number ≥ 0")
    z = evaluate(dag, theta, x).z
    slopes = {v: get_activation(dag.activation(v)).tensor[1](z[:, v]) for v in range(dag.first_computed, dag.num_units)}
    return tuple(v for v, slope in slopes.items() if bool((slope.abs() <= tol).all()))


def frozen_manifold(dag: Dag, theta: Any, units: Iterable[int]) -> AffineSubspace:
    """M_F = {θ' : the incoming parameters of the units are those of θ} (Barriers, Theorem 2.1(1)).

    Raises ``ValueError`` if a parameter is shared with an edge into another unit: freezing these units does not fix it.

    >>> from lop_theory.architectures import mlp
    >>> frozen_manifold(mlp([1, 2, 1]), [1, 2, -3, -4, 1, 1, 0], [2]).dim
    5
    """
    units = _computed(dag, units)
    theta = as_vector(theta, dag.num_params)
    shared = _shared_parameters(dag, units)
    if len(shared):
        raise ValueError(
            f"parameters {shared[:6].tolist()} are tied to edges into units other than {units}; they are not frozen "
            "with these units; name all units that use them"
        )
    params = dag.params_of(np.flatnonzero(np.isin(dag.target, units))).tolist()
    return AffineSubspace.from_fixed_coordinates(dag.num_params, params, [theta[k] for k in params])


# -- certificates of persistence ---------------------------------------------------------------------------------------


class Kind(StrEnum):
    """Why a unit stays saturated (Barriers, Theorem 2.1(1) repaired)."""

    FIRST_LAYER = "F-a"  # inputs in a ball or box, which the affine map sends into the flat piece
    SIGN = "F-b"  # features ≥ 0, weights ≤ 0, bias ≤ 0: for every input and every upstream state
    BOUNDED_FEATURES = "F-c"  # features in a bounded range, whatever the upstream state
    FROZEN_ANCESTORS = "F-d"  # nothing upstream moves, on the given samples


@dataclass(frozen=True)
class Certificate:
    """A proof that ``unit`` keeps the activation ``value`` during training, and what it takes for granted.

    ``strict``: z stays strictly inside the flat piece. Otherwise z may reach the upper end of the piece, where the
    gradient is zero by the convention f'(breakpoint) = slope on the left (that of torch for ReLU).
    """

    unit: int
    kind: Kind
    value: Saturation
    strict: bool
    data: str
    training: str
    explanation: str


_UPDATE = (
    "updates leave a parameter alone whose gradient has always been zero (gradient descent; momentum or Adam with zero "
    "state; no weight decay, no noise)"
)

# Closed ranges of activations, None: unbounded. Activations that are not listed are not used as bounded features.
_RANGES: dict[str, tuple[Fraction | None, Fraction | None]] = {
    "relu": (Fraction(0), None),
    "softplus": (Fraction(0), None),
    "abs": (Fraction(0), None),
    "square": (Fraction(0), None),
    "quadratic": (Fraction(-1, 2), None),
    "relu6": (Fraction(0), Fraction(6)),
    "sigmoid": (Fraction(0), Fraction(1)),
    "hard_tanh": (Fraction(-1), Fraction(1)),
    "tanh": (Fraction(-1), Fraction(1)),
    "erf": (Fraction(-1), Fraction(1)),
    "sin": (Fraction(-1), Fraction(1)),
}
_POSITIVE = ("sigmoid", "softplus")  # activations that never reach their lower bound 0


def persistence_certificate(
    dag: Dag,
    theta: Any,
    unit: int,
    input_bound: Any = None,
    norm: Literal["inf", "2"] = "inf",
    samples: Any = None,
) -> Certificate | None:
    """A certificate that the unit stays saturated while the other parameters train, or ``None`` if none is found.

    Four kinds are tried, the one that assumes least first, with z = b + Σ w_u h_u:

    * F-b  features h_u ≥ 0, w ≤ 0, b ≤ 0, one of them strictly: z ≤ 0 for every input and every upstream state
    * F-a  sources are inputs with ‖x‖ ≤ ``input_bound``: b + R ‖w‖_1 < 0 (norm "inf"), b + R ‖w‖_2 < 0 (norm "2")
    * F-c  features bounded by their activation (and inputs as in F-a): the interval of z lies in the flat piece
    * F-d  the unit and every computed ancestor with a trainable incoming parameter are saturated on ``samples`` [N, I]

    F-b, F-a and F-c hold likewise for the other flat pieces, e.g. both ends of hard_tanh. ``None`` is no proof that the
    unit will come back.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 1, 1])
    >>> persistence_certificate(net, [1, -3, 1, 0], 2, input_bound=2).kind          # z = x − 3 < 0 for |x| ≤ 2
    <Kind.FIRST_LAYER: 'F-a'>
    >>> persistence_certificate(net, [1, -3, 1, 0], 2, input_bound=4) is None
    True
    """
    (unit,) = _computed(dag, [unit])
    if norm not in ("inf", "2"):
        raise ValueError(f"norm {norm!r} is not known; give 'inf' (a box |x_i| ≤ R) or '2' (a ball)")
    radius = None if input_bound is None else to_fmpq(input_bound)
    if radius is not None and radius < 0:
        raise ValueError(
            f"input_bound {input_bound} is negative; give the radius of a box or ball that holds the inputs"
        )
    exact = rational_array(as_vector(theta, dag.num_params))
    found = None
    if not len(_shared_parameters(dag, [unit])):
        found = _range_certificate(dag, exact, unit, radius, norm)
    if found is None and samples is not None:
        found = _ancestor_certificate(dag, exact, unit, samples)
    return found


class _Reach(NamedTuple):
    """z ranges over [low − √spread2, high + √spread2]; ``None``: unbounded. What it rests on is in the other fields."""

    low: fmpq | None
    high: fmpq | None
    spread2: fmpq
    features: tuple[int, ...]
    inputs: tuple[int, ...]
    zero_features_only: bool
    moves_off: bool  # a feature with w < 0 that is never 0 pushes z strictly below ``high``


def _reach(dag: Dag, theta: np.ndarray, unit: int, radius: fmpq | None, norm: str) -> _Reach:
    low: fmpq | None = fmpq(0)
    high: fmpq | None = fmpq(0)
    features, inputs, weights = [], [], []
    zero_only, moves_off = True, False
    for e in dag.incoming(unit):
        u, p = int(dag.source[e]), int(dag.param[e])
        w = theta[p] if p >= 0 else to_fmpq(dag.fixed[int(e)])  # type: ignore[index]
        if w == 0:
            continue
        if u < dag.num_inputs:
            inputs.append(u)
            weights.append(w)
            continue
        if u == dag.constant:
            ends: tuple[fmpq | None, fmpq | None] = (w, w)
        else:
            features.append(u)
            name = dag.activation(u)
            least, most = (None if c is None else to_fmpq(c) * w for c in _RANGES.get(name, (None, None)))
            ends = (least, most) if w > 0 else (most, least)
            zero_only &= w < 0 and least == 0
            moves_off |= bool(w < 0 and name in _POSITIVE)
        low = None if low is None or ends[0] is None else low + ends[0]
        high = None if high is None or ends[1] is None else high + ends[1]
    if inputs and radius is None:
        low = high = None
    spread2 = _spread2(weights, radius or fmpq(0), norm)
    return _Reach(low, high, spread2, tuple(features), tuple(inputs), zero_only, moves_off)


def _spread2(weights: Sequence[fmpq], radius: fmpq, norm: str) -> fmpq:
    """Square of the largest |w · x| over ‖x‖ ≤ R: the dual norm, (R ‖w‖_1)² or R² ‖w‖_2²."""
    if norm == "inf":
        return (radius * sum((abs(w) for w in weights), fmpq(0))) ** 2
    return radius**2 * sum((w * w for w in weights), fmpq(0))


def _room(gap: fmpq | None, spread2: fmpq) -> int:
    """Sign of gap − √spread2, without a square root; −1 if the gap is unbounded below (``None``)."""
    if gap is None or gap < 0:
        return -1
    return int(gap * gap > spread2) - int(gap * gap < spread2)


def _range_certificate(dag: Dag, theta: np.ndarray, unit: int, radius: fmpq | None, norm: str) -> Certificate | None:
    """F-a, F-b, F-c: the range of z lies in one flat piece."""
    reach = _reach(dag, theta, unit, radius, norm)
    for low, high, value in get_activation(dag.activation(unit)).saturated_pieces:
        above = 1 if low is None else _room(None if reach.low is None else reach.low - to_fmpq(low), reach.spread2)
        below = 1 if high is None else _room(None if reach.high is None else to_fmpq(high) - reach.high, reach.spread2)
        sign = low is None and reach.zero_features_only and not reach.inputs
        if below == 0 and reach.moves_off:
            below = 1
        if above <= 0 or below < 0 or (below == 0 and not (sign and reach.features)):
            continue
        kind = Kind.SIGN if sign else Kind.BOUNDED_FEATURES if reach.features else Kind.FIRST_LAYER
        box = f"every input has ‖x‖_{norm} ≤ {radius}" if reach.inputs else "none: any inputs, any targets"
        why = {
            Kind.SIGN: "all sources are ≥ 0 and all weights and the bias are ≤ 0",
            Kind.BOUNDED_FEATURES: f"the sources {list(reach.features)} are bounded by their activations",
            Kind.FIRST_LAYER: f"the sources {list(reach.inputs)} are bounded inputs",
        }[kind]
        piece = f"({'−∞' if low is None else low}, {'∞' if high is None else high})"
        strict = below > 0
        explanation = f"{why}, so z of unit {unit} stays in {piece}{'' if strict else ' or at its upper end'}"
        return Certificate(unit, kind, value, strict, box, f"{_UPDATE}; other parameters move freely", explanation)
    return None


def _ancestor_certificate(dag: Dag, theta: np.ndarray, unit: int, samples: Any) -> Certificate | None:
    """F-d: no parameter on which z of the unit depends gets a gradient on the samples."""
    upstream = {unit}
    for v in range(unit, dag.first_computed - 1, -1):
        if v in upstream:
            upstream.update(int(u) for u in dag.source[dag.incoming(v)])
    trained = [v for v in sorted(upstream) if v >= dag.first_computed and len(dag.params_of(dag.incoming(v)))]
    flat = saturated_units(dag, theta, samples)
    if unit not in flat or any(v not in flat for v in trained) or len(_shared_parameters(dag, trained)):
        return None
    return Certificate(
        unit,
        Kind.FROZEN_ANCESTORS,
        flat[unit],
        True,
        f"all data are among the {len(samples)} given samples; any targets",
        f"{_UPDATE}; parameters that do not lie upstream of unit {unit} move freely",
        f"units {trained}, all that have trainable parameters upstream of {unit}, are saturated on every sample",
    )


# -- margin across a task shift ----------------------------------------------------------------------------------------


def margin_persists(weight: Sequence[Any], bias: Any, x: Any, squared_distance: Any) -> bool:
    r"""Spectral Collapse, Lemma 6.3 (as reconstructed): does the margin of a dead ReLU unit survive a shift of inputs?

    With γ = −max_n (w · x_n + b) over the old inputs x [N, I]: if γ > 0 and ‖w‖_2 d < γ then w · x' + b < 0 for every
    x' within distance d of some x_n, because w · x' + b ≤ −γ + ‖w‖_2 ‖x' − x_n‖. ``squared_distance`` is d², exactly,
    for instance :func:`one_sided_distance_squared`; compared is ‖w‖² d² < γ². For a deeper unit x are its sources.

    >>> margin_persists([3, 4], -10, [[0, 0]], "399/100")                                  # γ = 10, ‖w‖ = 5
    True
    >>> margin_persists([3, 4], -10, [[0, 0]], 4)
    False
    """
    w, old, square = rational_array(list(weight)), _batch(x, "x"), to_fmpq(squared_distance)
    if old.shape[1] != len(w):
        raise ValueError(f"x has {old.shape[1]} columns but the unit has {len(w)} weights; give one column per weight")
    if square < 0:
        raise ValueError(f"squared_distance {squared_distance} is negative; give d²")
    margin = -((old @ w).max() + to_fmpq(bias))
    return bool(margin > 0 and (w @ w) * square < margin * margin)


def one_sided_distance_squared(old: Any, new: Any) -> fmpq:
    """sup over new of inf over old of ‖x − x'‖²: all that the margin lemma needs of the Hausdorff distance.

    >>> one_sided_distance_squared([[0, 0], [5, 0]], [[5, 1]])
    1
    """
    before, after = _batch(old, "old"), _batch(new, "new")
    gaps = after[:, None, :] - before[None, :, :]
    return (gaps * gaps).sum(axis=2).min(axis=1).max()


# -- helpers -----------------------------------------------------------------------------------------------------------


def _exact_preactivations(dag: Dag, theta: Any, x: Any) -> dict[int, np.ndarray]:
    """Column of z per computed unit: rationals, or balls if some activation is smooth."""
    parameters, inputs = rational_array(as_vector(theta, dag.num_params)), _batch(x, "x")
    if inputs.shape[1] != dag.num_inputs:
        raise ValueError(f"x has shape {inputs.shape}; give [N, {dag.num_inputs}], one row per sample")
    if all(get_activation(name).is_exact for name in dag.activations):
        return _columns(dag, run_forward(RATIONALS, dag, parameters, inputs).z)
    before = flint.ctx.prec
    flint.ctx.prec = _BITS
    try:
        return _columns(dag, run_forward(BALLS, dag, BALLS.convert(parameters), BALLS.convert(inputs)).z)
    finally:
        flint.ctx.prec = before


def _float_preactivations(dag: Dag, theta: torch.Tensor, x: torch.Tensor) -> dict[int, np.ndarray]:
    z = evaluate(dag, theta, x).z.detach().cpu().numpy()
    return {v: z[:, v] for v in range(dag.first_computed, dag.num_units)}


def _columns(dag: Dag, z: Any) -> dict[int, np.ndarray]:
    found = {int(v): z[b][:, k] for b in z for k, v in enumerate(dag.blocks[b].units)}
    return dict(sorted(found.items()))


def _flat_values(activation: Activation, z: np.ndarray) -> list[Fraction] | None:
    """The constant that f takes on each sample, or ``None`` if some z is not strictly inside a flat piece."""
    pieces = activation.saturated_pieces
    if not pieces:
        return None
    values = []
    for t in z:
        lift = arb if isinstance(t, arb) else fmpq if isinstance(t, fmpq) else float
        inside = [c for low, high, c in pieces if _between(low, t, high, lift)]
        if not inside:
            return None
        values.append(inside[0])
    return values


def _between(low: Fraction | None, t: Any, high: Fraction | None, lift: Any) -> bool:
    def number(bound: Fraction) -> Any:
        return float(bound) if lift is float else lift(to_fmpq(bound))

    return bool((low is None or t > number(low)) and (high is None or t < number(high)))


def _batch(values: Any, name: str) -> np.ndarray:
    batch: Array = rational_array(values)
    if batch.ndim != 2 or not len(batch):
        raise ValueError(f"{name} has shape {batch.shape}; give [N, I] with N ≥ 1, one row per sample")
    return batch


def _computed(dag: Dag, units: Iterable[int]) -> list[int]:
    found = sorted({int(u) for u in units})
    outside = [u for u in found if not dag.first_computed <= u < dag.num_units]
    if outside:
        raise ValueError(
            f"units {outside} are not computed units; only these have incoming parameters: "
            f"{dag.first_computed} … {dag.num_units - 1}"
        )
    return found


def _shared_parameters(dag: Dag, units: Sequence[int]) -> np.ndarray:
    """Parameters on edges into the units that also sit on edges into other units."""
    into = np.isin(dag.target, units)
    return np.intersect1d(dag.params_of(np.flatnonzero(into)), dag.params_of(np.flatnonzero(~into)))
