r"""Barriers, coverage of modular cloning (1): linear layers, convolutions, elementwise maps, sums and normalisation.

A row says two things: clones stay equal (MC1 – MC3 of Definition A.1), and the cloned module computes copies of what the base
computes. Each row is checked in float64 on small module trees, before and after steps of SGD with momentum and Adam, with
proofs for all sizes where algebra suffices.
"""

from __future__ import annotations

from hypothesis import strategies as st

from proofs_checks.claim import Assumption, Claim, Mutant, Source, Verdict
from proofs_checks.claims import module_classes as classes
from proofs_checks.claims import module_proofs as proofs
from proofs_checks.claims import module_strategies as nets
from proofs_checks.claims.barriers_proofs import BLOCK_ALGEBRA
from proofs_checks.claims.module_cases import (
    CLONE_OF_BASE,
    ModuleInstance,
    certified,
    equal_clones,
    equals_base,
    stays_cloned,
)

_PAPER = "2510.00304"


def _row(row: str, note: str = "") -> Source:
    return Source(_PAPER, "v1", f"Remark A.5 (coverage), {row}", note)


def _divided(instance: ModuleInstance) -> bool:
    return bool(instance.extra.get("divided", True))


DIVIDED = Assumption(
    "divided", "weights are divided by the number of copies of their source, up to moves that keep RE and CE", _divided
)
PER_TAP = Assumption(
    "per tap", "each tap of the kernel is row and column equitable", lambda i: certified(i, "sums differ")
)
GROUPS_REGULAR = Assumption(
    "biregular", "blocks meet the groups of a convolution evenly", lambda i: certified(i, "biregular")
)
BRANCHES = Assumption("one profile", "both branches of a sum have one profile", lambda i: certified(i, "branches give"))
COPIED = Assumption("copied statistics", "γ, β and running statistics are copied", nets.statistics_copied)
EQUAL_SIZES = Assumption("equal sizes", "all blocks under the norm have one size", nets.sizes_equal)
SHARED_AFFINE = Assumption("shared affine", "γ and β are equal within blocks", nets.affine_shared)
ALIGNED = Assumption(
    "aligned groups", "groups that share a block hold the same blocks equally often", nets.groups_alike
)

LINEAR = Claim(
    id="barriers.modules.linear",
    title="A linear layer: tiled weights, divided by the copies of their source",
    source=_row("linear"),
    kind="remark",
    statement=r"W' = B W D^{-1}A^\top,\; b' = B b \;\Rightarrow\; W'A x + b' = B(Wx + b) \text{; with moves in RE} \cap "
    r"\text{CE the same. Steps along block-constant directions stay in RE} \cap \text{CE.}",
    quantifier="for all",
    assumptions=(DIVIDED,),
    instances=nets.linear_nets(),
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="A copies features (AᵀA = D holds the block sizes), B those of the output: W'A = B W. A move Z with zero row and "
    "column sums in each block pair has Z A = 0 and BᵀZ = 0. The gradient is B G Aᵀ. Adam moves equal gradients equally, "
    "starting from equal states.",
    without={"divided": nets.undivided()},
    mutants=(
        Mutant("undivided", "weights are copied without division", equals_base, nets.undivided()),
        Mutant(
            "by targets",
            "weights are divided by the number of copies of their target",
            equals_base,
            nets.undivided(True),
        ),
    ),
    certificates=(proofs.LINEAR,),
    depends_on=("barriers.thm2.1.cloned.repaired",),
    cost=2,
)

CONV = Claim(
    id="barriers.modules.conv",
    title="A convolution, also in groups: RE and CE for each tap of the kernel",
    source=_row("convolution"),
    kind="remark",
    statement=r"\text{If every tap } W_t \text{ of a kernel is row and column equitable and blocks meet the groups evenly, "
    r"then clones are equal and stay so; tiled kernels compute the base.}",
    quantifier="for all",
    assumptions=(PER_TAP, GROUPS_REGULAR),
    instances=nets.conv_nets(),
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="z'(p) = Σ_t W'_t h'(p + t) is a sum of linear maps, each of which maps copies to copies. The gradient of a tap is "
    "Σ_p δ(p) h(p + t)ᵀ, again block constant on the edges of the groups; with evenly met groups its sums are equal.",
    without={"per tap": nets.conv_nets(per_tap=False), "biregular": nets.scattered_groups()},
    mutants=(
        Mutant("sums of taps", "equal sums over the whole kernel suffice", equal_clones, nets.conv_nets(per_tap=False)),
        Mutant("kernel size", "the kernel is divided by its size, too", equals_base, nets.scaled_by_kernel()),
        Mutant("any groups", "zero weights stay cloned on any groups", stays_cloned, nets.scattered_groups()),
    ),
    certificates=(proofs.LINEAR, BLOCK_ALGEBRA),
    depends_on=("barriers.modules.linear",),
    cost=3,
)

_TREES = st.one_of(nets.residual_nets(), nets.image_nets())

ELEMENTWISE = Claim(
    id="barriers.modules.elementwise",
    title="Activations, pooling of each channel, and residual sums",
    source=_row("activations, pooling, residual connections"),
    kind="remark",
    statement=r"f(Ax) = A f(x),\; \mathrm{pool}(Ax) = A\,\mathrm{pool}(x),\; Ax + Ay = A(x + y) \text{: copies stay copies, "
    r"if both branches of a sum have one profile.}",
    quantifier="for all",
    assumptions=(BRANCHES,),
    instances=_TREES,
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="These maps act on each feature alone and are the same for all features, so they commute with copying.",
    without={"one profile": nets.residual_nets(matching=False)},
    mutants=(
        Mutant(
            "any branches",
            "the branches may have the same numbers of copies in another order",
            equal_clones,
            nets.residual_nets(matching=False),
        ),
        Mutant(
            "base of any branches", "… and the base function is kept", equals_base, nets.residual_nets(matching=False)
        ),
    ),
    certificates=(classes.ELEMENTWISE,),
    depends_on=("barriers.modules.linear",),
    cost=3,
)

# -- normalisation ------------------------------------------------------------------------------------------------------------

BATCHNORM = Claim(
    id="barriers.modules.batchnorm",
    title="BatchNorm, in training and evaluation mode",
    source=_row("batch normalisation"),
    kind="remark",
    statement=r"\mathrm{BN}_{A\gamma, A\beta}(Ax) = A\,\mathrm{BN}_{\gamma,\beta}(x) "
    r"\text{, if running statistics are copied as well.}",
    quantifier="for all",
    assumptions=(COPIED,),
    instances=nets.batch_nets(),
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="Each feature is normalised by its own statistics over the batch (or by its running ones): BatchNorm is elementwise in "
    "the features, and equal features have equal statistics.",
    without={"copied statistics": nets.batch_nets(copied=("weight", "bias"))},
    mutants=(
        Mutant(
            "running statistics",
            "running statistics may stay at their defaults",
            equals_base,
            nets.batch_nets(copied=("weight", "bias")),
        ),
        Mutant(
            "affine",
            "γ and β may stay at their defaults",
            equals_base,
            nets.batch_nets(copied=("running_mean", "running_var")),
        ),
    ),
    certificates=(classes.BATCHNORM,),
    depends_on=("barriers.modules.linear",),
    cost=3,
)

LAYERNORM = Claim(
    id="barriers.modules.layernorm",
    title="A cloned LayerNorm computes the base, whatever the block sizes",
    source=_row("layer normalisation", "read without conditions"),
    kind="remark",
    statement=r"\mathrm{LN}_{A\gamma, A\beta}(Ax) = A\,\mathrm{LN}_{\gamma,\beta}(x) \text{ for every copying matrix } A",
    quantifier="for all",
    assumptions=(SHARED_AFFINE,),
    instances=nets.layer_nets(),
    check=equals_base,
    expected=Verdict.FAILS,
    proof="Mean and variance of A x weigh every base feature by its number of copies. With p and q copies of two features the "
    "mean moves by (p − q)(a − b)/(2(p + q)).",
    mutants=(
        Mutant("plain", "… at least without γ and β", equals_base, nets.layer_nets(plain=True)),
        Mutant("close sizes", "… at least if block sizes differ by one at most", equals_base, nets.layer_nets("close")),
    ),
)

LAYERNORM_CLONES = Claim(
    id="barriers.modules.layernorm.clones",
    title="LayerNorm keeps clones equal, whatever the block sizes",
    source=_row("layer normalisation"),
    kind="remark",
    statement=r"\text{With } \gamma, \beta \text{ equal in blocks, LayerNorm satisfies MC1–MC3 for every partition.}",
    quantifier="for all",
    assumptions=(SHARED_AFFINE,),
    instances=nets.layer_nets(),
    check=stays_cloned,
    expected=Verdict.HOLDS,
    proof="All features of a sample are normalised by the same two numbers, so equal ones stay equal; the adjoint is "
    "(δγ − mean(δγ) − n mean(δγ n))/σ, and depends on a feature through δ, γ and n alone.",
    without={"shared affine": nets.parted_affine()},
    mutants=(
        Mutant("base function", "the clone also computes the base", equals_base),
        Mutant("any affine", "γ may differ within a block", equal_clones, nets.parted_affine()),
    ),
    certificates=(classes.LAYERNORM_CLONES,),
    depends_on=("barriers.modules.linear",),
    cost=3,
)

LAYERNORM_REPAIRED = Claim(
    id="barriers.modules.layernorm.repaired",
    title="A LayerNorm over blocks of one size computes the base",
    source=Source(_PAPER, "v1", "Remark A.5 (coverage), layer normalisation", "repair, ours: equal block sizes"),
    kind="ours",
    statement=r"\mathrm{LN}_{A\gamma, A\beta}(Ax) = A\,\mathrm{LN}_{\gamma,\beta}(x) \text{ if } A^\top A = k I",
    quantifier="for all",
    assumptions=(EQUAL_SIZES,),
    instances=nets.layer_nets("equal"),
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="k copies of n numbers have the mean and the (biased) variance of the n numbers.",
    without={"equal sizes": nets.layer_nets()},
    mutants=(
        Mutant("close sizes", "sizes may differ by one", equals_base, nets.layer_nets("close")),
        Mutant("plain", "without γ and β any sizes do", equals_base, nets.layer_nets(plain=True)),
    ),
    certificates=(proofs.STATISTICS,),
    depends_on=("barriers.modules.layernorm.clones",),
    repairs="barriers.modules.layernorm",
    cost=3,
)

GROUPNORM = Claim(
    id="barriers.modules.groupnorm",
    title="GroupNorm keeps clones equal, whatever the groups",
    source=_row("group normalisation", "read without conditions"),
    kind="remark",
    statement=r"\text{With } \gamma, \beta \text{ equal in blocks, GroupNorm satisfies MC1–MC3 for every partition "
    r"of its channels.}",
    quantifier="for all",
    assumptions=(SHARED_AFFINE,),
    instances=nets.group_nets("any"),
    check=equal_clones,
    expected=Verdict.FAILS,
    proof="Clones in two groups with other members are normalised by other statistics: two channels with three clones each in "
    "three groups of two, {0, 0}, {0, 1}, {1, 1}.",
    mutants=(
        Mutant("uneven sizes", "… at least if no block has a single member", equal_clones, nets.group_nets("split")),
        Mutant("base", "… and the clone computes the base", equals_base, nets.group_nets("any")),
    ),
)

GROUPNORM_REPAIRED = Claim(
    id="barriers.modules.groupnorm.repaired",
    title="GroupNorm on aligned groups keeps clones equal and computes the base",
    source=Source(_PAPER, "v1", "Remark A.5 (coverage), group normalisation", "repair, ours: aligned groups"),
    kind="ours",
    statement=r"\text{If groups that share a block hold the same blocks equally often, clones stay equal; if also all "
    r"blocks have one size and each group holds one group of the base, the clone computes the base.}",
    quantifier="for all",
    assumptions=(ALIGNED, EQUAL_SIZES),
    instances=nets.group_nets("aligned"),
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="Groups with the same members equally often have the same statistics, so the members of a block are normalised alike. "
    "With equal counts these are the statistics of the base group.",
    without={"aligned groups": nets.group_nets("split"), "equal sizes": nets.group_nets("unequal")},
    mutants=(
        Mutant("any groups", "the groups may split blocks", equal_clones, nets.group_nets("split")),
        Mutant("any sizes", "aligned groups suffice for the base function", equals_base, nets.group_nets("unequal")),
    ),
    certificates=(classes.GROUPNORM,),
    depends_on=("barriers.modules.layernorm.clones",),
    repairs="barriers.modules.groupnorm",
    cost=3,
)


CLAIMS = (
    LINEAR,
    CONV,
    ELEMENTWISE,
    BATCHNORM,
    LAYERNORM,
    LAYERNORM_CLONES,
    LAYERNORM_REPAIRED,
    GROUPNORM,
    GROUPNORM_REPAIRED,
)
