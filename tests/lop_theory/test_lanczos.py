"""Lanczos: the defining identity, orthogonality, the end of the Krylov space, and what is refused."""

import numpy as np
import pytest
import torch

from lop_theory.lanczos import lanczos, lanczos_block, project_out

EPS = np.finfo(float).eps


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotated(values, seed=0):
    """Q diag(values) Qᵀ for a random orthogonal Q."""
    q = torch.linalg.qr(draw(len(values), len(values), seed=seed)).Q
    matrix = (q * torch.as_tensor(values, dtype=torch.float64)) @ q.T
    return (matrix + matrix.T) / 2


SPECTRA = {
    "bulk": np.linspace(-1, 1, 120),
    "outliers": np.concatenate([[1e3, 300.0, -50.0], np.linspace(0, 1, 97)]),  # plain Lanczos loses orthogonality here
    "many scales": 10.0 ** -np.linspace(0, 12, 80),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("steps", [1, 2, 25, 60])
def test_defining_identity_and_orthogonality(name, steps):
    A = rotated(SPECTRA[name])
    norm = np.abs(SPECTRA[name]).max()
    found = lanczos(A.__matmul__, draw(len(A), seed=1), steps)
    Q, T, r = found.basis, torch.from_numpy(found.tridiagonal), found.remainder
    last = torch.zeros(len(Q), dtype=torch.float64)
    last[-1] = 1
    assert (A @ Q.T - Q.T @ T - torch.outer(r, last)).norm() < 1e3 * EPS * norm
    assert (Q @ Q.T - torch.eye(len(Q), dtype=torch.float64)).abs().max() < 100 * EPS
    assert (Q @ r).abs().max() < 100 * EPS * norm
    assert len(Q) == steps and not found.exhausted


def test_residuals_of_ritz_pairs():
    A = rotated(SPECTRA["outliers"])
    found = lanczos(A.__matmul__, draw(len(A), seed=2), 20)
    values, vectors, residuals = found.ritz()
    pairs = torch.from_numpy(vectors.T) @ found.basis
    measured = (pairs @ A - torch.from_numpy(values)[:, None] * pairs).norm(dim=1).numpy()
    assert np.allclose(measured, residuals, rtol=1e-6, atol=1e-11)
    distance = np.abs(values[:, None] - SPECTRA["outliers"]).min(axis=1)
    assert (distance <= residuals + 1e-11).all()
    assert residuals[-1] < 1e-9 < residuals[3]  # the top has converged, the bulk has not


@pytest.mark.parametrize(("values", "grade"), [([5.0, -2.0, 1e-3], 4), ([7.0, 7.0, 7.0], 2), ([], 1), ([1.0], 2)])
def test_breakdown_at_low_rank(values, grade):
    """The Krylov space ends after one step per distinct non-zero eigenvalue, and one for the kernel."""
    full = np.zeros(200)
    full[: len(values)] = values
    A = rotated(full)
    found = lanczos(A.__matmul__, draw(200, seed=3), 50)
    assert found.exhausted and len(found.basis) == grade and not found.remainder.any()
    expected = sorted({0.0, *values})
    assert np.allclose(found.ritz()[0], expected, atol=1e-12)


def test_exhausted_by_dimension():
    found = lanczos(rotated([1.0, 2.0, 3.0]).__matmul__, draw(3), 10)
    assert found.exhausted and np.allclose(found.ritz()[0], [1, 2, 3])


def test_block_equals_single_runs_and_stops_probe_by_probe():
    A = rotated([*np.linspace(1, 2, 5), *[0.0] * 45])
    special = torch.linalg.eigh(A).eigenvectors[:, -1]  # exhausted after one step
    starts = torch.stack([draw(50, seed=4), special, draw(50, seed=5)])
    together = lanczos_block(A.__matmul__, starts, 4)
    assert [len(d.basis) for d in together] == [4, 1, 4] and [d.exhausted for d in together] == [False, True, False]
    for start, found in zip(starts, together, strict=True):
        alone = lanczos(A.__matmul__, start, 4)
        assert np.allclose(alone.diagonal, found.diagonal, atol=1e-13)
        assert torch.allclose(alone.basis, found.basis, atol=1e-11)


def test_locked_vectors_stay_out():
    values = np.concatenate([[100.0, -60.0], np.linspace(1, 2, 48)])
    A = rotated(values)
    vectors = torch.linalg.eigh(A).eigenvectors[:, [0, -1]].T.contiguous()
    start = draw(50, seed=6)
    project_out(start, vectors)
    found = lanczos_block(A.__matmul__, start[None], 20, locked=vectors, scale=100.0)[0]
    assert (found.basis @ vectors.T).abs().max() < 100 * EPS
    assert 1 - 1e-12 < found.ritz()[0].min() and found.ritz()[0].max() < 2 + 1e-12


def test_kernel_of_a_locked_matrix_is_seen_as_rounding():
    """A vanishes on the complement of its only eigenvector; what the product returns there is noise, not signal."""
    A = rotated([1e3, *[0.0] * 99])
    top = torch.linalg.eigh(A).eigenvectors[:, -1:].T.contiguous()
    start = draw(100, seed=7)
    project_out(start, top)
    found = lanczos_block(A.__matmul__, start[None], 20, locked=top, scale=1e3)[0]
    assert found.exhausted and len(found.basis) == 1 and abs(found.diagonal[0]) < 1e-11


def test_float32():
    A = rotated(SPECTRA["outliers"]).float()
    found = lanczos(A.__matmul__, draw(100, seed=8).float(), 40)
    assert (found.basis @ found.basis.T - torch.eye(40)).abs().max() < 1e-5
    assert found.ritz()[0].max() == pytest.approx(1e3, rel=1e-5)


def test_project_out_in_chunks(monkeypatch):
    Q = torch.linalg.qr(draw(37, 5)).Q.T.contiguous()
    w = draw(37, seed=9)
    expected, coefficients = w - Q.T @ (Q @ w), Q @ w
    monkeypatch.setattr("lop_theory.lanczos._CHUNK", 8)
    assert torch.allclose(project_out(w, Q), coefficients, atol=1e-14) and torch.allclose(w, expected, atol=1e-14)


def test_matvec_that_returns_its_argument_is_not_overwritten():
    found = lanczos(lambda V: V, draw(10), 5)
    assert found.exhausted and found.diagonal.tolist() == pytest.approx([1.0])
    assert found.basis.norm() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("matvec", "start", "steps", "message"),
    [
        (draw(9, 9).__matmul__, draw(9), 5, "not symmetric"),
        (lambda V: V * float("nan"), draw(9), 5, "must be finite"),
        (lambda V: V[:3], draw(9), 5, "must keep both"),
        (lambda V: V.float(), draw(9), 5, "must keep both"),
        (lambda V: V, torch.zeros(9, dtype=torch.float64), 5, "not zero"),
        (lambda V: V, draw(9, 2), 5, "one vector"),
        (lambda V: V, draw(9), 0, "steps = 0"),
    ],
)
def test_bad_input_is_named(matvec, start, steps, message):
    with pytest.raises(ValueError, match=message):
        lanczos(matvec, start, steps)
