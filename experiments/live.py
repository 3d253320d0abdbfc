"""Claims judged on a network that is really being trained, beside what they talk about: dead units, bounds, certified rank.

At some checkpoints of :mod:`experiments.permuted_labels` the network, with a batch of real digits, becomes an ``Instance``
like those that the claims generate for themselves, and the *same* ``Claim`` objects check it. Weights are floats, floats
are dyadic rationals: dead units, bounds and the rank interval are exact statements about this network, not measurements.

The Hessian is that of the mean cross-entropy on the batch, and so are dead units and bounds: a unit that is dead on the
batch may be alive on another image, which has its own column.

The theorems on frozen and cloned units need a rational gradient, which softmax does not have. They are judged on the same weights
with the summed squared loss on a few of the images, for the dead units that have a persistence certificate, or for the copies that
a cloned start made: one step, exactly.

:mod:`experiments.run_claims` judges the networks of ``lop run`` with the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from flint import fmpq

from experiments.permuted_labels import Checkpoint, PermutedLabels, checkpoints
from lop_theory.activations import KinkError
from lop_theory.bounds import dead_unit_bound, dead_unit_bound_corrected, gate_bound
from lop_theory.dag import Dag
from lop_theory.forward import gradient
from lop_theory.frozen import frozen_manifold, numerically_dead_units, persistence_certificate
from lop_theory.gates import gate_pattern
from lop_theory.hessian import hessian
from lop_theory.partition import UnitPartition
from lop_theory.rank import NumericalRank, numerical_rank, rank_is_decided
from proofs_checks.claim import Claim, Verdict
from proofs_checks.instances import Instance, hessian_rank

LIVE_CLAIMS = (
    "spectral.dead-unit-bound",
    "spectral.dead-unit-bound.repaired",
    "spectral.gate-bound",
    "beyond.nullity-book.bound",
    "barriers.thm2.1.frozen.repaired",
)
"""Claims that judge a live network, in the order of the columns that show their verdicts."""

NULLITY_CLAIM, FROZEN_CLAIM = LIVE_CLAIMS[-2:]
CLONED_CLAIM = "barriers.thm2.1.cloned.repaired"
FEW_IMAGES = 4
RATE = fmpq(1, 64)


class Network(Protocol):
    """A network that is being trained, at some moment: parameters θ [P], inputs x [N, I], labels y [N], loss ``kind``."""

    @property
    def dag(self) -> Dag: ...
    @property
    def theta(self) -> torch.Tensor: ...
    @property
    def x(self) -> torch.Tensor: ...
    @property
    def y(self) -> torch.Tensor: ...
    @property
    def kind(self) -> str: ...


@dataclass(frozen=True)
class LiveConfig:
    """Which run, at the end of which tasks (0 is the first), on how many images the Hessian is taken."""

    run: PermutedLabels = field(default_factory=PermutedLabels)
    tasks: tuple[int, ...] = (0, 1, 3, 5, 7)
    batch: int = 150

    def __post_init__(self) -> None:
        outside = [t for t in self.tasks if not 0 <= t < self.run.tasks]
        if not self.tasks or outside:
            raise ValueError(
                f"tasks = {self.tasks}; give at least one, each from 0 to {self.run.tasks - 1}, the last task of the run"
            )
        if not 1 <= self.batch <= self.run.images:
            raise ValueError(
                f"batch = {self.batch}; the run has {self.run.images} images: give a number from 1 to that"
            )


@dataclass(frozen=True)
class LiveVerdict:
    """What one claim says of one checkpoint. ``applies`` is empty, or why the claim does not speak about this network."""

    claim: str
    task: int
    verdict: str
    expected: str
    observed: str = ""
    predicted: str = ""
    note: str = ""
    applies: str = ""
    error: str = ""

    @property
    def surprising(self) -> bool:
        """Does it contradict the ledger? A claim that is true must not fail here; one that is false may well hold here."""
        return bool(self.error) or (self.verdict == Verdict.FAILS.value and self.expected == Verdict.HOLDS.value)


@dataclass(frozen=True)
class LiveRow:
    """One checkpoint: the columns of the table, before they are printed. Ranks and bounds are about the same Hessian."""

    task: int
    accuracy: float
    dead: tuple[int, ...]  # per hidden layer, proved, on the batch
    dead_on_all: int
    printed: int
    corrected: int
    gate: int
    lower: int
    upper: int
    numerical: NumericalRank
    residual: float
    verdicts: tuple[LiveVerdict, ...]


def live_rows(claims: Sequence[Claim], config: LiveConfig) -> Iterator[LiveRow]:
    """Train, and judge the network at each chosen task with those of ``claims`` that are listed in ``LIVE_CLAIMS``."""
    order = {name: k for k, name in enumerate(LIVE_CLAIMS)}
    chosen = sorted((c for c in claims if c.id in order), key=lambda c: order[c.id])
    for point in checkpoints(config.run):
        if point.task in config.tasks:
            yield judge(point, config.batch, chosen)
        if point.task >= max(config.tasks):
            return


def judge(point: Checkpoint, batch: int, claims: Sequence[Claim]) -> LiveRow:
    """The row of one checkpoint, on the first ``batch`` of its images (they are in random order)."""
    dag, theta, x, y, kind = point.dag, point.theta, point.x[:batch], point.y[:batch], point.kind
    gates = gate_pattern(dag, theta, x)
    dead = gates.dead_units.tolist()
    live = Instance(dag, theta.numpy(), x.numpy(), y.numpy(), kind)
    special = {FROZEN_CLAIM: frozen_instance(point, dead) or NO_CERTIFICATE}
    rank = hessian_rank(live)
    slope = gradient(dag, theta, x, y, kind)
    normal = frozen_manifold(dag, theta, dead).normal_part(slope)
    return LiveRow(
        task=point.task,
        accuracy=point.accuracy,
        dead=tuple(int(np.isin(units, dead).sum()) for units in _hidden_layers(dag)),
        dead_on_all=len(numerically_dead_units(dag, theta, point.x, tol=1e-12)),
        printed=dead_unit_bound(dag, theta, x, gates),
        corrected=dead_unit_bound_corrected(dag, theta, x, kind, gates),
        gate=gate_bound(dag, theta, x, kind, gates),
        lower=rank.lower,
        upper=rank.upper,
        numerical=numerical_rank(hessian(dag, theta, x, y, kind)),
        residual=float(torch.as_tensor(normal).abs().max()),
        verdicts=tuple(judge_claim(claim, special.get(claim.id, live), point.task) for claim in claims),
    )


def judge_network(
    net: Network, claims: Sequence[Claim], task: int, partition: UnitPartition | None = None
) -> tuple[LiveVerdict, ...]:
    """What each of ``claims`` says of a network; ``partition``: of a net that started with cloned units, into its copies."""
    live = Instance(net.dag, net.theta.numpy(), net.x.numpy(), net.y.numpy(), net.kind)
    try:
        special = _special(net, {claim.id for claim in claims}, partition)
    except KinkError as error:  # the gates of this network are not defined
        special = dict.fromkeys((claim.id for claim in claims), _kink(error))
    return tuple(judge_claim(claim, special.get(claim.id, live), task) for claim in claims)


NO_CERTIFICATE = "no dead unit with a persistence certificate"


def _special(net: Network, ids: set[str], partition: UnitPartition | None) -> dict[str, Instance | str]:
    """The claims that need an instance of their own, with that, or with the reason why there is none."""
    gates = gate_pattern(net.dag, net.theta, net.x)
    special: dict[str, Instance | str] = {}
    if FROZEN_CLAIM in ids:
        special[FROZEN_CLAIM] = frozen_instance(net, gates.dead_units.tolist()) or NO_CERTIFICATE
    if CLONED_CLAIM in ids:
        special[CLONED_CLAIM] = "no cloned units" if partition is None else cloned_instance(net, partition)
    return special


def _one_step(net: Network, **extra: Any) -> Instance:
    """The network with squared loss on a few images and their labels as one-hot targets, and one step of gradient descent."""
    x, y = net.x[:FEW_IMAGES], net.y[:FEW_IMAGES]
    extra |= {"steps": 1, "rate": RATE}
    targets = torch.nn.functional.one_hot(y, net.dag.num_outputs).to(net.x.dtype)
    return Instance(net.dag, net.theta.numpy(), x.numpy(), targets.numpy(), "mse_sum", extra)


def frozen_instance(net: Network, dead: Sequence[int]) -> Instance | None:
    """One step, and which dead units are certified to stay frozen; None if none is."""
    x = net.x[:FEW_IMAGES]
    box = float(x.abs().max())
    found = {u: persistence_certificate(net.dag, net.theta, u, box, samples=x) for u in dead}
    frozen = tuple(u for u, certificate in found.items() if certificate is not None and certificate.strict)
    return _one_step(net, frozen=frozen, box=box) if frozen else None


def cloned_instance(net: Network, partition: UnitPartition) -> Instance:
    """One step of a network whose units are in the blocks of ``partition``. Whether they are still equitable, the claim asks."""
    return _one_step(net, partition=partition)


def judge_claim(claim: Claim, instance: Instance | str, task: int) -> LiveVerdict:
    """One claim on one network, or on none for the given reason. What it raises becomes the error of this verdict."""
    about = partial(LiveVerdict, claim=claim.id, task=task, expected=claim.expected.value)
    if isinstance(instance, str):
        return about(verdict=Verdict.NOT_RUN.value, applies=instance)
    try:
        broken = [a.name for a in claim.assumptions if not a.holds(instance)]
        if broken:
            return about(verdict=Verdict.NOT_RUN.value, applies=f"does not satisfy: {', '.join(broken)}")
        evidence = claim.check(instance)
    except KinkError as error:
        return about(verdict=Verdict.NOT_RUN.value, applies=_kink(error))
    except Exception as error:
        return about(verdict=Verdict.UNDECIDED.value, error=f"{type(error).__name__}: {error}")
    observed, predicted = ("" if value is None else str(value) for value in (evidence.observed, evidence.predicted))
    return about(verdict=evidence.verdict.value, observed=observed, predicted=predicted, note=evidence.note)


def _kink(error: KinkError) -> str:
    return f"on a kink: {str(error).split(';')[0]}"


def _hidden_layers(dag: Dag) -> list[np.ndarray]:
    return [units for block in dag.blocks if len(units := np.intersect1d(block.units, dag.hidden))]


# -- the table -------------------------------------------------------------------------------------------------------------

_COLUMNS = (
    ("task", "tasks learned before this one"),
    ("accuracy", "share of all training images that are labelled right at the end of the task"),
    ("dead", "dead hidden units of each layer: inactive on every image of the batch, in exact arithmetic"),
    ("on all", "the same on all training images"),
    ("printed bound", "bound on the rank as published, P − Σ over dead units of (I + O + 1), and what {} says here"),
    (
        "corrected bound",
        "the same with the union of parameter sets and the shift of the softmax, and what {} says here",
    ),
    ("gate bound", "bound from the exact gate of every unit and image, and what {} says here"),
    ("nullity book", "P − all null directions that have a name, and what {} says here"),
    ("certified rank", "proved interval [lower, upper] for the rank of the Hessian; one number if it is closed"),
    ("numerical rank", "where the float64 spectrum has its largest gap; ?: the gap is below 1e3 and decides nothing"),
    ("gap", "that gap, as a ratio of neighbouring singular values"),
    (
        "tangency residual",
        "largest component of the gradient normal to the frozen manifold of the dead units (0: exactly tangent), and what "
        "{} says here of one exact step",
    ),
)
_JUDGED = dict(
    zip(("printed bound", "corrected bound", "gate bound", "nullity book", "tangency residual"), LIVE_CLAIMS)
)


def live_document(rows: Sequence[LiveRow], config: LiveConfig) -> dict[str, Any]:
    """The rows as the JSON-ready table {"title", "columns", "rows", "note"}, and each verdict under "verdicts"."""
    return {
        "title": "on a trained network",
        "columns": [{"name": name, "help": text.format(_JUDGED.get(name))} for name, text in _COLUMNS],
        "rows": [_cells(row) for row in rows],
        "note": _note(rows, config),
        "verdicts": [{**vars(v), "surprising": v.surprising} for row in rows for v in row.verdicts],
    }


def surprises(rows: Sequence[LiveRow]) -> list[LiveVerdict]:
    """Verdicts that contradict the ledger."""
    return [v for row in rows for v in row.verdicts if v.surprising]


def _cells(row: LiveRow) -> list[Any]:
    """The cells of one row, in the order of the columns."""
    words = {v.claim: _word(v) for v in row.verdicts}
    book = next((v.predicted for v in row.verdicts if v.claim == NULLITY_CLAIM), "")

    def judged(name: str, value: Any) -> str:
        return f"{value} {words.get(_JUDGED[name], '')}".strip()

    interval = str(row.lower) if row.lower == row.upper else f"[{row.lower}, {row.upper}]"
    gap = row.numerical.gap
    ratio = "∞" if math.isinf(gap) else f"{gap:.1f}" if gap < 10 else f"{gap:.0f}" if gap < 1e6 else f"{gap:.0e}"
    mark = "" if rank_is_decided(row.numerical) else " ?"
    return [
        row.task,
        f"{row.accuracy:.3f}",
        " + ".join(map(str, row.dead)),
        row.dead_on_all,
        judged("printed bound", row.printed),
        judged("corrected bound", row.corrected),
        judged("gate bound", row.gate),
        judged("nullity book", book),
        interval,
        f"{row.numerical.rank}{mark}",
        ratio,
        judged("tangency residual", "0" if row.residual == 0 else f"{row.residual:.1e}"),
    ]


def _word(verdict: LiveVerdict) -> str:
    if verdict.error:
        return "error"
    return "does not apply" if verdict.applies else verdict.verdict


def _note(rows: Sequence[LiveRow], config: LiveConfig) -> str:
    run = config.run
    text = (
        f"Real training: a {'-'.join(map(str, [64, *run.hidden, 10]))} {run.activation} network, P = {run.dag.num_params}, on "
        f"{run.images} of scikit-learn's digits, labels permuted anew in each of {run.tasks} tasks; {run.optimizer}, step size "
        f"{run.step_size:g}, {run.steps} steps of {run.batch} images per task, seed {run.seed}. Hessian of the mean "
        f"cross-entropy on {config.batch} of the images."
    )
    beaten = [str(row.task) for row in rows if row.lower > row.printed]
    if beaten:
        text += f" The printed bound is below the proved rank after task {', '.join(beaten)}: it fails on a trained network."
    return text
