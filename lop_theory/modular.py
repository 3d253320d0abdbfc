r"""Hessians of trained float networks modulo a prime: fast proofs that their rank is at least something.

A float is a dyadic rational, so the forward pass of a network with piecewise linear or polynomial activations can be
carried out exactly (integers over a common denominator, block by block), and every gate is known for certain. For a
squared loss the entries of H are then rationals, and reducing them modulo a prime p that divides no denominator is a
ring homomorphism:

    rank over F_p  ≤  rank over Q,      because a minor that is not 0 mod p is not 0.

*Softmax.* The logits are integers over a common denominator, F_nc / D. Put u = e^{1/D}. By the theorem of Lindemann u
is transcendental, so e^{F/D} ↦ u^F identifies the field of the entries of H with a subfield of the rational functions
Q(u). Specialising u to a unit g of F_p is again a homomorphism, on the ring where the denominators Σ_c u^{F_nc} are
inverted, as long as none of them becomes 0 mod p: p_nc = g^{F_nc} / Σ_k g^{F_nk}, with exponents taken mod p − 1. So
the same inequality holds for the true rank of the cross-entropy Hessian. We take for g a primitive root, so that no
power of u is lost early.

*Arithmetic.* Residues are held in float64 between −p/2 and p/2. With inner dimension m every dot product stays below
m (p/2 + 2)², and p < 2²¹ is lowered further until this is below 2⁵³: BLAS then computes it without rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from flint import fmpz, fmpz_mat, nmod_mat

from lop_theory.activations import Activation, KinkError, get_activation
from lop_theory.arithmetic import RATIONALS, Arithmetic, modular, rational_array
from lop_theory.dag import CONSTANT_BLOCK, FIRST_COMPUTED_BLOCK, INPUT_BLOCK, Dag
from lop_theory.forward import Pass, tile_weights
from lop_theory.hessian import assemble, curvature

FloatArray = npt.NDArray[np.float64]

_SAMPLES = 512  # samples that are reduced at once: bounds memory and the inner dimension of the products
_LARGEST_PRIME = 1 << 21
_ATTEMPTS = 50
_PANEL = 64  # columns that are eliminated at once


class UnusablePrimeError(ArithmeticError):
    """The prime divides a denominator, so the matrix has no reduction modulo it."""


@dataclass(frozen=True)
class Scaled:
    """The rational matrix ``matrix / denominator``."""

    matrix: fmpz_mat
    denominator: int

    @staticmethod
    def of(values: npt.NDArray[Any]) -> Scaled:
        """From an object array [m, n] of ``fmpq``."""
        entries = values.ravel().tolist()
        denominator = math.lcm(1, *{int(v.q) for v in entries})
        return Scaled(
            fmpz_mat(values.shape[0], values.shape[1], [v.p * (denominator // v.q) for v in entries]), denominator
        )

    def __add__(self, other: Scaled) -> Scaled:
        common = math.lcm(self.denominator, other.denominator)
        return Scaled(self._over(common) + other._over(common), common)

    def __matmul__(self, other: Scaled) -> Scaled:
        return Scaled(self.matrix * other.matrix, self.denominator * other.denominator)

    def _over(self, denominator: int) -> fmpz_mat:
        factor = denominator // self.denominator
        return self.matrix if factor == 1 else self.matrix * factor

    def transpose(self) -> Scaled:
        return Scaled(self.matrix.transpose(), self.denominator)

    def integers(self) -> npt.NDArray[Any]:
        """Object array [m, n] of the numerators."""
        out = np.empty(self.matrix.nrows() * self.matrix.ncols(), dtype=object)
        out[:] = self.matrix.entries()
        return out.reshape(self.matrix.nrows(), self.matrix.ncols())

    def modulo(self, prime: int) -> FloatArray:
        """Residues in [0, p) as float64 [m, n]."""
        if self.denominator % prime == 0:
            raise UnusablePrimeError(f"{prime} divides the denominator {self.denominator}; take another prime")
        residues = [int(v) for v in nmod_mat(self.matrix, prime).entries()]
        whole = np.array(residues, dtype=np.float64).reshape(self.matrix.nrows(), self.matrix.ncols())
        return np.mod(whole * pow(self.denominator, -1, prime), prime)


@dataclass(frozen=True)
class ExactPass:
    """A forward pass over Q: ``weights`` by tile [n_target, n_source], ``z`` and ``h`` by block [N, n], ``output``.

    ``pieces[b]`` [N, n] numbers the linear piece on which each pre-activation lies (0 for polynomials).
    """

    weights: tuple[Scaled, ...]
    z: dict[int, Scaled]
    h: dict[int, Scaled]
    pieces: dict[int, npt.NDArray[np.int64]]
    output: Scaled


def exact_forward(dag: Dag, theta: Any, x: Any) -> ExactPass:
    """The forward pass of θ [P] on x [N, I] over Q; floats are read as the dyadic rationals that they are.

    Raises :class:`KinkError` if a pre-activation is exactly on a breakpoint, ``ValueError`` for a smooth activation.

    >>> from lop_theory.architectures import mlp
    >>> run = exact_forward(mlp([1, 1, 1]), [0.5, 0.25, -1.0, 0.0], [[1.0], [-1.0]])
    >>> run.output.integers().tolist(), run.output.denominator, run.pieces[2].tolist()
    ([[-3], [0]], 4, [[1], [0]])
    """
    parameters, inputs = rational_array(theta), rational_array(x)
    weights = tuple(Scaled.of(tile_weights(RATIONALS, t, parameters)) for t in dag.tiles)
    ones = fmpz_mat(len(inputs), int(dag.has_constant), [1] * (len(inputs) * int(dag.has_constant)))
    h = {INPUT_BLOCK: Scaled.of(inputs), CONSTANT_BLOCK: Scaled(ones, 1)}
    z: dict[int, Scaled] = {}
    pieces: dict[int, npt.NDArray[np.int64]] = {}
    for b in range(FIRST_COMPUTED_BLOCK, len(dag.blocks)):
        parts = [h[t.source] @ w.transpose() for t, w in zip(dag.tiles, weights, strict=True) if t.target == b]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        z[b] = total
        h[b], pieces[b] = _activate(dag, b, total)
    return ExactPass(weights, z, h, pieces, _output(dag, h))


def _output(dag: Dag, h: dict[int, Scaled]) -> Scaled:
    common = math.lcm(*(h[b].denominator for b, _, _ in dag.output_places))
    out = np.empty((h[INPUT_BLOCK].matrix.nrows(), dag.num_outputs), dtype=object)
    for b, rows, columns in dag.output_places:
        out[:, columns] = h[b].integers()[:, rows] * (common // h[b].denominator)
    return Scaled(fmpz_mat(out.shape[0], out.shape[1], out.ravel().tolist()), common)


def _activate(dag: Dag, b: int, z: Scaled) -> tuple[Scaled, npt.NDArray[np.int64]]:
    """(h, piece) of block b from its pre-activations."""
    integers = z.integers()
    pieces = np.zeros(integers.shape, dtype=np.int64)
    results = []
    for name, places in dag.blocks[b].activations:
        activation = get_activation(name)
        if activation.is_piecewise_linear:
            pieces[:, places] = _piece(dag, b, activation, places, integers[:, places], z.denominator)
            results.append(_linear(activation, pieces[:, places], integers[:, places], z.denominator))
        elif activation.coefficients:
            results.append(_polynomial(activation, integers[:, places], z.denominator))
        else:
            raise ValueError(
                f"activation {name!r} is not rational; use a piecewise linear or polynomial one, or ball_hessian"
            )
    common = math.lcm(*(denominator for _, denominator in results))
    for (_, places), (values, denominator) in zip(dag.blocks[b].activations, results, strict=True):
        integers[:, places] = values if denominator == common else values * (common // denominator)
    return Scaled(fmpz_mat(integers.shape[0], integers.shape[1], integers.ravel().tolist()), common), pieces


def _piece(
    dag: Dag, b: int, activation: Activation, places: npt.NDArray[Any], values: npt.NDArray[Any], denominator: int
) -> npt.NDArray[np.int64]:
    """Index of the linear piece of values / denominator, compared with the breakpoints in integers."""
    index = np.zeros(values.shape, dtype=np.int64)
    for at in activation.breakpoints:
        left, right = values * at.denominator, fmpz(at.numerator * denominator)
        if (left == right).any():
            sample, place = (int(v[0]) for v in (left == right).nonzero())
            unit = int(dag.blocks[b].units[places[place]])
            raise KinkError(
                f"pre-activation {at} of unit {unit} on sample {sample} is exactly on a kink of {activation.name}; "
                "second derivatives do not exist there; move a bias or an input"
            )
        index += (left > right).astype(np.int64)
    return index


def _common(numbers: tuple[Fraction, ...]) -> tuple[list[int], int]:
    common = math.lcm(*(c.denominator for c in numbers))
    return [int(c * common) for c in numbers], common


def _linear(
    activation: Activation, pieces: npt.NDArray[np.int64], values: npt.NDArray[Any], denominator: int
) -> tuple[npt.NDArray[Any], int]:
    count = len(activation.slopes)
    numbers, common = _common(activation.slopes + activation.intercepts)
    slopes, intercepts = (
        np.array([fmpz(c) for c in part], dtype=object) for part in (numbers[:count], numbers[count:])
    )
    return values * slopes[pieces] + (intercepts * denominator)[pieces], denominator * common


def _polynomial(activation: Activation, values: npt.NDArray[Any], denominator: int) -> tuple[npt.NDArray[Any], int]:
    """Horner's rule on numerators: Σ c_k (v/D)^k = Σ (c_k q) v^k D^{d−k} / (q D^d)."""
    numbers, common = _common(activation.coefficients)
    total, power = values * 0 + numbers[-1], 1
    for number in reversed(numbers[:-1]):
        power *= denominator
        total = total * values + number * power
    return total, common * power


# -- modulo a prime ----------------------------------------------------------------------------------------------------


def primes_for(dag: Dag, samples: int) -> Iterator[int]:
    """Primes below 2²¹, largest first, for which every product in :func:`modular_hessian` is exact in float64.

    The inner dimensions are the samples of a chunk, the fan-ins and fan-outs between blocks, and the outputs.

    >>> from lop_theory.architectures import mlp
    >>> next(primes_for(mlp([20, 42, 40, 10]), 500))
    2097143
    """
    into = np.zeros(len(dag.blocks), dtype=np.int64)
    out_of = np.zeros(len(dag.blocks), dtype=np.int64)
    for tile in dag.tiles:
        into[tile.target] += tile.index.shape[1]
        out_of[tile.source] += tile.index.shape[0]
    inner = int(max(min(samples, _SAMPLES), into.max(), out_of.max(), dag.num_outputs))
    # (p/2 + 2)² · inner + 2 p < 2⁵³ for p = 2 (√(2⁵³ / (inner + 1)) − 4), because 2 p is less than one more square.
    limit = min(_LARGEST_PRIME, 2 * (math.isqrt((1 << 53) // (inner + 1)) - 4))
    return (p for p in range(limit, 2, -1) if p % 2 and fmpz(p).is_prime())


def balanced(prime: int) -> Arithmetic:
    """``modular(prime)`` with residues of size at most p/2 + 2: half the size, and ten times faster than ``mod``.

    Exact for integers below 2⁵³ − 2p: the quotient a/p is computed with an error below 2/p, so its rounded value q
    satisfies |a − q p| ≤ p/2 + 2, and both q p and a − q p are integers below 2⁵³.

    >>> balanced(7).reduce(np.array([3.0, 4.0, -10.0])).tolist()
    [3.0, -3.0, -3.0]
    """
    inverse, p = 1.0 / prime, float(prime)

    def reduce(a: FloatArray) -> FloatArray:
        quotient = np.asarray(a * inverse)
        np.rint(quotient, out=quotient)
        quotient *= p
        return np.subtract(a, quotient, out=quotient)

    return replace(modular(prime), reduce=reduce)


def modular_hessian(dag: Dag, run: ExactPass, y: Any, kind: str, prime: int) -> FloatArray:
    """N times the Hessian of a mean loss (the Hessian itself for ``mse_sum``), reduced mod p: balanced residues [P, P].

    ``prime`` comes from :func:`primes_for`. Raises :class:`UnusablePrimeError` if it divides a denominator.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 1])                                          # mod 7: 1/4 = 2, 1/2 = −3
    >>> modular_hessian(net, exact_forward(net, [2.0, 1.0], [[0.5]]), [[0.0]], "mse_sum", 7).tolist()
    [[2.0, -3.0], [-3.0, 1.0]]
    """
    ops = balanced(prime)
    weights = tuple(ops.reduce(w.modulo(prime)) for w in run.weights)
    h = {b: ops.reduce(v.modulo(prime)) for b, v in run.h.items()}
    slopes, bends = modular_slopes_and_bends(ops, dag, run, prime)
    gradient, loss_hessian = modular_loss_derivatives(ops, run.output, y, kind, prime)
    out = ops.zeros((dag.num_params, dag.num_params))
    for first in range(0, len(gradient), _SAMPLES):
        rows = slice(first, first + _SAMPLES)
        part = Pass(weights, {}, {b: v[rows] for b, v in h.items()}, None)
        chunk = [{b: v[rows] for b, v in values.items()} for values in (slopes, bends)]
        parts = curvature(ops, dag, part, chunk[0], chunk[1] or None, (gradient[rows], loss_hessian[rows]))
        out = assemble(ops, dag, parts, out, residual=True)
    return np.asarray(out)


def modular_slopes_and_bends(
    ops: Arithmetic, dag: Dag, run: ExactPass, prime: int
) -> tuple[dict[int, FloatArray], dict[int, FloatArray]]:
    """f' and f'' [N, n] mod p by block; f'' is left out altogether if every activation is piecewise linear.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 1, 1], "square")
    >>> run = exact_forward(net, [2, 0, 1, 0], [[3]])                                             # z = 6, f' = 12, f'' = 2
    >>> slopes, bends = modular_slopes_and_bends(balanced(7), net, run, 7)
    >>> slopes[2].tolist(), bends[2].tolist()
    ([[-2.0]], [[2.0]])
    """
    slopes: dict[int, FloatArray] = {}
    bends: dict[int, FloatArray] = {}
    for b, z in run.z.items():
        slopes[b], bends[b] = np.zeros(run.pieces[b].shape), np.zeros(run.pieces[b].shape)
        for name, places in dag.blocks[b].activations:
            activation = get_activation(name)
            if activation.is_piecewise_linear:
                table = np.array([_residue(s, prime) for s in activation.slopes])
                slopes[b][:, places] = table[run.pieces[b][:, places]]
            else:
                residues = ops.reduce(z.modulo(prime)[:, places])
                slopes[b][:, places] = _horner(ops, activation, residues, 1, prime)
                bends[b][:, places] = _horner(ops, activation, residues, 2, prime)
        slopes[b] = ops.reduce(slopes[b])
    linear = all(get_activation(name).is_piecewise_linear for name in dict.fromkeys(dag.activations))
    return slopes, {} if linear else bends


def _residue(value: Fraction, prime: int) -> float:
    if value.denominator % prime == 0:
        raise UnusablePrimeError(f"{prime} divides the denominator of {value}; take another prime")
    return float(value.numerator * pow(value.denominator, -1, prime) % prime)


def _horner(ops: Arithmetic, activation: Activation, z: FloatArray, order: int, prime: int) -> FloatArray:
    total = np.zeros_like(z)
    for k in range(len(activation.coefficients) - 1, order - 1, -1):
        total = ops.reduce(total * z + _residue(activation.coefficients[k] * math.perm(k, order), prime))
    return total


def modular_loss_derivatives(
    ops: Arithmetic, output: Scaled, y: Any, kind: str, prime: int
) -> tuple[FloatArray, FloatArray]:
    """Gradient [N, O] and Hessian [N, O, O] of the sum of the losses at the outputs, mod p.

    >>> output = Scaled.of(rational_array([["1/2", 0]]))
    >>> modular_loss_derivatives(balanced(7), output, [[0, 1]], "mse_sum", 7)[0].tolist()          # 1/2 = 4 = −3
    [[-3.0, -1.0]]
    """
    samples, outputs = output.matrix.nrows(), output.matrix.ncols()
    identity = np.eye(outputs)
    if kind != "cross_entropy":
        residual = output + Scaled.of(-rational_array(y))
        return ops.reduce(residual.modulo(prime)), np.broadcast_to(identity, (samples, outputs, outputs))
    p = ops.reduce(_softmax(output, prime))
    labels = np.asarray(y, dtype=np.int64)
    return p - identity[labels], ops.reduce(p[:, :, None] * identity - p[:, :, None] * p[:, None, :])


def _softmax(logits: Scaled, prime: int) -> FloatArray:
    """g^F / Σ g^F mod p for a primitive root g: the image of softmax(F / D) when e^{1/D} goes to g."""
    g = _primitive_root(prime)
    rows = []
    for row in logits.integers().tolist():
        powers = [pow(g, int(f % (prime - 1)), prime) for f in row]
        total = sum(powers) % prime
        if total == 0:
            raise UnusablePrimeError(f"a denominator of the softmax is 0 mod {prime}; take another prime")
        inverse = pow(total, -1, prime)
        rows.append([power * inverse % prime for power in powers])
    return np.array(rows, dtype=np.float64)


def _primitive_root(prime: int) -> int:
    factors = [int(q) for q, _ in fmpz(prime - 1).factor()]
    return next(g for g in range(1, prime) if all(pow(g, (prime - 1) // q, prime) != 1 for q in factors))


def residue_rank(matrix: FloatArray, prime: int) -> int:
    """Rank over F_p of a symmetric matrix of residues [n, n] (whole float64 numbers of size below 2⁵³ − 2p), p < 2²¹.

    Gaussian elimination by panels of columns: the panel is eliminated column by column, the rest by one product
    A₂₂ − L₂₁ L₁₁⁻¹ A₁₂. Only what is read next is reduced mod p. After k pivots an entry has grown by at most
    k (p/2 + 2)², so the whole matrix is reduced when k reaches ``capacity``, about 8,000 pivots for p near 2²¹.

    >>> residue_rank(np.array([[1.0, 2.0, 0.0], [2.0, -3.0, 0.0], [0.0, 0.0, 0.0]]), 7)
    1
    """
    reduce = balanced(prime).reduce
    live = np.flatnonzero(matrix.any(axis=1))
    work = reduce(matrix[np.ix_(live, live)])
    capacity = (1 << 53) // (prime // 2 + 2) ** 2 - 2
    rank = pending = 0
    while work.size:
        if pending + _PANEL > capacity:
            work, pending = reduce(work), 0
        order, lower = _eliminate_panel(reduce(work[:, :_PANEL]), prime)
        pivots = lower.shape[1]
        rest = work[order, _PANEL:]
        upper = reduce(_unit_lower_inverse(lower[:pivots], prime) @ reduce(rest[:pivots]))
        work = rest[pivots:] - lower[pivots:] @ upper
        rank, pending = rank + pivots, pending + pivots
    return rank


def _eliminate_panel(panel: FloatArray, prime: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """(order, L): rows ``order`` of the panel [m, w] are L [m, k] times an echelon form, L unit lower trapezoidal."""
    reduce = balanced(prime).reduce
    order = np.arange(len(panel))
    lower = np.zeros((len(panel), min(panel.shape)))
    k = 0
    for c in range(panel.shape[1]):
        column = reduce(panel[k:, c])
        if not column.any():
            continue
        swap, back = [k, k + int(np.argmax(column != 0))], [k + int(np.argmax(column != 0)), k]
        for array in (panel, lower, order):
            array[swap] = array[back]
        column[[i - k for i in swap]] = column[[i - k for i in back]]
        lower[k:, k] = reduce(column * reduce(np.float64(pow(int(column[0]), -1, prime))))
        panel[k + 1 :, c + 1 :] -= lower[k + 1 :, k, None] * reduce(panel[k, c + 1 :])
        k += 1
        if k == len(panel):
            break
    return order, lower[:, :k]


def _unit_lower_inverse(lower: FloatArray, prime: int) -> FloatArray:
    """(I + N)⁻¹ = (I − N)(I + N²)(I + N⁴) … mod p for the nilpotent N = L − I."""
    reduce = balanced(prime).reduce
    power = lower - np.eye(len(lower))
    inverse, exponent = np.eye(len(lower)) - power, 1
    while 2 * exponent < len(lower):
        power, exponent = reduce(power @ power), 2 * exponent
        inverse = reduce(inverse + inverse @ power)
    return inverse


def modular_lower_bound(dag: Dag, run: ExactPass, y: Any, kind: str) -> tuple[int, int]:
    """(rank, p): the rank of the Hessian modulo the first usable prime p, a proven lower bound of its rank.

    Raises :class:`UnusablePrimeError` if fifty primes fail, which happens only for about a million samples or more.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2])
    >>> modular_lower_bound(net, exact_forward(net, [0.5, -1.0, 0.25, 0.0], [[1.0], [3.0]]), [0, 1], "cross_entropy")[0]
    2
    """
    for _, prime in zip(range(_ATTEMPTS), primes_for(dag, run.output.matrix.nrows())):
        try:
            return residue_rank(modular_hessian(dag, run, y, kind, prime), prime), prime
        except UnusablePrimeError:
            continue
    raise UnusablePrimeError(f"each of {_ATTEMPTS} primes divides a denominator; use fewer samples")
