"""Number systems behind one small linear-algebra interface.

Forward pass, error signals and Hessian are written once (``forward.py``, ``hessian.py``) in terms of ``+ * @``, slicing,
``reshape`` and ``swapaxes``, which torch tensors and numpy arrays share. What differs is gathered here:

=============  ==========================  ===========================================================
system         array                       used for
=============  ==========================  ===========================================================
``TENSORS``    torch, any float dtype       training, automatic differentiation, fast float Hessians
``FLOATS``     numpy float64                small exact integer problems (exact below 2⁵³, see hessian.py)
``RATIONALS``  numpy object of ``fmpq``     exact arithmetic over Q of any size
``BALLS``      numpy object of ``arb``      rigorous enclosures
modular(p)     numpy float64 reduced mod p  proven lower bounds of ranks
=============  ==========================  ===========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from flint import arb, fmpq, fmpz

from lop_theory.activations import Activation

Array = Any  # torch.Tensor or np.ndarray, as the number system says


def to_fmpq(value: Any) -> fmpq:
    """The exact rational value of an int, Fraction, fmpz, fmpq or finite float (floats are dyadic rationals).

    >>> to_fmpq(0.375)
    3/8
    """
    if isinstance(value, fmpq):
        return value
    if isinstance(value, (fmpz, int, np.integer)):
        return fmpq(int(value))
    if isinstance(value, (float, np.floating)):
        if not np.isfinite(value):
            raise ValueError(f"{value} has no exact rational value; entries must be finite")
        return fmpq(*float(value).as_integer_ratio())
    if isinstance(value, (Fraction, str)):
        fraction = Fraction(value)
        return fmpq(fraction.numerator, fraction.denominator)
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        return to_fmpq(value.item())
    raise TypeError(
        f"{value!r} ({type(value).__name__}) is not an exact number; use int, Fraction, fmpq or a finite float"
    )


def rational_array(values: Any) -> np.ndarray:
    """Object array of ``fmpq`` with the shape of ``values`` (nested lists, arrays or tensors)."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values, dtype=object)
    return np.frompyfunc(to_fmpq, 1, 1)(array) if array.size else array


@dataclass(frozen=True)
class Arithmetic:
    """One number system: how to make arrays, move axes, apply activations, and reduce after a product."""

    name: str
    zeros: Callable[[Sequence[int]], Array]
    convert: Callable[[Any], Array]
    concatenate: Callable[[Sequence[Array], int], Array]
    permute: Callable[[Array, Sequence[int]], Array]
    activate: Callable[[Activation, Array, int], Array]
    reduce: Callable[[Array], Array]


def _plain(a: Any) -> Any:
    """Torch does not read object arrays (fixed weights): make them float64."""
    return a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == object else a


def _identity(a: Array) -> Array:
    return a


def _permute_numpy(a: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    return a.transpose(axes)


def _concatenate_numpy(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=axis)


def _activate_floats(activation: Activation, z: np.ndarray, order: int) -> np.ndarray:
    if activation.name == "relu":  # the hot case of the property checks
        return np.maximum(z, 0.0) if order == 0 else (z > 0).astype(z.dtype) if order == 1 else np.zeros_like(z)
    return activation.tensor[order](torch.from_numpy(np.ascontiguousarray(z))).numpy()


def tensors(like: torch.Tensor) -> Arithmetic:
    """Torch tensors with the dtype and device of ``like``."""
    dtype, device = like.dtype, like.device
    return Arithmetic(
        "tensors",
        lambda shape: torch.zeros(tuple(shape), dtype=dtype, device=device),
        lambda a: torch.as_tensor(_plain(a), dtype=dtype, device=device),
        lambda arrays, axis: arrays[0] if len(arrays) == 1 else torch.cat(list(arrays), dim=axis),
        lambda a, axes: a.permute(*axes),
        lambda activation, z, order: activation.tensor[order](z),
        _identity,
    )


FLOATS = Arithmetic(
    "floats",
    lambda shape: np.zeros(tuple(shape)),
    lambda a: np.asarray(a, dtype=np.float64),
    _concatenate_numpy,
    _permute_numpy,
    _activate_floats,
    _identity,
)


def _objects(name: str, zero: Any, convert: Callable[[Any], np.ndarray], scalar: Callable[..., Any]) -> Arithmetic:
    def activate(activation: Activation, z: np.ndarray, order: int) -> np.ndarray:
        out = np.empty(z.shape, dtype=object)
        flat, source = out.reshape(-1), z.reshape(-1)
        for k in range(z.size):
            flat[k] = scalar(activation, source[k], order)
        return out

    def zeros(shape: Sequence[int]) -> np.ndarray:
        return np.full(tuple(shape), zero, dtype=object)

    return Arithmetic(name, zeros, convert, _concatenate_numpy, _permute_numpy, activate, _identity)


def _balls_of(values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=object)

    def one(v: Any) -> arb:
        return v if isinstance(v, arb) else arb(to_fmpq(v))

    return np.frompyfunc(one, 1, 1)(array) if array.size else array


RATIONALS = _objects("rationals", fmpq(0), rational_array, lambda activation, z, order: activation.exact(z, order))
BALLS = _objects("balls", arb(0), _balls_of, lambda activation, z, order: activation.ball[order](z))


def modular(prime: int) -> Arithmetic:
    """Residues mod ``prime`` held in float64: a product of two residue matrices is exact while p² · inner size < 2⁵³.

    Activations are not defined on residues (they need an order); callers pass their values and slopes in.
    """

    def activate(activation: Activation, z: np.ndarray, order: int) -> np.ndarray:
        raise TypeError(f"{activation.name} of a residue mod {prime} is undefined; pass exact values and slopes")

    return Arithmetic(
        f"integers mod {prime}",
        FLOATS.zeros,
        FLOATS.convert,
        _concatenate_numpy,
        _permute_numpy,
        activate,
        lambda a: np.mod(a, float(prime)),
    )
