"""Symbolic proofs that several claims share: they replay, and refuse a statement that is not true."""

from __future__ import annotations

import pytest
import sympy

from proofs_checks.claim import require
from proofs_checks.claims import barriers_proofs, rank_proofs

PROOFS = [
    *(barriers_proofs.prove_forward, barriers_proofs.prove_lumped, barriers_proofs.prove_persistence),
    *(rank_proofs.prove_gate_lemma, rank_proofs.prove_constant_units, rank_proofs.prove_batch_statistics),
]


@pytest.mark.parametrize("prove", PROOFS, ids=lambda f: f.__name__)
def test_proof_replays(prove) -> None:  # type: ignore[no-untyped-def]
    assert len(prove()) > 80


def test_moving_a_weight_without_the_bias_is_seen() -> None:
    """With −T c left out of the bias the identity of the constant units breaks."""
    fed, units = sympy.symbols("O k", integer=True, positive=True)
    w, shift, c = (
        sympy.MatrixSymbol("W", fed, units),
        sympy.MatrixSymbol("T", fed, units),
        sympy.MatrixSymbol("c", units, 1),
    )
    assert ((w + shift) * c - w * c).expand().doit() != sympy.ZeroMatrix(fed, 1)
    with pytest.raises(AssertionError, match="breaks at: this"):
        require(False, "this")
