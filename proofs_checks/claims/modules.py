r"""Barriers, modular cloning: Theorem 2.2, Lemma A.4 and Theorem A.3, as printed and repaired.

The formal module class of the paper (sums and activations of single units) contains neither normalisation nor attention, so
that its coverage is claimed, not proved: ``module_layers`` and ``module_attention`` check it row by row. ``CLAIMS`` lists
the theorems, then the rows, then the cloning R².
"""

from __future__ import annotations

from hypothesis import strategies as st
from torch import nn

from proofs_checks.claim import Assumption, Claim, Mutant, Source, Verdict
from proofs_checks.claims import cloning_metric, module_attention, module_layers
from proofs_checks.claims import module_classes as classes
from proofs_checks.claims import module_strategies as nets
from proofs_checks.claims.barriers_cloning import (
    BIREGULAR,
    CE,
    EQUAL_ADJOINTS,
    EQUAL_INPUTS,
    NO_INNER_EDGES,
    RE,
    SHARED_ACTIVATION,
    checker,
    leaves_manifold,
    unequal_activations,
    unequal_error_signals,
    uneven_gradient,
)
from proofs_checks.claims.barriers_graphs import SMOOTH, block_networks
from proofs_checks.claims.barriers_proofs import BLOCK_ALGEBRA
from proofs_checks.claims.module_cases import CLONE_OF_BASE, certified, equals_base, stays_cloned

_PAPER = "2510.00304"
MATCHING = Assumption(
    "matching profiles", "neighbours have one profile on their interface", lambda i: certified(i, "do not match")
)
EACH_CERTIFIED = Assumption(
    "certificates",
    "every module satisfies MC1–MC3 for its profile",
    lambda i: certified(i, "sums differ", "split", "tied"),
)
OWN_COPY = Assumption(
    "each computes its base",
    "every module maps copies to copies of its base's output (norms: all blocks of one size)",
    lambda i: all(
        i.partition[path].incoming.is_uniform for path, part in i.wide.named_modules() if isinstance(part, nn.LayerNorm)
    ),
)

_MC = checker(unequal_activations, unequal_error_signals, uneven_gradient, leaves_manifold)
_MODULES = block_networks(steps=1)
_ANY_MODULES = block_networks(irregular=True, steps=1)

LEMMA_A4 = Claim(
    id="barriers.lemA.4",
    title="RE and CE give the module certificate, as printed",
    source=Source(_PAPER, "v1", "Lemma A.4"),
    kind="lemma",
    statement=r"\text{A module (a sub-DAG with a partition that extends those of its interfaces) with RE and CE satisfies MC1, "
    r"MC2 and MC3: blockwise equal outputs, adjoints and gradients, tangent to RE} \cap \text{CE.}",
    quantifier="for all",
    assumptions=(RE, CE, SHARED_ACTIVATION, NO_INNER_EDGES, EQUAL_INPUTS, EQUAL_ADJOINTS),
    instances=_ANY_MODULES,
    check=_MC,
    expected=Verdict.FAILS,
    proof="MC1 and MC2 hold. MC3 says tangent: a gradient that is constant on the edges of a block pair has equal row and column "
    "sums only if the pair is biregular. (The proof also exchanges the roles of rows and columns.)",
    mutants=(
        Mutant(
            "rows", "RE alone gives equal outputs (MC1)", checker(unequal_activations), block_networks(columns=False)
        ),
        Mutant(
            "columns", "CE alone gives equal adjoints (MC2)", checker(unequal_error_signals), block_networks(rows=False)
        ),
    ),
    depends_on=("barriers.thm2.1.cloned",),
)

LEMMA_A4_REPAIRED = Claim(
    id="barriers.lemA.4.repaired",
    title="RE and CE on biregular pairs give the module certificate",
    source=Source(_PAPER, "v1", "Lemma A.4, repaired", "ours: conditions C2, C3"),
    kind="lemma",
    statement=r"\text{With shared activations and biregular pairs: CE} \Rightarrow \text{MC1; RE and CE} \Rightarrow \text{MC2 "
    r"(for blockwise equal inputs and adjoints) and MC3.}",
    quantifier="for all",
    assumptions=(SHARED_ACTIVATION, BIREGULAR, NO_INNER_EDGES, EQUAL_INPUTS, EQUAL_ADJOINTS, RE, CE),
    instances=st.one_of(_MODULES, block_networks(activations=(*SMOOTH, "relu"), steps=1)),
    check=_MC,
    expected=Verdict.HOLDS,
    proof="The cloning theorem restricted to a module; the adjoints of the outputs are given by what follows, and MC2 depends on "
    "the forward state, so that it is stated for blockwise equal inputs and adjoints together.",
    without={
        "shared activation": block_networks(mixed=True),
        "biregular": _ANY_MODULES,
        "no intra-block edges": block_networks(inner=True),
        "equal inputs": block_networks(unequal_inputs=True),
        "equal output adjoints": block_networks(unequal_outputs=True),
        "RE": block_networks(rows=False),
        "CE": block_networks(columns=False),
    },
    mutants=(
        Mutant(
            "rows", "RE alone gives equal outputs (MC1)", checker(unequal_activations), block_networks(columns=False)
        ),
        Mutant(
            "columns", "CE alone gives equal adjoints (MC2)", checker(unequal_error_signals), block_networks(rows=False)
        ),
    ),
    certificates=(BLOCK_ALGEBRA,),
    cost=2,
    depends_on=("barriers.thm2.1.cloned.repaired",),
    repairs="barriers.lemA.4",
)


THEOREM_2_2 = Claim(
    id="barriers.thm2.2",
    title="Cloned modules with matching profiles compose to a cloned network",
    source=Source(_PAPER, "v1", "Theorem 2.2; Theorem A.3 (1)–(3)"),
    kind="theorem",
    statement=r"\text{Modules with matching profiles, each of which satisfies its certificate: blocks are equal forward and "
    r"backward throughout, and stay so under SGD with momentum and Adam.}",
    quantifier="for all",
    assumptions=(MATCHING, EACH_CERTIFIED),
    instances=nets.compositions(),
    check=stays_cloned,
    expected=Verdict.HOLDS,
    proof="Forward in the order of the modules: what one gives blockwise equal, the next takes blockwise equal, because the "
    "profiles match. Backward in the reverse order. MC3 then holds in every module, and the manifold is a product.",
    without={"matching profiles": nets.compositions(matching=False), "certificates": nets.uncertified()},
    mutants=(
        Mutant("any wiring", "the profiles may differ in order", stays_cloned, nets.compositions(matching=False)),
        Mutant("base function", "the network computes the base", equals_base, nets.compositions(planted=True)),
    ),
    certificates=(classes.COMPOSITION,),
    depends_on=("barriers.lemA.4.repaired", "barriers.modules.layernorm.clones"),
    cost=4,
)

_UNEQUAL = st.one_of(nets.compositions(planted=True), nets.compositions())

THEOREM_A3 = Claim(
    id="barriers.thmA.3",
    title="Composition gives a cloned enlargement of the base, as printed",
    source=Source(_PAPER, "v1", "Theorem A.3 (1)"),
    kind="theorem",
    statement=r"\text{Matching profiles and certificates: the network is globally cloned; equivalently, it is a cloned enlargement "
    r"of the base network (it computes copies of what the base computes).}",
    quantifier="for all",
    assumptions=(MATCHING, EACH_CERTIFIED),
    instances=_UNEQUAL,
    check=equals_base,
    expected=Verdict.FAILS,
    proof="Blocks can be equal inside without following the base: a LayerNorm over blocks of unequal sizes keeps clones equal and "
    "weighs them differently than the base does. Expanded attention heads are another example.",
    mutants=(
        Mutant(
            "without norms",
            "any wiring computes the base without norms",
            equals_base,
            nets.compositions(norms=False, matching=False),
        ),
        Mutant("forward", "clones are equal without certificates", equals_base, nets.uncertified()),
    ),
    depends_on=("barriers.thm2.2",),
)

THEOREM_A3_REPAIRED = Claim(
    id="barriers.thmA.3.repaired",
    title="Modules that each compute their base compose to a clone of the base",
    source=Source(_PAPER, "v1", "Theorem A.3, repaired", "ours: every module maps copies to copies of its base"),
    kind="theorem",
    statement=r"\text{If also } M'_\ell(A_\ell x) = A_{\ell+1} M_\ell(x) \text{ for every module, the network computes copies of "
    r"the base, and stays cloned.}",
    quantifier="for all",
    assumptions=(MATCHING, EACH_CERTIFIED, OWN_COPY),
    instances=nets.compositions("equal"),
    check=CLONE_OF_BASE,
    expected=Verdict.HOLDS,
    proof="M'_2(M'_1(A x)) = M'_2(B M_1(x)) = C M_2(M_1(x)), and so on; residual sums add copies with one profile.",
    without={
        "matching profiles": nets.compositions("equal", norms=False, matching=False),
        "certificates": nets.uncertified(),
        "each computes its base": _UNEQUAL,
    },
    mutants=(
        Mutant("any sizes", "blocks may have any sizes", equals_base, _UNEQUAL),
        Mutant(
            "any wiring", "the profiles may differ in order", equals_base, nets.compositions("equal", matching=False)
        ),
    ),
    certificates=(classes.COMPOSITION,),
    depends_on=("barriers.thm2.2", "barriers.modules.layernorm.repaired"),
    repairs="barriers.thmA.3",
    cost=4,
)


CLAIMS = (
    THEOREM_2_2,
    LEMMA_A4,
    LEMMA_A4_REPAIRED,
    THEOREM_A3,
    THEOREM_A3_REPAIRED,
    *module_layers.CLAIMS,
    *module_attention.CLAIMS,
    *cloning_metric.CLAIMS,
)
