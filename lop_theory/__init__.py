"""lop_theory: the mathematics of loss of plasticity, on networks built as computational DAGs.

Read the modules as a table of contents: ``activations``, ``dag``, ``architectures``, ``forward`` build and run networks;
``hessian``, ``exact``, ``module_hessian``, ``gram`` give their curvature; ``rank``, ``modular``, ``certified_rank`` count it;
``gates``, ``bounds``, ``clone_formula`` predict it; ``partition``, ``manifolds``, ``cloned``, ``frozen``, ``stability`` hold the
manifolds that trap gradient descent.

>>> import torch
>>> net = mlp([2, 3, 1])
>>> theta = init_params(net, torch.Generator().manual_seed(0), torch.float64)
>>> x, y = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
>>> hessian(net, theta, x, y, "mse_sum").shape
torch.Size([13, 13])
"""

from lop_theory import bounds
from lop_theory.activations import Activation, KinkError, get_activation
from lop_theory.architectures import from_module, init_params, mlp, random_dag, residual_mlp
from lop_theory.certified_rank import CertifiedRank, certified_rank
from lop_theory.clone_formula import cloned_rank, cloned_rank_formula
from lop_theory.cloned import clone, cloned_leaf, cloned_manifold, redistribute
from lop_theory.dag import Dag, NotADagError
from lop_theory.exact import ball_hessian, exact_gradient, exact_hessian
from lop_theory.forward import Trace, evaluate, gradient, loss
from lop_theory.gates import GatePattern, gate_pattern
from lop_theory.gram import gauss_newton_epsilon_rank, gauss_newton_gram
from lop_theory.hessian import gauss_newton, hessian, hvp, residual_hessian
from lop_theory.manifolds import AffineSubspace
from lop_theory.module_hessian import module_gauss_newton, module_hessian
from lop_theory.partition import UnitPartition, biregular, column_equitable, quotient, row_equitable
from lop_theory.partition import block_constant as block_constant
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
