r"""Beyond the papers, what rounding does to a cloned network: normal perturbations under gradient descent, and escape.

On an affine M along which ∇L is tangent, the Hessian has no block between normal and tangent directions, so a step of
gradient descent multiplies a small normal perturbation by I − η H_NN. On M_C, H_NN has negative eigenvalues in general,
and rounding supplies the perturbation: exact clones are kept in exact arithmetic only, unless all copies do the same
sums in the same order, as they do at block-constant weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.linalg
import sympy
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from lop_theory.architectures import mlp
from lop_theory.arithmetic import rational_array, to_fmpq
from lop_theory.hessian import hessian
from lop_theory.manifolds import from_matrix, to_matrix
from lop_theory.partition import UnitPartition, block_constant
from lop_theory.stability import normal_hessian_blocks
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.barriers_quotients import two_copies
from proofs_checks.claims.barriers_stability import (
    TANGENT,
    Curvature,
    cloned_complete,
    curvature,
    frozen_relu,
    manifold_of,
    tangent_at_a_point,
)
from proofs_checks.claims.barriers_trajectories import RATE, exact_gradient_at, states
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness

BARRIERS = "2510.00304"


# -- how a step multiplies a normal perturbation: exact ---------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """θ_0, …, θ_{k−1} and the curvature at each, for k steps of gradient descent, over Q."""

    points: list[np.ndarray]
    parts: list[Curvature]

    @property
    def jacobian(self) -> np.ndarray:
        """D(step^k) [P, P] at θ_0, the product of I − η H(θ_j)."""
        total = rational_array(np.eye(len(self.points[0])))
        for part in self.parts:
            total = total - RATE * part.hessian @ total
        return total

    def factor(self, j: int) -> np.ndarray:
        """I − η H_NN(θ_j) [c, c] in coordinates of the basis N: I − η (NᵀN)⁻¹ Nᵀ H N."""
        normal = self.parts[j].normal
        gram = to_matrix(normal.T @ normal)
        curved = from_matrix(gram.solve(to_matrix(self.parts[j].nn)))
        return rational_array(np.eye(normal.shape[1])) - RATE * curved


@lru_cache(maxsize=4)
def exact_steps(instance: Instance) -> Steps:
    """The first ``steps`` points of the trajectory, with their curvature on the manifold of the *first* point."""
    count = instance.extra.get("steps", 1)
    points = [theta for theta, _ in zip(states(instance), range(count), strict=False)]
    first = curvature(instance)
    parts = [first]
    for theta in points[1:]:
        moved = curvature(replace(instance, theta=theta))
        parts.append(moved)
    return Steps(points, parts)


def _bilinear(u: Any, v: Any, net: str = "net") -> dict[str, Any]:
    return quantity("bilinear_form", net, u=[number(a) for a in u], v=[number(a) for a in v])


def _refuted(instance: Instance, note: str, lines: list[dict[str, Any]], *later: np.ndarray) -> Evidence:
    """Evidence with a document that says where M is (n·θ for each normal n) and then ``lines``."""

    def document() -> dict[str, Any]:
        manifold, theta = manifold_of(instance), rational_array(instance.theta)
        start: dict[str, Any] = {"steps": 0, "rate": "0", "rule": {"name": "sgd"}}
        places = [
            assertion(quantity("form_after", coefficients=[number(a) for a in n], **start), "==", (n * theta).sum())
            for n in manifold.normal_basis(exact=True).T
        ]
        networks = {"net": network_document(instance)}
        networks |= {f"after{k}": network_document(instance, point) for k, point in enumerate(later, start=1)}
        return witness(note, networks, [*places, *lines])

    return Evidence(Verdict.FAILS, note=note, witness=document)


def check_growth(instance: Instance) -> Evidence:
    """Nᵀ D(step^k) T = 0, and D(step^k) in normal coordinates is the product of the I − η H_NN(θ_j)."""
    steps = exact_steps(instance)
    for j, part in enumerate(steps.parts):
        if (part.nt != 0).any():
            a, b = (int(k[0]) for k in np.nonzero(part.nt != 0))
            u, v = part.normal[:, a], part.tangent[:, b]
            note = f"after {j} steps a tangent perturbation turns normal: Nᵀ H T has an entry {part.nt[a, b]}"
            net = f"after{j}" if j else "net"
            return _refuted(instance, note, [assertion(_bilinear(u, v, net), "!=", 0)], *steps.points[1:])
    normal, tangent = steps.parts[0].normal, steps.parts[0].tangent
    jacobian = steps.jacobian
    product = rational_array(np.eye(normal.shape[1]))
    for j in range(len(steps.parts)):
        product = steps.factor(j) @ product
    coordinates = normal.T @ jacobian @ normal - normal.T @ normal @ product
    mixed = normal.T @ jacobian @ tangent
    if (coordinates != 0).any() or (mixed != 0).any():
        return Evidence(Verdict.FAILS, note=f"{len(steps.parts)} steps: the normal factors do not multiply")
    return Evidence(Verdict.HOLDS, margin=0, note=f"{len(steps.parts)} steps")


def _opposite_sign(instance: Instance) -> Evidence:
    """Mutant: the factor is I + η H_NN. Nᵀ D(step) N − NᵀN = −η Nᵀ H N, so any entry of Nᵀ H N refutes it."""
    part = exact_steps(instance).parts[0]
    if not (part.nn != 0).any():
        return Evidence(Verdict.HOLDS)
    a, b = (int(k[0]) for k in np.nonzero(part.nn != 0))
    line = assertion(_bilinear(part.normal[:, a], part.normal[:, b]), "!=", 0)
    return _refuted(instance, f"Nᵀ H N has an entry {part.nn[a, b]}, so the sign matters", [line])


def _one_factor(instance: Instance) -> Evidence:
    """Mutant: k steps multiply by (I − η H_NN(θ_0))^k."""
    steps = exact_steps(instance)
    if len(steps.parts) < 2:
        return Evidence(Verdict.HOLDS)
    first, normal = steps.factor(0), steps.parts[0].normal
    change = normal.T @ (steps.parts[1].hessian - steps.parts[0].hessian) @ normal @ first
    if not (change != 0).any():
        return Evidence(Verdict.HOLDS)
    a, b = (int(k[0]) for k in np.nonzero(change != 0))
    u, image = normal[:, a], normal @ first[:, b]
    note = f"H_NN at the second point differs on the image of the first step, by {change[a, b]}"
    line = assertion(_bilinear(u, image, "after1"), "!=", _bilinear(u, image))
    return _refuted(instance, note, [line], steps.points[1])


def _returns(instance: Instance) -> Evidence:
    """Mutant: no normal perturbation grows. Refuted by a normal n with nᵀ H n < 0, for then |D(step) n| > |n|."""
    part = exact_steps(instance).parts[0]
    values, vectors = np.linalg.eigh(part.nn.astype(object).astype(float)) if part.nn.size else (np.zeros(1), None)
    if vectors is None or values[0] >= -1e-9:
        return Evidence(Verdict.HOLDS)
    weights = rational_array(np.round(vectors[:, 0] * 64))
    n = part.normal @ weights
    form = n @ part.hessian @ n
    if not form < 0:
        return Evidence(Verdict.UNDECIDED, note="rounding the eigenvector lost the sign")
    return _refuted(instance, f"nᵀ H n = {form} for a normal n", [assertion(_bilinear(n, n), "<", 0)])


def _prove_growth() -> str:
    """L = a(t) + ½ Σ C_ij(t, n) n_i n_j is the general C³ loss whose gradient is tangent along n = 0 (Taylor)."""
    t, n1, n2, rate = sympy.symbols("t n1 n2 eta", real=True)
    c11, c12, c22 = (sympy.Function(name)(t, n1, n2) for name in ("C11", "C12", "C22"))
    loss = sympy.Function("a")(t) + c11 * n1**2 / 2 + c12 * n1 * n2 + c22 * n2**2 / 2
    on_manifold = {n1: 0, n2: 0}
    for i, n in enumerate((n1, n2)):
        step = n - rate * sympy.diff(loss, n)
        assert sympy.diff(step, t).subs(on_manifold).doit() == 0
        for j, m in enumerate((n1, n2)):
            normal_hessian = sympy.diff(loss, n, m).subs(on_manifold).doit()
            slope = sympy.diff(step, m).subs(on_manifold).doit()
            assert sympy.simplify(slope - int(i == j) + rate * normal_hessian) == 0
    a0, a1, b0, b1, d0, d1 = sympy.symbols("A0 A1 B0 B1 D0 D1", commutative=False)
    one, two = (sympy.Matrix([[a, 0], [b, d]]) for a, b, d in ((a0, b0, d0), (a1, b1, d1)))
    product = two * one  # rows and columns: normal, tangent
    assert product[0, 0] == a1 * a0 and product[0, 1] == 0
    return (
        "each entry of D(step) at n = 0 involves two normal coordinates and one tangent coordinate: ∂n'_i/∂t = 0 and "
        "∂n'_i/∂n_j = δ_ij − η ∂²L/∂n_i∂n_j; block-triangular steps multiply their normal blocks, for blocks of any size"
    )


def _trained(strategy: SearchStrategy[Instance], steps: int) -> SearchStrategy[Instance]:
    return strategy.map(lambda instance: replace(instance, extra={**instance.extra, "steps": steps}))


_PAIRS = _trained(two_copies(), 2)
_CLONED = st.one_of(_PAIRS, _trained(cloned_complete(), 2))
_FROZEN = _trained(frozen_relu(), 1)

NORMAL_GROWTH = Claim(
    id="beyond.normal-growth",
    title="A step multiplies a normal perturbation by I − η H_NN",
    source=Source(
        BARRIERS, "v1", "Definition A.2, Remark A.7", "ours: what the signs of H_NN mean for gradient descent"
    ),
    kind="ours",
    statement=r"If $\nabla L$ is tangent to the affine manifold $M$ along $M$, the derivative of a gradient step at "
    r"$\theta \in M$ satisfies $P_N D P_T = 0$ and $P_N D P_N = P_N − \eta H_{NN}$. So k steps multiply a normal perturbation, "
    r"to first order, by $\prod_j (I − \eta H_{NN}(\theta_j))$ along the trajectory, whatever the tangent motion.",
    quantifier="for all",
    assumptions=(TANGENT,),
    instances=st.one_of(_CLONED, _FROZEN),
    check=check_growth,
    expected=Verdict.HOLDS,
    proof="Differentiate Nᵀ∇L = 0 along M: Nᵀ H T = 0. The step maps M to itself, so by the chain rule its derivatives along "
    "the trajectory multiply, and matrices without a block from tangent to normal multiply their normal blocks.",
    without={"tangency along M": tangent_at_a_point()},
    mutants=(
        Mutant("opposite sign", "the factor is I + η H_NN", _opposite_sign, _PAIRS),
        Mutant("one factor", "k steps multiply by (I − η H_NN(θ_0))^k", _one_factor, _PAIRS),
        Mutant("returns", "no normal perturbation of a cloned network grows", _returns, _PAIRS),
    ),
    certificates=(
        Certificate(
            "Taylor",
            "the derivative of a step at a point of M, in coordinates (n, t)",
            Strength.SYMBOLIC,
            Scope.ALL,
            _prove_growth,
        ),
    ),
    depends_on=("barriers.stability.repaired",),
    cost=3,
)


# -- rounding as the perturbation: float64 ----------------------------------------------------------------------------

INPUTS, SAMPLES, SEEDS = 2, 8, 8
SHIFT = 1 / 64  # of the start from the critical point, along M
TOLERANCE = 0.02  # relative, on the rate per step
WINDOW = (1e-11, 1e-7)  # residuals between which the rate is read: far above rounding, far below the weights
EPSILON = 2.0**-60  # a residual that rounding surely reaches: less than one unit in the last place of a weight
HORIZON, STRIDE = 4_000, 10  # steps at most; steps between two looks at the residual
MILD = 0.02  # −λ_min(H_TT) ≤ MILD · |λ_min(H_NN)|: the saddle is one across M only
_REDISTRIBUTED = np.array([[1, -2, 1], [-1, 0, 1], [0, 2, -2]]) / 8  # zero row and column sums


def _layers(instance: Instance, theta: np.ndarray) -> list[np.ndarray]:
    """W_l [n_l, n_{l−1}] of a layered net without biases."""
    layers, start, before = [], 0, instance.dag.num_inputs
    for block in instance.dag.blocks[2:]:
        width = len(block)
        layers.append(theta[start : start + width * before].reshape(width, before))
        start, before = start + width * before, width
    return layers


def _ordered(weights: np.ndarray, h: np.ndarray) -> np.ndarray:
    """weights @ h [n, N], each row a sum in the order of the columns with one rounding per operation."""
    total = weights[:, :1] * h[0]
    for k in range(1, len(h)):
        total = total + weights[:, k : k + 1] * h[k]
    return total


def ordered_gradient(instance: Instance, theta: np.ndarray) -> np.ndarray:
    """∇L [P] in float64 of a layered net of units z + z²/2 with loss "mse"; no fused or reordered operations.

    Written out, and not by matrix products, so that the bits do not depend on the library that multiplies matrices.
    """
    layers = _layers(instance, theta)
    h, z = [np.ascontiguousarray(instance.x.T)], []
    for weights in layers:
        z.append(_ordered(weights, h[-1]))
        h.append(z[-1] + 0.5 * (z[-1] * z[-1]))
    signal = (z[-1] - instance.y.T) / len(instance.x)
    parts = []
    for k in range(len(layers) - 1, -1, -1):
        parts.append((signal[:, None, :] * h[k][None]).sum(axis=-1).ravel())
        if k:
            signal = _ordered(layers[k].T, signal) * (1 + z[k - 1])
    return np.concatenate(parts[::-1])


def curvature_blocks(instance: Instance, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """H_NN and H_TT at θ in orthonormal bases, float64; H_NN in the basis of :func:`descend`."""
    manifold = manifold_of(instance)
    point, x, y = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in (theta, instance.x, instance.y))
    matrix = hessian(instance.dag, point, x, y, "mse").numpy()
    tangent = manifold.tangent_basis()
    return normal_hessian_blocks(manifold, matrix)[0], tangent.T @ matrix @ tangent


def curvature_at_centre(instance: Instance) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of H_NN and of H_TT at the critical point, ascending."""
    across, along = curvature_blocks(instance, instance.extra["centre"])
    return np.linalg.eigvalsh(across), np.linalg.eigvalsh(along)


@dataclass(frozen=True)
class Base:
    """One unit per layer: f(x) = 3 c φ(3 w φ(a · x)) with φ(z) = z + z²/2, as three copies with weights a, w, c compute it."""

    incoming: np.ndarray
    middle: float
    outgoing: float

    def hidden(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pre-activations [N] of the two layers."""
        z = x @ self.incoming
        return z, 3 * self.middle * (z + z * z / 2)

    def output(self, x: np.ndarray) -> np.ndarray:
        z = self.hidden(x)[1]
        return 3 * self.outgoing * (z + z * z / 2)

    def cloned(self, copies: int, off: bool = False) -> np.ndarray:
        """θ of 2 → {m} → {m} → 1 that computes f: block constant, or (three copies) with sums redistributed."""
        middle = np.full((copies, copies), 3 / copies * self.middle) + (_REDISTRIBUTED if off else 0)
        parts = (np.tile(self.incoming, (copies, 1)), middle, np.full(copies, 3 / copies * self.outgoing))
        return np.concatenate([np.ravel(p) for p in parts])

    def flat_residual(self, x: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """r [N] of mean square 1 with Σ_n r_n ∂f_n/∂θ = 0: if f − y = r, then ∇L = 0 at every clone of the base."""
        z1, z2 = self.hidden(x)
        slopes = [z2 + z2 * z2 / 2, (1 + z2) * (z1 + z1 * z1 / 2), *((1 + z2) * (1 + z1) * column for column in x.T)]
        kernel = scipy.linalg.null_space(np.stack(slopes))
        r: np.ndarray = kernel @ (kernel.T @ draw)
        return r * math.sqrt(len(r)) / np.linalg.norm(r)


def _network(base: Base, copies: int, off: bool, x: np.ndarray, y: np.ndarray) -> Instance:
    dag = mlp([INPUTS, copies, copies, 1], "quadratic", bias=False)
    first = dag.first_computed
    partition = UnitPartition.of(dag, [range(first + k * copies, first + (k + 1) * copies) for k in (0, 1)])
    centre = base.cloned(copies, off)
    extra = {"partition": partition, "centre": centre, "base": base}
    return Instance(dag, centre + SHIFT, x, y[:, None], "mse", extra)


@lru_cache(maxsize=256)
def saddle(seed: int, off: bool = True) -> Instance:
    """2 → {3} → {3} → 1 beside a critical point on M_C, displaced along M by SHIFT in every block-constant direction.

    The targets are y = f − ρ r with r orthogonal to all ∂f/∂θ, so that the centre is critical by construction. H_NN is
    then linear in ρ r (a first-order change of f across M would contradict tangency): the sign of r makes a negative
    eigenvalue its largest in size, and ρ is halved until H_TT has no comparable negative one. ``off``: not at
    block-constant weights. Weights are dyadic: the start is on M_C exactly. The rate is ½ / ‖H‖.
    """
    source = np.random.default_rng(seed)
    x = source.integers(-4, 5, (SAMPLES, INPUTS)) / 4
    weights = source.choice([-2, -1, 1, 2], INPUTS + 2) / 4
    base = Base(weights[:INPUTS], float(weights[-2]), float(weights[-1]))
    r, rho = base.flat_residual(x, source.normal(size=SAMPLES)), 1.0
    across, _ = curvature_at_centre(_network(base, 3, off, x, base.output(x) - r))
    if across[-1] > -across[0]:
        r = -r
    for _ in range(6):
        instance = _network(base, 3, off, x, base.output(x) - rho * r)
        across, along = curvature_at_centre(instance)
        if -along[0] <= MILD * -across[0]:
            break
        rho *= 0.5
    sharpness = max(abs(v) for v in (across[0], across[-1], along[0], along[-1]))
    return replace(instance, extra={**instance.extra, "rate": 0.5 / sharpness, "curvatures": (across, along)})


@lru_cache(maxsize=256)
def pair_of(instance: Instance) -> Instance:
    """The same base, data and rate with two block-constant copies of each unit instead of three."""
    pair = _network(instance.extra["base"], 2, False, instance.x, instance.y[:, 0])
    return replace(pair, extra={**pair.extra, "rate": instance.extra["rate"]})


@dataclass(frozen=True)
class Run:
    """Nᵀθ [looks, c] at every STRIDE-th step; θ where half of the window (in logarithms) is passed, and at the end."""

    residuals: np.ndarray
    middle: np.ndarray | None
    last: np.ndarray

    @property
    def steps(self) -> int:
        return STRIDE * len(self.residuals)

    @property
    def size(self) -> float:
        """‖P_N θ‖ at the last look."""
        return float(np.linalg.norm(self.residuals[-1]))

    def rate(self, direction: np.ndarray) -> float | None:
        """Growth per step of log |v · Nᵀθ| in the window, or ``None`` if fewer than four looks fall into it."""
        sizes = np.linalg.norm(self.residuals, axis=1)
        inside = np.flatnonzero((sizes > WINDOW[0]) & (sizes < WINDOW[1]))
        if len(inside) < 4:
            return None
        first, last = (abs(float(direction @ self.residuals[k])) for k in (inside[0], inside[-1]))
        return math.log(last / first) / (STRIDE * (inside[-1] - inside[0])) if first and last else None


@lru_cache(maxsize=256)
def descend(instance: Instance, steps: int = HORIZON) -> Run:
    """Plain gradient descent in float64, until the residual leaves the window or ``steps`` are done."""
    theta, rate = instance.theta, instance.extra["rate"]
    normal = manifold_of(instance).normal_basis()
    residuals: list[np.ndarray] = []
    middle = None
    for step in range(1, steps + 1):
        theta = theta - rate * ordered_gradient(instance, theta)
        if step % STRIDE == 0:
            residuals.append(normal.T @ theta)
            size = np.linalg.norm(residuals[-1])
            if middle is None and size > math.sqrt(WINDOW[0] * WINDOW[1]):
                middle = theta
            if not size < WINDOW[1]:
                break
    return Run(np.array(residuals), middle, theta)


def leading(instance: Instance, run: Run, end: int = 0) -> tuple[float, np.ndarray]:
    """(λ, v) of H_NN on M_C below the middle of the window: the lowest eigenvalue (``end`` 0) or the highest (−1)."""
    at = instance.theta if run.middle is None else manifold_of(instance).project(run.middle)
    values, vectors = np.linalg.eigh(curvature_blocks(instance, at)[0])
    return float(values[end]), vectors[:, end]


def check_escape(instance: Instance) -> Evidence:
    """The rate of escape agrees with log(1 − η λ_min(H_NN)); two block-constant copies stay for as many steps."""
    run, pair = descend(instance), pair_of(instance)
    if not block_constant(pair.dag, descend(pair, run.steps).last, pair.extra["partition"]):
        return Evidence(Verdict.FAILS, note="two block-constant copies drift apart")
    predicted = math.log(1 - instance.extra["rate"] * leading(instance, run)[0])
    if run.size < WINDOW[0]:
        settled = math.log(1 - instance.extra["rate"] * instance.extra["curvatures"][0][0])  # M attracts: it ends there
        due = run.steps * settled > math.log(WINDOW[1] / EPSILON)
        note = f"residual {run.size:.1e} after {run.steps} steps, at a rate of {settled:.5f} per step"
        return Evidence(Verdict.FAILS if due else Verdict.UNDECIDED, run.size, predicted, note=note)
    return _compare(instance, run, predicted, "log(1 − η λ_min)")


def _compare(instance: Instance, run: Run, predicted: float, name: str) -> Evidence:
    observed = run.rate(leading(instance, run)[1])
    if observed is None:
        return Evidence(Verdict.UNDECIDED, note="too few looks at the residual inside the window")
    note = f"{observed:.5f} per step, {name} = {predicted:.5f}; out of the window after {run.steps} steps"
    agrees = abs(observed - predicted) <= TOLERANCE * abs(predicted)
    return Evidence(Verdict.HOLDS if agrees else Verdict.FAILS, observed, predicted, note=note)


def _leading_positive(instance: Instance) -> Evidence:
    """Mutant: the rate is that of the leading eigenvalue of +H_NN."""
    run = descend(instance)
    top = leading(instance, run, -1)[0]
    return _compare(instance, run, math.log1p(instance.extra["rate"] * top), "log(1 + η λ_max)")


def _pairs_escape(instance: Instance) -> Evidence:
    """Mutant: two block-constant copies drift apart as well, in as many steps."""
    steps, pair = descend(instance).steps, pair_of(instance)
    if not block_constant(pair.dag, descend(pair, steps).last, pair.extra["partition"]):
        return Evidence(Verdict.HOLDS)
    return Evidence(Verdict.FAILS, note=f"two block-constant copies are equal to the last bit after {steps} steps")


def _exact_escape(instance: Instance) -> Evidence:
    """Mutant: it is the dynamics, not rounding: the first step in exact arithmetic leaves M_C as the float one does."""
    theta = rational_array(instance.theta)
    rate = to_fmpq(instance.extra["rate"])
    after = theta - rate * exact_gradient_at(instance, theta)
    normals = manifold_of(instance).normal_basis(exact=True).T
    if any((n * after).sum() != 0 for n in normals):
        return Evidence(Verdict.HOLDS)
    step: dict[str, Any] = {"steps": 1, "rate": number(rate), "rule": {"name": "sgd"}}
    rounded = rational_array(instance.theta - instance.extra["rate"] * ordered_gradient(instance, instance.theta))
    sums = [(n * rounded).sum() for n in normals]
    if not any(sums):
        return Evidence(Verdict.UNDECIDED, note="the float step is on M_C as well")
    note = "the exact step stays on M_C, the rounded step does not"
    lines = [assertion(quantity("form_after", coefficients=[number(a) for a in n], **step), "==", 0) for n in normals]
    return Evidence(Verdict.FAILS, note=note, witness=lambda: witness(note, {"net": network_document(instance)}, lines))


def _is_mild(instance: Instance) -> bool:
    across, along = instance.extra["curvatures"]
    return bool(-along[0] <= MILD * -across[0])


def _is_off(instance: Instance) -> bool:
    return not block_constant(instance.dag, instance.theta, instance.extra["partition"])


def _saddles(off: bool) -> SearchStrategy[Instance]:
    return st.sampled_from(range(SEEDS)).map(lambda seed: saddle(seed, off))


ROUNDING_ESCAPE = Claim(
    id="beyond.rounding-escape",
    title="Rounding alone leaves the cloned manifold, at the rate of the most negative normal curvature",
    source=Source(BARRIERS, "v1", "Remark 2.2 and Definition A.2", "ours; an experiment, not a theorem"),
    kind="ours",
    statement=rf"Empirical, on {SEEDS} fixed networks 2-{{3}}-{{3}}-1 of units $z + z^2/2$: gradient descent in float64 from a "
    r"start in $RE \cap CE$, not block constant, near a saddle across $M_C$, leaves $M_C$ by rounding. While $\|P_N\theta\|$ is "
    rf"in [{WINDOW[0]:.0e}, {WINDOW[1]:.0e}] its component along the leading eigenvector of $-H_{{NN}}$ grows per step by the "
    rf"factor $1 − \eta\lambda_{{\min}}(H_{{NN}})$, up to {TOLERANCE:.0%} of its logarithm. Two block-constant copies of each "
    r"unit stay equal to the last bit for as many steps.",
    quantifier="for all",
    assumptions=(
        Assumption("off block-constant", "the start is in RE ∩ CE but not block constant", _is_off),
        Assumption(
            "saddle across only", f"−λ_min(H_TT) ≤ {MILD} · |λ_min(H_NN)| at the critical point: M attracts", _is_mild
        ),
    ),
    instances=_saddles(off=True),
    check=check_escape,
    expected=Verdict.HOLDS,
    proof="Off block-constant weights equal sums have unequal terms, so rounding makes them differ in the last bits: a normal "
    "perturbation, which beyond.normal-growth multiplies. The part along another eigenvector may be the larger one for a "
    "while, so the whole residual can grow more slowly. Copies with equal terms in equal order round equally.",
    without={
        "off block-constant": _saddles(off=False),
    },
    mutants=(
        Mutant("leading positive", "the rate is log(1 + η λ_max(H_NN))", _leading_positive),
        Mutant("pairs escape", "two block-constant copies drift apart as well", _pairs_escape),
        Mutant("exact escape", "exact arithmetic leaves the manifold as well", _exact_escape),
    ),
    depends_on=("beyond.normal-growth",),
    scope=Scope.LIST,
    cost=4,
)

CLAIMS: tuple[Claim, ...] = (NORMAL_GROWTH, ROUNDING_ESCAPE)
