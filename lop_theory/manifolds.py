r"""Affine subspaces of parameter space, {θ : A θ = c}, with A and c rational.

Every loss-of-plasticity manifold of *Barriers* (arXiv 2510.00304, Theorem 2.1) is of this form: fixed coordinates
(frozen units), or linear equations between the weights of two blocks (clones). With the Gram matrix G = A Aᵀ (A of full
row rank),

    project(θ) = θ − Aᵀ G⁻¹ (A θ − c),     normal_part(v) = Aᵀ G⁻¹ A v,     tangent_part(v) = v − normal_part(v)

*Exact* input (int, Fraction, ``fmpq``; see :func:`as_vector`) is handled over Q by FLINT; floats go through an
orthonormal basis Q of the row space, with the same identities up to rounding: normal_part(v) = Q Qᵀ v.

Equations that share no coordinate do not interact, so the equations are split into *components* (connected through
shared coordinates) and each is solved alone: frozen coordinates cost nothing, and a cloned manifold has one component
per pair of blocks. The dimension is P − rank A.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from flint import fmpq, fmpq_mat

from lop_theory.arithmetic import Array, rational_array, to_fmpq

Generator = torch.Generator | np.random.Generator
Equation = tuple[Mapping[int, Any], Any]  # {coordinate: coefficient}, right-hand side


def as_vector(values: Any, length: int, name: str = "theta") -> Array:
    """θ or another array whose first axis is θ's: floating torch tensors and numpy arrays as they are, the rest over Q.

    Lists, integer arrays and object arrays become numpy object arrays of ``fmpq`` (a float in a list is the dyadic
    rational it stands for). Raises ``ValueError`` on a wrong length and on NaN or infinity.

    >>> as_vector([1, 0.5], 2).tolist()
    [1, 1/2]
    >>> as_vector([1, 0.5], 3)
    Traceback (most recent call last):
        ...
    ValueError: theta has shape (2,); the first axis must have P = 3 entries, one per parameter
    """
    if isinstance(values, torch.Tensor) and values.dtype.is_floating_point:
        array: Array = values
        finite = bool(torch.isfinite(values).all())
    elif isinstance(values, np.ndarray) and values.dtype.kind == "f":
        array, finite = values, bool(np.isfinite(values).all())
    else:
        array, finite = np.asarray(rational_array(values), dtype=object), True
    if array.ndim < 1 or array.shape[0] != length:
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}; the first axis must have P = {length} entries, one per parameter"
        )
    if not finite:
        raise ValueError(f"{name} contains NaN or infinity; all entries must be finite; look for a diverged run")
    return array


def is_exact(array: Array) -> bool:
    """Is this array (made by :func:`as_vector`) one of rationals?"""
    return isinstance(array, np.ndarray) and array.dtype == object


@dataclass(frozen=True)
class _Component:
    """Equations that share coordinates, reduced: ``rows`` [r, n] has full row rank, its coordinates are ``indices``."""

    indices: np.ndarray
    rows: fmpq_mat
    rhs: fmpq_mat
    pivots: tuple[int, ...]

    @cached_property
    def lift(self) -> fmpq_mat:
        """Aᵀ (A Aᵀ)⁻¹ [n, r], the pseudo-inverse of A."""
        transposed = self.rows.transpose()
        return transposed * (self.rows * transposed).inv()

    @cached_property
    def point(self) -> np.ndarray:
        """The solution of least norm, Aᵀ G⁻¹ c [n]."""
        return from_matrix(self.lift * self.rhs)[:, 0]

    @cached_property
    def orthonormal(self) -> np.ndarray:
        """A complete orthonormal basis [n, n] in float64: the first r columns span the row space."""
        rows = from_matrix(self.rows).astype(np.float64)
        return np.linalg.qr(rows.T, mode="complete")[0]

    @cached_property
    def kernel(self) -> np.ndarray:
        """A rational basis [n, n − r] of {v : A v = 0}, one column per coordinate that is no pivot."""
        rank, n = self.rows.nrows(), self.rows.ncols()
        free = [k for k in range(n) if k not in self.pivots]
        basis = np.full((n, len(free)), fmpq(0), dtype=object)
        for column, k in enumerate(free):
            basis[k, column] = fmpq(1)
            for row in range(rank):
                basis[self.pivots[row], column] = -self.rows[row, k]
        return basis


@dataclass(frozen=True, eq=False)
class AffineSubspace:
    """{θ ∈ R^P : A θ = c}. Build it with :meth:`from_equations` or :meth:`from_fixed_coordinates`.

    ``ambient_dim`` is P; ``equations`` are the pairs ({coordinate: coefficient}, right-hand side) as they were given,
    over Q. Methods take θ or v as a vector [P] or as columns [P, k], and answer in the number system of their argument.

    >>> plane = AffineSubspace.from_equations(3, [({0: 1, 1: -1}, 0)])      # θ_0 = θ_1
    >>> plane.dim, plane.contains([1, 1, 5]), plane.project([1, 0, 5]).tolist()
    (2, True, [1/2, 1/2, 5])
    """

    ambient_dim: int
    equations: tuple[tuple[Mapping[int, fmpq], fmpq], ...]

    @staticmethod
    def from_equations(num_params: int, equations: Iterable[Equation]) -> AffineSubspace:
        """The solutions of Σ_k row[k] θ_k = c. Redundant equations are allowed; ``ValueError`` if there is no solution.

        >>> AffineSubspace.from_equations(1, [({0: 2}, 1), ({0: 4}, 3)])
        Traceback (most recent call last):
            ...
        ValueError: the equations on parameters [0] contradict one another: the set is empty; remove one of them
        """
        read = tuple(_read_equation(num_params, row, c) for row, c in equations)
        subspace = AffineSubspace(int(num_params), read)
        _ = subspace._components  # solves, so that contradictions are reported here
        return subspace

    @staticmethod
    def from_fixed_coordinates(num_params: int, indices: Sequence[int], values: Sequence[Any]) -> AffineSubspace:
        """{θ : θ[indices] = values}; floats are read as the dyadic rationals they are.

        >>> AffineSubspace.from_fixed_coordinates(4, [0, 2], [1, 0.5]).dim
        2
        """
        if len(indices) != len(values):
            raise ValueError(f"{len(indices)} indices but {len(values)} values; give one value per fixed coordinate")
        return AffineSubspace.from_equations(num_params, [({int(k): 1}, v) for k, v in zip(indices, values)])

    # -- dimensions ----------------------------------------------------------------------------------------------------
    @cached_property
    def _components(self) -> tuple[_Component, ...]:
        return tuple(_reduce(group) for group in _connected(self.equations))

    @property
    def codim(self) -> int:
        """Rank of A, the number of independent equations."""
        return sum(part.rows.nrows() for part in self._components)

    @property
    def dim(self) -> int:
        """P − rank A, exactly."""
        return self.ambient_dim - self.codim

    # -- points and projections ----------------------------------------------------------------------------------------
    def contains(self, theta: Any, tolerance: float = 0.0) -> bool:
        """Is A θ = c, for θ [P]? Tolerance 0: decided over Q (floats are dyadic rationals). Else: distance ≤ tolerance.

        >>> line = AffineSubspace.from_fixed_coordinates(2, [0], [1])
        >>> line.contains(torch.tensor([1.0 + 1e-12, 3.0], dtype=torch.float64))
        False
        >>> line.contains(torch.tensor([1.0 + 1e-12, 3.0], dtype=torch.float64), tolerance=1e-9)
        True
        """
        if not tolerance >= 0:
            raise ValueError(f"tolerance {tolerance} is not a distance; give a number ≥ 0 (0: exact)")
        theta = as_vector(theta, self.ambient_dim)
        if theta.ndim != 1:
            raise ValueError(f"theta has shape {tuple(theta.shape)}; contains takes one point [P]; pass one column")
        if tolerance == 0:
            exact = rational_array(theta)
            return all(_dot(row, exact) == c for row, c in self.equations)
        gap = theta - self.project(theta)
        return bool((gap * gap).sum() <= (to_fmpq(tolerance) ** 2 if is_exact(gap) else tolerance**2))

    def project(self, theta: Any) -> Array:
        """The nearest point of the subspace."""
        theta = as_vector(theta, self.ambient_dim)
        shift = self._particular(theta)
        return shift + self.tangent_part(theta - shift)

    def normal_part(self, v: Any) -> Array:
        """Orthogonal projection of v onto the normal space, the row space of A.

        >>> AffineSubspace.from_equations(2, [({0: 1, 1: -1}, 7)]).normal_part([1, 0]).tolist()
        [1/2, -1/2]
        """
        v = as_vector(v, self.ambient_dim, "v")
        out = v * 0
        for part in self._components:
            if is_exact(v):
                local = v[part.indices].reshape(len(part.indices), -1)
                image = part.lift * (part.rows * to_matrix(local))
                out[part.indices] = from_matrix(image).reshape(out[part.indices].shape)
            else:
                basis: Array = part.orthonormal[:, : part.rows.nrows()]
                basis = torch.as_tensor(basis, dtype=v.dtype, device=v.device) if isinstance(v, torch.Tensor) else basis
                out[part.indices] = basis @ (basis.swapaxes(0, 1) @ v[part.indices])
        return out

    def tangent_part(self, v: Any) -> Array:
        """Orthogonal projection of v onto the tangent space {v : A v = 0}.

        >>> AffineSubspace.from_fixed_coordinates(2, [0], [9]).tangent_part([3, 4]).tolist()
        [0, 4]
        """
        v = as_vector(v, self.ambient_dim, "v")
        return v - self.normal_part(v)

    def _particular(self, like: Array) -> Array:
        """The point of the subspace nearest to 0, in the number system and shape of ``like``."""
        out = like * 0
        for part in self._components:
            point = part.point.reshape(-1, *(1,) * (like.ndim - 1))
            if isinstance(like, torch.Tensor):
                values: Array = torch.tensor(point.astype(np.float64), dtype=like.dtype, device=like.device)
            else:
                values = point.astype(like.dtype)
            out[part.indices] = out[part.indices] + values
        return out

    # -- bases ---------------------------------------------------------------------------------------------------------
    def normal_basis(self, exact: bool = False) -> np.ndarray:
        """Columns [P, codim] that span the normal space: orthonormal float64, or over Q (then not orthonormal).

        >>> AffineSubspace.from_fixed_coordinates(2, [1], [9]).normal_basis(exact=True).tolist()
        [[0], [1]]
        """
        blocks = [
            (p.indices, from_matrix(p.rows).T if exact else p.orthonormal[:, : p.rows.nrows()])
            for p in self._components
        ]
        return _block_columns(self.ambient_dim, blocks, exact)

    def tangent_basis(self, exact: bool = False) -> np.ndarray:
        """Columns [P, dim] that span the tangent space: orthonormal float64, or over Q (then not orthonormal).

        >>> AffineSubspace.from_equations(2, [({0: 1, 1: -1}, 0)]).tangent_basis(exact=True).tolist()
        [[1], [1]]
        """
        blocks = [(p.indices, p.kernel if exact else p.orthonormal[:, p.rows.nrows() :]) for p in self._components]
        used = {int(k) for p in self._components for k in p.indices}
        one = np.array([[fmpq(1)]], dtype=object) if exact else np.ones((1, 1))
        blocks += [(np.array([k]), one) for k in range(self.ambient_dim) if k not in used]
        return _block_columns(self.ambient_dim, blocks, exact)

    def random_point(self, generator: Generator, exact: bool = False, bound: int = 3, scale: float = 1.0) -> Array:
        """A random point: the least-norm point plus a random tangent vector.

        ``exact=True`` draws integer coefficients in [−bound, bound] for :meth:`tangent_basis` over Q and returns
        ``fmpq`` [P]; otherwise a tangent part of a normal vector of standard deviation ``scale``, a float64 tensor [P].

        >>> line = AffineSubspace.from_equations(3, [({0: 1, 1: 1, 2: 1}, 2)])
        >>> sum(line.random_point(torch.Generator().manual_seed(0), exact=True))
        2
        """
        if exact:
            draws = random_integers(generator, bound, self.dim)
            return self._particular(rational_array([0] * self.ambient_dim)) + self._combine(draws)
        noise = torch.from_numpy(_normals(generator, self.ambient_dim)) * scale
        return self._particular(noise) + self.tangent_part(noise)

    def _combine(self, coefficients: np.ndarray) -> np.ndarray:
        """Σ coefficients[k] · tangent_basis(exact)[:, k], without forming the basis [P, dim]."""
        out, used, taken = rational_array([0] * self.ambient_dim), np.zeros(self.ambient_dim, dtype=bool), 0
        for part in self._components:
            count = part.kernel.shape[1]
            used[part.indices] = True
            if count:
                out[part.indices] = part.kernel @ rational_array(coefficients[taken : taken + count])
            taken += count
        out[~used] = rational_array(coefficients[taken:])
        return out


# -- helpers -----------------------------------------------------------------------------------------------------------


def random_integers(generator: Generator, bound: int, count: int) -> np.ndarray:
    """``count`` integers, uniform in [−bound, bound], from a torch or a numpy generator."""
    if isinstance(generator, torch.Generator):
        return torch.randint(-bound, bound + 1, (count,), generator=generator).numpy()
    return generator.integers(-bound, bound + 1, count)


def _normals(generator: Generator, count: int) -> np.ndarray:
    if isinstance(generator, torch.Generator):
        return torch.randn(count, generator=generator, dtype=torch.float64).numpy()
    return generator.standard_normal(count)


def _read_equation(num_params: int, row: Mapping[int, Any], c: Any) -> tuple[dict[int, fmpq], fmpq]:
    exact = {int(k): to_fmpq(value) for k, value in row.items()}
    outside = [k for k in exact if not 0 <= k < num_params]
    if outside:
        raise ValueError(
            f"an equation uses parameters {outside}; there are P = {num_params}: indices 0 … {num_params - 1}"
        )
    return {k: value for k, value in exact.items() if value != 0}, to_fmpq(c)


def _connected(equations: Sequence[tuple[Mapping[int, fmpq], fmpq]]) -> list[list[tuple[Mapping[int, fmpq], fmpq]]]:
    """Group the equations by union–find on the coordinates they share; 0 = 0 is dropped, 0 = c ≠ 0 refused."""
    parent: dict[int, int] = {}

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for row, c in equations:
        if not row and c != 0:
            raise ValueError(f"the equation 0 = {c} has no solution; an empty row needs right-hand side 0; remove it")
        keys = list(row)
        for k in keys:
            parent.setdefault(k, k)
        for k in keys[1:]:
            parent[root(k)] = root(keys[0])
    groups: dict[int, list[tuple[Mapping[int, fmpq], fmpq]]] = {}
    for row, c in equations:
        if row:
            groups.setdefault(root(next(iter(row))), []).append((row, c))
    return list(groups.values())


def _reduce(group: Sequence[tuple[Mapping[int, fmpq], fmpq]]) -> _Component:
    """Reduced row echelon form of [A | c], zero rows removed."""
    indices = sorted({k for row, _ in group for k in row})
    place = {k: j for j, k in enumerate(indices)}
    augmented = fmpq_mat(len(group), len(indices) + 1)
    for i, (row, c) in enumerate(group):
        augmented[i, len(indices)] = c
        for k, value in row.items():
            augmented[i, place[k]] = value
    reduced, rank = augmented.rref()
    table = reduced.table()[:rank]
    pivots = tuple(next(j for j, value in enumerate(row) if value != 0) for row in table)
    if pivots[-1] == len(indices):
        raise ValueError(
            f"the equations on parameters {indices[:8]} contradict one another: the set is empty; remove one of them"
        )
    rows = fmpq_mat(rank, len(indices), [value for row in table for value in row[:-1]])
    return _Component(np.array(indices), rows, fmpq_mat(rank, 1, [row[-1] for row in table]), pivots)


def _dot(row: Mapping[int, fmpq], theta: np.ndarray) -> fmpq:
    total = fmpq(0)
    for k, value in row.items():
        total = total + value * theta[k]
    return total


def to_matrix(array: np.ndarray) -> fmpq_mat:
    """The FLINT matrix of a 2-D object array of ``fmpq``: products are then a hundred times faster."""
    return fmpq_mat(array.shape[0], array.shape[1], array.ravel().tolist())


def from_matrix(matrix: fmpq_mat) -> np.ndarray:
    """The object array of a FLINT matrix."""
    out = np.empty((matrix.nrows(), matrix.ncols()), dtype=object)
    out.ravel()[:] = matrix.entries()
    return out


def _block_columns(length: int, blocks: Sequence[tuple[np.ndarray, np.ndarray]], exact: bool) -> np.ndarray:
    """Place the columns of each block at its coordinates."""
    width = sum(block.shape[1] for _, block in blocks)
    out = np.full((length, width), fmpq(0), dtype=object) if exact else np.zeros((length, width))
    taken = 0
    for indices, block in blocks:
        out[indices, taken : taken + block.shape[1]] = block
        taken += block.shape[1]
    return out
