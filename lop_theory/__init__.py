"""lop_theory: the mathematics of loss of plasticity, on networks built as computational DAGs.

Read the modules as a table of contents: ``activations``, ``dag``, ``architectures``, ``forward`` build and run networks;
``hessian``, ``exact``, ``module_hessian``, ``gram`` give their curvature; ``rank``, ``modular``, ``certified_rank`` count it;
``spectrum`` estimates its eigenvalue counts for nets of millions of parameters; ``gates``, ``bounds``, ``clone_formula`` predict
the rank; ``kronecker``, ``linearized`` relate it to KFAC and to the tangent kernel. ``partition``, ``manifolds``, ``cloned``,
``frozen``, ``stability`` hold the manifolds that trap gradient descent, and ``modules`` clones whole ``nn.Module`` trees;
``rank_gain`` says what a nonlinearity does to correlations; ``algorithms`` is what is done against the loss of plasticity.

>>> import torch
>>> net = mlp([2, 3, 1])
>>> theta = init_params(net, torch.Generator().manual_seed(0), torch.float64)
>>> x, y = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
>>> hessian(net, theta, x, y, "mse_sum").shape
torch.Size([13, 13])
"""

from lop_theory import algorithms, bounds
from lop_theory.activations import Activation, KinkError, get_activation
from lop_theory.architectures import from_module, init_params, mlp, random_dag, residual_mlp
from lop_theory.certified_rank import CertifiedRank, certified_rank
from lop_theory.clone_formula import cloned_rank, cloned_rank_formula
from lop_theory.cloned import clone, cloned_leaf, cloned_manifold, redistribute
from lop_theory.dag import Dag, NotADagError
from lop_theory.exact import (
    ball_hessian,
    exact_gauss_newton,
    exact_gradient,
    exact_hessian,
    exact_residual_hessian,
)
from lop_theory.forward import Trace, evaluate, gradient, loss
from lop_theory.frozen import (
    Certificate,
    dead_units,
    frozen_manifold,
    margin_persists,
    numerically_dead_units,
    persistence_certificate,
    saturated_units,
)
from lop_theory.gates import GatePattern, gate_pattern
from lop_theory.gaussian_kernel import GaussianKernel, gaussian_kernel
from lop_theory.gram import gauss_newton_epsilon_rank, gauss_newton_gram
from lop_theory.hessian import gauss_newton, hessian, hvp, residual_hessian
from lop_theory.kronecker import kfac_factors
from lop_theory.linearized import Linearized, linearize
from lop_theory.manifolds import AffineSubspace
from lop_theory.module_hessian import module_gauss_newton, module_hessian
from lop_theory.modules import certify, clone_module
from lop_theory.partition import UnitPartition, biregular, block_constant, column_equitable, quotient, row_equitable
from lop_theory.rank import (
    effective_rank,
    epsilon_rank,
    exact_rank,
    inertia,
    modular_rank,
    numerical_rank,
    participation_ratio,
    rank_is_decided,
    srank,
    stable_rank,
)
from lop_theory.rank_gain import correlation_matrix, kernel_matrix, majorizes, rank_gain
from lop_theory.spectrum import Spectrum, estimate_spectrum, hessian_spectrum, published_normalized_epsilon_rank
from lop_theory.stability import Stability, StabilityKind, classify_stability, normal_hessian_blocks

__all__ = [
    "Activation",
    "AffineSubspace",
    "Certificate",
    "CertifiedRank",
    "Dag",
    "GatePattern",
    "GaussianKernel",
    "KinkError",
    "Linearized",
    "NotADagError",
    "Spectrum",
    "Stability",
    "StabilityKind",
    "Trace",
    "UnitPartition",
    "algorithms",
    "ball_hessian",
    "biregular",
    "block_constant",
    "bounds",
    "certified_rank",
    "certify",
    "classify_stability",
    "clone",
    "clone_module",
    "cloned_leaf",
    "cloned_manifold",
    "cloned_rank",
    "cloned_rank_formula",
    "column_equitable",
    "correlation_matrix",
    "dead_units",
    "effective_rank",
    "epsilon_rank",
    "estimate_spectrum",
    "evaluate",
    "exact_gauss_newton",
    "exact_gradient",
    "exact_hessian",
    "exact_rank",
    "exact_residual_hessian",
    "from_module",
    "frozen_manifold",
    "gate_pattern",
    "gauss_newton",
    "gauss_newton_epsilon_rank",
    "gauss_newton_gram",
    "gaussian_kernel",
    "get_activation",
    "gradient",
    "hessian",
    "hessian_spectrum",
    "hvp",
    "inertia",
    "init_params",
    "kernel_matrix",
    "kfac_factors",
    "linearize",
    "loss",
    "majorizes",
    "margin_persists",
    "mlp",
    "modular_rank",
    "module_gauss_newton",
    "module_hessian",
    "normal_hessian_blocks",
    "numerical_rank",
    "numerically_dead_units",
    "participation_ratio",
    "persistence_certificate",
    "published_normalized_epsilon_rank",
    "quotient",
    "random_dag",
    "rank_gain",
    "rank_is_decided",
    "redistribute",
    "residual_hessian",
    "residual_mlp",
    "row_equitable",
    "saturated_units",
    "srank",
    "stable_rank",
]
