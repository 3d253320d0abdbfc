r"""Standard normal numbers for many replicas on a CPU, each replica from one 64-bit key: compiled, in vector instructions.

A generator of torch makes one number after the other, 4 ns each in float32 and 18 ns in float64; for 32 noisy gradients that is
more than the rest of the step. Here number pair n is a function of (key, n) alone: SplitMix64 (Steele, Lea & Flood 2014),
started at the key, gives a uniform u in (0, 1] and an angle, and Box–Muller gives √(−2 ln u) (cos, sin). The angle is
drawn in [−π/4, π/4) with a quadrant, so that short Taylor sums do; ln u is taken from exponent and mantissa m ∈ [√½, √2) with
ln m = 2 artanh((m − 1)/(m + 1)). Their truncation is below the rounding of the dtype.

Loading this module loads numba (half a second): import it where it is needed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["normals"]

Floats = NDArray[np.floating]
CHUNK = 256  # pairs at a time, which stay in the fastest memory
compiled: Any = njit(nogil=True, cache=True, error_model="numpy")

GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_1, _2, _27, _30, _31, _62 = (np.uint64(k) for k in (1, 2, 27, 30, 31, 62))

# bits of a uniform number; √½ as an integer, and the bits of a mantissa; degrees of the sums for the logarithm and the angle
FORMATS: dict[str, tuple[int, Any, Any, int, int]] = {
    "float32": (24, np.int32(0x3F3504F3), np.int32(23), 9, 10),
    "float64": (53, np.int64(0x3FE6A09E667F3BCD), np.int64(52), 21, 18),
}


@compiled
def _words(key: np.uint64, first: int, odd: int, words: NDArray[np.uint64]) -> None:
    for k in range(words.size):
        z = key + np.uint64(2 * (first + k) + odd + 1) * GAMMA
        z = (z ^ (z >> _30)) * MIX_1
        z = (z ^ (z >> _27)) * MIX_2
        words[k] = z ^ (z >> _31)


@compiled
def _chunk(
    key: np.uint64, first: int, x: Floats, y: Floats, words: NDArray[np.uint64], u: Floats, mantissa: Any, e: Floats,
    shift: np.uint64, scale: float, root_half: Any, bits: Any, one: float, logs: Floats, cosines: Floats, sines: Floats,
) -> None:  # fmt: skip
    """Pairs ``first``, … of one replica: cosines go to x, sines to y. ``mantissa`` is the memory of u as integers."""
    ln2, width = one * math.log(2.0), one * (math.pi / 2)
    _words(key, first, 0, words)
    for k in range(x.size):
        u[k] = (one * np.int64(words[k] >> shift) + one) * scale
    for k in range(x.size):
        exponent = (mantissa[k] - root_half) >> bits
        mantissa[k] -= exponent << bits  # u becomes m
        e[k] = exponent
    for k in range(x.size):
        u[k] = (u[k] - one) / (u[k] + one)
        x[k] = logs[0]
    for d in range(1, logs.size):
        c = logs[d]
        for k in range(x.size):
            x[k] = x[k] * (u[k] * u[k]) + c
    for k in range(x.size):
        u[k] = math.sqrt(-(one + one) * (e[k] * ln2 + (u[k] + u[k]) * x[k]))
    _words(key, first, 1, words)
    for k in range(x.size):
        e[k] = (one * np.int64((words[k] << _2) >> shift) * scale - one / (one + one)) * width
        x[k] = y[k] = one
    for d in range(cosines.size):
        c, s = cosines[d], sines[d]
        for k in range(x.size):
            square = e[k] * e[k]
            x[k] = one - x[k] * square * c
            y[k] = one - y[k] * square * s
    for k in range(x.size):
        quadrant = words[k] >> _62
        cos, sin, size = x[k], y[k] * e[k], u[k] * (one - one * np.int64(quadrant & _2))
        x[k] = size * (sin if quadrant & _1 else cos)
        y[k] = size * (cos if quadrant & _1 else sin)


@compiled
def _fill(
    keys: NDArray[np.uint64], pair: int, out: Floats, words: NDArray[np.uint64], u: Floats, mantissa: Any, e: Floats,
    shift: np.uint64, scale: float, root_half: Any, bits: Any, one: float, logs: Floats, cosines: Floats, sines: Floats,
) -> None:  # fmt: skip
    for r in range(keys.size):
        for first in range(0, out.shape[1] // 2, words.size):
            n = min(words.size, out.shape[1] // 2 - first)
            x, y = out[r, 2 * first : 2 * first + n], out[r, 2 * first + n : 2 * (first + n)]
            _chunk(keys[r], pair + first, x, y, words[:n], u[:n], mantissa[:n], e[:n], shift, scale, root_half, bits, one,
                   logs, cosines, sines)  # fmt: skip


def normals(keys: NDArray[np.uint64], count: int, dtype: str, pair: int = 0) -> Floats:
    """``count`` numbers for each key, from pair number ``pair`` on, [R, count], in "float32" or "float64".

    >>> keys = np.array([3, 5], np.uint64)
    >>> both, single = normals(keys, 7, "float64"), normals(keys, 7, "float32")
    >>> bool((normals(keys[1:], 7, "float64")[0] == both[1]).all()), bool(abs(both - single).max() < 1e-6)
    (True, True)
    """
    precision, root_half, bits, logs, angle = FORMATS[dtype]
    own = np.dtype(dtype).type
    out = np.empty((len(keys), count + count % 2), dtype)
    u, e, words = np.empty(CHUNK, dtype), np.empty(CHUNK, dtype), np.empty(CHUNK, np.uint64)
    _fill(
        keys, pair, out, words, u, u.view(type(root_half)), e, np.uint64(64 - precision), own(2.0**-precision), root_half, bits,
        own(1),
        np.array([1 / d for d in range(logs, 0, -2)], dtype),
        np.array([1 / (d * (d - 1)) for d in range(angle, 0, -2)], dtype),
        np.array([1 / (d * (d + 1)) for d in range(angle, 0, -2)], dtype),
    )  # fmt: skip
    return out[:, :count]
