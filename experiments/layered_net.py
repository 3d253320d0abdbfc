"""A layered ReLU net of one replica in flat arrays, and the passes over a row of weights of which its updates are made.

For :mod:`experiments.layered_kernel`, which says why weights are stored transposed. Everything here is inlined by the
compiler of numba into the loops that call it.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "SGD",
    "MOMENTUM",
    "ADAM",
    "Net",
    "Rule",
    "compiled",
    "inlined",
    "reduced",
    "offset",
    "layer_of",
    "scale_weights",
    "add",
    "add_four",
    "dot",
    "dot_then_add",
    "dot_then_add_counted",
    "size_of",
    "count_size",
]

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

SGD, MOMENTUM, ADAM = range(3)

SOURCES = sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("layered_*.py")))).hexdigest()


def compiled(function: Any, **options: Any) -> Any:
    """``njit`` with a cache on disk that knows the files of this kernel.

    numba renews a cached function when its own file changes; a change in a function that was inlined from another file
    would go unnoticed.
    """
    made = njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    file = made._cache._cache_file
    assert "_source_stamp" in vars(file), "numba keeps the stamp of its cache elsewhere now: see compiled()"
    file._source_stamp = SOURCES
    return made


def inlined(function: Any, **options: Any) -> Any:
    """The same, with its code in that of every caller.

    For whatever holds a sum in vector lanes: else the process that compiles takes the function itself, later processes a copy
    in the cached caller, whose lanes may be other ones, and with them the last bits.
    """
    return compiled(function, forceinline=True, **options)


def reduced(function: Any) -> Any:
    """The same, with sums in vector lanes."""
    return inlined(function, fastmath={"reassoc", "nsz"})


class Net(NamedTuple):
    """One replica. Layer l owns W [n_{l−1}, n_l] (transposed) and then b [n_l] of ``theta`` [P]; moments are stored alike."""

    widths: Ints  # [L + 1]
    theta: Floats
    first: Floats  # [P] velocity, or first moments; [0] if the optimiser has none
    second: Floats  # [P] second moments, or [0]


class Rule(NamedTuple):
    """The learning rule; floats have the dtype of the net where nothing else is said."""

    optimizer: int
    step_size: float
    weight_decay: float  # λ of L2, SGD only
    mu: float
    beta1: float  # float64, like the next: powers are taken of these
    beta2: float
    beta1_complement: float
    beta2_complement: float
    beta2_own: float
    adam_eps: float
    replaces: bool  # whether units are observed and replaced (Continual Backprop)
    replacement_rate: float  # float64
    maturity: float  # float64
    decay: float  # η
    decay_complement: float
    one: float


# -- layers ----------------------------------------------------------------------------------------------------------------


@compiled
def offset(widths: Ints, layer: int) -> int:
    """Where the weights of a layer begin."""
    return ((widths[:layer] + 1) * widths[1 : layer + 1]).sum()


@compiled
def layer_of(net: Net, flat: Floats, layer: int) -> tuple[Floats, Floats]:
    """W [n_{l−1}, n_l] and b [n_l] of a layer, as views of ``flat``."""
    begin, into, out = offset(net.widths, layer), net.widths[layer], net.widths[layer + 1]
    end = begin + into * out
    return flat[begin:end].reshape(into, out), flat[end : end + out]


@compiled
def scale_weights(net: Net, scale: float) -> None:
    """Multiply the weights, not the biases."""
    for layer in range(net.widths.size - 1):
        weight, _ = layer_of(net, net.theta, layer)
        for j in range(weight.shape[0]):
            for i in range(weight.shape[1]):
                weight[j, i] *= scale


# -- rows ------------------------------------------------------------------------------------------------------------------


@compiled
def add(row: Floats, a: float, d: Floats) -> None:
    """w_i += a d_i."""
    for i in range(row.size):
        row[i] += a * d[i]


@compiled
def add_four(row: Floats, a: tuple[float, ...], d0: Floats, d1: Floats, d2: Floats, d3: Floats) -> None:
    """w_i += Σ_k a_k d_ki, in one pass."""
    for i in range(row.size):
        row[i] += (a[0] * d0[i] + a[1] * d1[i]) + (a[2] * d2[i] + a[3] * d3[i])


@reduced
def dot(row: Floats, d: Floats) -> float:
    """Σ w_i d_i."""
    total = row[0] - row[0]
    for i in range(row.size):
        total += row[i] * d[i]
    return total


@reduced
def dot_then_add(row: Floats, a: float, d: Floats) -> float:
    """Σ w_i d_i, and w_i += a d_i afterwards: each weight is read and written once."""
    total = row[0] - row[0]
    for i in range(row.size):
        w = row[i]
        total += w * d[i]
        row[i] = w + a * d[i]
    return total


@reduced
def dot_then_add_counted(row: Floats, a: float, d: Floats, into: Floats) -> tuple[float, float]:
    """The same, while Σ|w| over the columns follows; also the new Σ|w| of the row."""
    total = row[0] - row[0]
    size = total
    for i in range(row.size):
        w = row[i]
        total += w * d[i]
        new = w + a * d[i]
        into[i] += abs(new) - abs(w)
        size += abs(new)
        row[i] = new
    return total, size


@reduced
def size_of(row: Floats) -> float:
    """Σ |w_i|."""
    total = abs(row[0]) - abs(row[0])
    for i in range(row.size):
        total += abs(row[i])
    return total


@compiled
def count_size(row: Floats, sign: float, total: Floats) -> None:
    """The row taken out of (sign −1) or into (sign 1) the sums of |w| over the columns."""
    for i in range(row.size):
        total[i] += sign * abs(row[i])
