"""All claims, listed explicitly, in paper order: a claim that is not in this list does not exist."""

from proofs_checks.claim import Claim
from proofs_checks.claims import (
    barriers_cloning,
    barriers_forward,
    barriers_frozen,
    barriers_manifolds,
    barriers_optimizers,
    barriers_quotients,
    barriers_stability,
    rank_chain,
    spectral_limits,
    spectral_necessity,
    spectral_normalization,
    spectral_persistence,
    spectral_rank,
)

CLAIMS: tuple[Claim, ...] = (
    *barriers_manifolds.CLAIMS,
    *barriers_frozen.CLAIMS,
    *barriers_cloning.CLAIMS,
    *barriers_forward.CLAIMS,
    *barriers_quotients.CLAIMS,
    *barriers_optimizers.CLAIMS,
    *barriers_stability.CLAIMS,
    *spectral_rank.CLAIMS,
    *spectral_limits.CLAIMS,
    *spectral_normalization.CLAIMS,
    *spectral_persistence.CLAIMS,
    *spectral_necessity.CLAIMS,
    *rank_chain.CLAIMS,
)
