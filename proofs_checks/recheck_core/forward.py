"""Evaluation of a network and its loss on jets: all samples, unit by unit, in topological order.

Nothing is propagated backwards: derivatives travel with the values.  Even the error signal of a unit is found
forwards, as the derivative with respect to a *nudge* added to that unit's pre-activation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from proofs_checks.recheck_core.jets import Jet, JetSpace
from proofs_checks.recheck_core.network import Edge, Network, Normalization
from proofs_checks.recheck_core.numbers import Balls, Field, Number, Rationals, WitnessError, lift

NUDGE = -1
"""Variable index of the nudge; parameters have indices 0..P-1."""


@dataclass(frozen=True)
class Trace:
    """Jets [unit][sample] of pre-activations z (after normalisation; empty for inputs) and activations h."""

    z: list[list[Jet]]
    h: list[list[Jet]]


def field_of(network: Network) -> Field:
    """Exact rationals when the network allows them, balls otherwise."""
    return Rationals() if network.is_rational else Balls()


@dataclass(frozen=True)
class Forward:
    """One evaluation: ``theta`` [P] numbers, a multiplicative ``mask`` on h per unit, a ``nudge`` (unit, sample)."""

    network: Network
    theta: Sequence[Number]
    order: int
    mask: Mapping[int, Fraction] | None = None
    nudge: tuple[int, int] | None = None

    @property
    def field(self) -> Field:
        return field_of(self.network)

    @property
    def space(self) -> JetSpace:
        return JetSpace(self.order)

    def trace(self) -> Trace:
        """Evaluate every unit on every sample."""
        network, field = self.network, self.field
        num_samples = len(network.x)
        h = [[Jet(field.number(row[i])) for row in network.x] for i in range(network.num_inputs)]
        if network.has_constant:
            h.append([Jet(field.number(1)) for _ in range(num_samples)])
        h = [self._masked(unit, jets) for unit, jets in enumerate(h)]
        trace = Trace([[] for _ in h], h)
        group_of = {unit: group for group in network.normalizations for unit in group.units}
        normalised: dict[int, list[Jet]] = {}
        for unit in range(network.first_computed, network.num_units):
            group = group_of.get(unit)
            if group is not None and unit not in normalised:
                normalised.update(self._normalise(group, unit, trace))
            z = self._nudged(unit, normalised[unit] if group is not None else self._weighted_sum(unit, trace))
            trace.z.append(z)
            trace.h.append(self._masked(unit, [self._activate(unit, n, jet) for n, jet in enumerate(z)]))
        return trace

    def loss(self, trace: Trace) -> Jet:
        """The network's loss; see :meth:`summed_loss` for its terms."""
        total = self.summed_loss(trace)
        if self.network.loss == "mse_sum":
            return total
        mean = Jet(0)
        self.space.add_scaled(mean, total, self.field.number(Fraction(1, len(self.network.x))))
        return mean

    def summed_loss(self, trace: Trace) -> Jet:
        """Sum over samples of 1/2 |f - y|^2, or of log sum_k exp f_k - f_y for cross_entropy."""
        network, field = self.network, self.field
        half = field.number(Fraction(1, 2))
        total = Jet(0)
        for n, target in enumerate(network.y):
            outputs = [trace.h[unit][n] for unit in network.outputs]
            if network.loss == "cross_entropy":
                self._add_cross_entropy(total, outputs, target)
                continue
            for jet, y in zip(outputs, target, strict=True):
                residual = jet.value - field.number(y)
                self.space.add_composed(total, jet, half * residual * residual, residual, 1)
        return total

    def _add_cross_entropy(self, total: Jet, outputs: list[Jet], target: int) -> None:
        partition = Jet(0)
        for jet in outputs:
            exponential = lift(jet.value).exp()
            self.space.add_composed(partition, jet, exponential, exponential, exponential)
        inverse = 1 / partition.value
        self.space.add_composed(total, partition, partition.value.log(), inverse, -inverse * inverse)
        self.space.add_scaled(total, outputs[target], -1)

    def _weighted_sum(self, unit: int, trace: Trace) -> list[Jet]:
        """Raw pre-activations z_v = sum_u w_uv h_u of one unit, one jet per sample."""
        weighted = [(self._weight(edge), trace.h[edge.source]) for edge in self.network.incoming[unit]]
        zero = self.field.number(0)
        sums = []
        for n in range(len(self.network.x)):
            total = Jet(zero)
            for weight, source in weighted:
                self.space.add_product(total, weight, source[n])
            sums.append(total)
        return sums

    def _weight(self, edge: Edge) -> Jet:
        if edge.param is None:
            return Jet(self.field.number(edge.weight))
        if self.nudge is not None:  # then the nudge is the only variable
            return Jet(self.theta[edge.param])
        return self.space.variable(self.theta[edge.param], edge.param)

    def _activate(self, unit: int, sample: int, z: Jet) -> Jet:
        place = f"{self.network.place}: pre-activation of unit {unit}, sample {sample}"
        derivatives = self.network.activation(unit).derivatives(z.value, self.field, self.order, place)
        return self.space.compose(z, *derivatives)

    def _masked(self, unit: int, jets: list[Jet]) -> list[Jet]:
        if self.mask is None or unit not in self.mask:
            return jets
        factor = self.field.number(self.mask[unit])
        masked = [Jet(self.field.number(0)) for _ in jets]
        for result, jet in zip(masked, jets, strict=True):
            self.space.add_scaled(result, jet, factor)
        return masked

    def _nudged(self, unit: int, z: list[Jet]) -> list[Jet]:
        if self.nudge is not None and self.nudge[0] == unit:
            sample = self.nudge[1]
            shifted = Jet(self.field.number(0))
            self.space.add_scaled(shifted, z[sample], 1)
            self.space.add_scaled(shifted, self.space.variable(self.field.number(0), NUDGE), 1)
            z = [*z[:sample], shifted, *z[sample + 1 :]]
        return z

    def _normalise(self, group: Normalization, unit: int, trace: Trace) -> dict[int, list[Jet]]:
        """Normalised pre-activations: a batchnorm over the samples of this unit, a layernorm over the group."""
        if group.kind == "batchnorm":
            return {unit: self._standardise(self._weighted_sum(unit, trace), group.eps)}
        raw = [self._weighted_sum(member, trace) for member in group.units]
        by_sample = [self._standardise(list(jets), group.eps) for jets in zip(*raw, strict=True)]
        return dict(zip(group.units, map(list, zip(*by_sample, strict=True)), strict=True))

    def _standardise(self, jets: list[Jet], eps: Fraction) -> list[Jet]:
        """(z - mean) / sqrt(variance + eps) with the biased variance, on jets."""
        space, share = self.space, self.field.number(Fraction(1, len(jets)))
        mean, variance = Jet(0), Jet(self.field.number(eps))
        for jet in jets:
            space.add_scaled(mean, jet, share)
        centred = [Jet(0) for _ in jets]
        for result, jet in zip(centred, jets, strict=True):
            space.add_scaled(result, jet, 1)
            space.add_scaled(result, mean, -1)
            c = result.value
            space.add_composed(variance, result, share * c * c, 2 * share * c, 2 * share)
        v = variance.value
        if self.field.sign(v) <= 0:
            raise WitnessError(
                self.network.place, v, "variance + eps is not positive", "give the normalization eps > 0"
            )
        root = v.rsqrt()
        inverse = space.compose(variance, root, -root / (2 * v), 3 * root / (4 * v * v))
        results = [Jet(0) for _ in jets]
        for result, jet in zip(results, centred, strict=True):
            space.add_product(result, jet, inverse)
        return results
