"""Witness level: published counterexamples are confirmed, tampered ones are not, malformed ones are named."""

import copy
import json
import subprocess
import sys
import time
from fractions import Fraction

import pytest
import torch

from proofs_checks.recheck import WitnessError, main, recheck
from tests.reference.witness_networks import layered, random_layered, torch_loss, torch_theta


def q(quantity, **arguments):
    return {"quantity": quantity, **arguments}


def claim(left, op, right):
    return {"left": left, "op": op, "right": right}


def witness(net, *assertions, **networks):
    return {
        "format": "lop-witness/1",
        "claim": "spectral.dead-unit-bound",
        "role": "counterexample",
        "variant": "",
        "statement": "the rank exceeds the printed bound",
        "networks": {"net": net, **networks},
        "assertions": list(assertions),
    }


def adjacent_dead_units():
    """dims [1, 2, 2, 1]: unit 0 of the first and unit 1 of the second hidden layer are dead and joined by a weight."""
    return layered(
        weights=[[[0], [0]], [[0, 2], [2, 0]], [[1, 0]]],
        biases=[[-1, 2], [1, -2], [-1]],
        x=[[-3], [2], [1], [0]],
        y=[[0], [0], [0], [-1]],
    )


def second_adjacent_dead_units():
    """1-2-2-1 with unit 2 of each hidden layer dead, data with a rank-6 live block."""
    return layered(
        weights=[[[1], [1]], [[2, 1], [1, 1]], [[1, 1]]],
        biases=[[1, -10], [-2, -20], [0]],
        x=[["-1/2"], [1], [2], ["1/4"], [3]],
        y=[[1], [0], [3], [2], [-1]],
    )


@pytest.mark.parametrize("net", [adjacent_dead_units(), second_adjacent_dead_units()], ids=["curvature", "spectral"])
def test_adjacent_dead_units_break_the_additive_bound_and_attain_the_union_bound(net):
    outcome = recheck(
        witness(
            net,
            claim(q("num_params"), "==", "13"),
            claim(q("dead_units"), "==", "2"),
            claim(q("dead_unit_bound"), "==", "5"),
            claim(q("dead_unit_bound_union"), "==", "6"),
            claim(q("hessian_rank"), "==", "6"),
            claim(q("hessian_rank"), ">", q("dead_unit_bound")),
        )
    )
    assert outcome.confirmed, outcome.explanation
    assert [result.holds for result in outcome.assertions] == [True] * 6


@pytest.mark.parametrize("activation", ["relu", "hard_tanh"])
def test_constant_units_without_next_layer_bias_break_the_constant_unit_bound(activation):
    """A unit saturated at +1 with no bias downstream keeps its outgoing weight visible; a dead ReLU does not."""
    net = layered([[[1], [1]], [[3, 2]]], None, x=[[2], [3], [5]], y=[[1], [1], [2]], activation=activation)
    # live unit: activation identity of x; saturated or dead unit: fixed bias by a second, constant input
    net |= {"activation": ["identity", activation, "identity"], "has_constant": True}
    net["edges"] = [[0, 2, 0], [0, 3, 1], [1, 3, 2], [2, 4, 3], [3, 4, 4]]
    net |= {"outputs": [4], "theta": ["1", "0", "-9" if activation == "relu" else "9", "3", "2"]}
    bound = claim(q("constant_unit_bound"), "==", "2")  # 5 - (2 in + 1 out)
    rank = claim(q("hessian_rank"), "==", "2" if activation == "relu" else "3")  # live: w1, w2, and the constant's out
    dead = claim(q("dead_units"), "==", "1" if activation == "relu" else "0")
    outcome = recheck(witness(net, bound, rank, dead))
    assert outcome.confirmed, outcome.explanation


def test_bounds_count_trainable_edges_and_the_union_counts_a_tied_parameter_once():
    """Unit 1 is dead with a fixed incoming weight; its two outgoing edges share one parameter."""
    net = layered([[[-1], [1]], [[1, 1], [1, 1]]], None, x=[[1]], y=[[0, 0]])
    net["edges"] = [[0, 1, -1, "-1"], [0, 2, 0], [1, 3, 1], [1, 4, 1], [2, 3, 2], [2, 4, 3]]
    net["theta"] = ["1"] * 4
    additive, union = claim(q("dead_unit_bound"), "==", "2"), claim(q("dead_unit_bound_union"), "==", "3")
    assert recheck(witness(net, claim(q("dead_units"), "==", "1"), additive, union)).confirmed


def test_a_unit_that_alternates_between_flat_pieces_is_not_constant():
    net = layered([[[5], [1]], [[1, 1]]], None, x=[[-1], [1]], y=[[0], [0]], activation="hard_tanh")
    net["theta"][1] = "0"
    assert recheck(witness(net, claim(q("constant_unit_bound"), "==", q("num_params")))).confirmed


# -- necessity of the assumptions of the cloning theorem, activation f(z) = z + z^2/2, one sample x = 1, target 0


def clones(into, out, targets=("0",)):
    """1 -> {h1, h2} -> outputs, no bias; units 1 and 2 are the clones."""
    net = layered([[[into[0]], [into[1]]], out], None, x=[[1]], y=[list(targets)], activation="quadratic")
    return net


SGD = {"steps": 1, "rate": "1/10", "rule": {"name": "sgd"}}


def test_unequal_incoming_sums_split_the_forward_values():
    net = clones((1, 2), [[1, 1]])
    a, b = (q("value", unit=unit, sample=0) for unit in (1, 2))
    assert recheck(witness(net, claim(a, "==", "3/2"), claim(b, "==", "4"), claim(a, "!=", b))).confirmed


def test_unequal_outgoing_sums_split_error_signals_and_one_step_splits_the_clones():
    """f = 3/2 + 3 = 9/2 = residual; error signals f'(1) w = 2w times 9/2: 9 and 18; x = 1 so they are gradients too."""
    net = clones((1, 1), [[1, 2]])
    outcome = recheck(
        witness(
            net,
            claim(q("adjoint", unit=1, sample=0), "==", "9"),
            claim(q("adjoint", unit=2, sample=0), "==", "18"),
            claim(q("gradient", index=1), "==", "18"),
            claim(q("param_after", index=0, **SGD), "==", "1/10"),
            claim(q("param_after", index=1, **SGD), "==", "-4/5"),
            claim(q("value", unit=1, sample=0, **SGD), "!=", q("value", unit=2, sample=0, **SGD)),
        )
    )
    assert outcome.confirmed, outcome.explanation


def test_block_that_is_not_biregular_leaves_the_manifold_in_one_step():
    """Edges u1v1, u1v2, u2v1 with weights 0, 1, 1: equal sums, equal edge gradients g = 315/16, unequal degrees.

    x = 1, h_u = 3/2, z_v = 3/2, h_v = 21/8, f = 21/4, delta_v = 21/4 * 5/2 = 105/8, g = 105/8 * 3/2.  After a step
    the row sums differ by rate * g = 315/1600.
    """
    net = {
        "num_inputs": 1,
        "has_constant": False,
        "activation": ["quadratic"] * 4 + ["identity"],
        "outputs": [5],
        "edges": [[0, 1, 0], [0, 2, 1], [1, 3, 2], [1, 4, 3], [2, 3, 4], [3, 5, 5], [4, 5, 6]],
        "theta": ["1", "1", "0", "1", "1", "1", "1"],
        "x": [["1"]],
        "y": [["0"]],
        "loss": "mse_sum",
    }
    step = SGD | {"rate": "1/100"}
    rows = ["0", "0", "1", "1", "-1", "0", "0"]
    outcome = recheck(
        witness(
            net,
            claim(q("value", unit=3, sample=0), "==", q("value", unit=4, sample=0)),
            claim(q("adjoint", unit=1, sample=0), "==", q("adjoint", unit=2, sample=0)),
            *[claim(q("gradient", index=index), "==", "315/16") for index in (2, 3, 4)],
            claim(q("form_after", coefficients=rows, **step), "==", "-63/320"),
            claim(q("value", unit=3, sample=0, **step), "!=", q("value", unit=4, sample=0, **step)),
        )
    )
    assert outcome.confirmed, outcome.explanation


def test_outputs_of_one_block_with_unequal_targets_split_the_error_signals():
    net = clones((1, 1), [[1, 1], [1, 1]], targets=("0", "1"))
    first, second = (q("adjoint", unit=unit, sample=0) for unit in (3, 4))
    assert recheck(witness(net, claim(first, "==", "3"), claim(second, "==", "2"))).confirmed


@pytest.mark.parametrize(
    ("extra", "preserved"),
    [
        ({}, True),
        ({"velocity": ["1", "0", "0", "0"], "rule": {"name": "sgd", "momentum": "1/2"}}, False),
        ({"velocity": ["1", "1", "0", "0"], "rule": {"name": "sgd", "momentum": "1/2"}}, True),
        ({"grad_noise": ["1/3", "0", "0", "0"]}, False),
        ({"unit_mask": {"1": "0", "2": "2"}}, False),
        ({"unit_mask": {"1": "2", "2": "2"}}, True),
    ],
    ids=str,
)
def test_what_keeps_identical_clones_identical(extra, preserved):
    net = clones((1, 1), [[1, 1]])
    after = {key: q("param_after", index=key, **(SGD | {"steps": 2} | extra)) for key in (0, 1)}
    assert recheck(witness(net, claim(after[0], "==", after[1]))).confirmed is preserved
    assert recheck(witness(net, claim(after[0], "!=", after[1]))).confirmed is not preserved


# -- networks that need balls


def saturated_tanh(bias="20"):
    net = random_layered([3, 5, 2], 30, seed=3, activation="tanh", size=1)
    bias_edge = next(k for k, (source, target, _) in enumerate(net["edges"]) if (source, target) == (3, 4))
    net["theta"][net["edges"][bias_edge][2]] = bias
    return net


def test_a_saturated_tanh_unit_is_not_dead_although_float64_says_so():
    net = saturated_tanh()
    hessian = torch.func.hessian(lambda w: torch_loss(net, w))(torch_theta(net))
    assert torch.linalg.matrix_rank(hessian) < 32  # the wrong theorem: P - k (I + O + 1) = 26 looks attained
    outcome = recheck(witness(net, claim(q("num_params"), "==", "32"), claim(q("hessian_rank"), ">=", "32")))
    assert outcome.confirmed, outcome.explanation
    assert not recheck(witness(net, claim(q("hessian_rank"), "<", "32"))).confirmed


def test_an_open_ball_rank_is_not_confirmed_and_says_so():
    """Adding one vector to all output rows shifts the logits for free: 3 null directions, in no coordinate plane."""
    net = layered([[[1], [2]], [[1, -1], [2, 1]]], [[1, 1], [1, 1]], x=[[1], [2]], y=[0, 1], loss="cross_entropy")
    net["bits"] = 2048
    assert recheck(witness(net, claim(q("hessian_rank"), ">=", "6"), claim(q("hessian_rank"), "!=", "5"))).confirmed
    outcome = recheck(witness(net, claim(q("hessian_rank"), "==", "6")))
    assert not outcome.confirmed
    assert outcome.explanation == "not confirmed: hessian_rank [between 6 and 10] == 6 is not decided"


def test_precision_is_raised_until_the_sign_is_decided():
    """softplus(-300) is about e^-300 = 2^-433: at 64 bits its difference to an equal fixed value is noise."""
    net = layered([[[1]], [[1]]], None, x=[["-300"]], y=[["0"]], activation="softplus") | {"bits": 64}
    one_plus = {"sum": ["1", q("value", unit=1, sample=0)]}
    assert recheck(witness(net, claim(one_plus, ">", "1"))).confirmed
    assert not recheck(witness(net, claim(one_plus, "<=", "1"))).confirmed


def test_layernorm_breaks_the_dead_unit_bound():
    """1-4-1, two dead units: their incoming weights enter the other units' mean and variance.  Rank >= 9 > 7."""
    net = layered(
        weights=[[[0], [-1], [1], [0]], [[-2, -2, 2, 1]]],
        biases=[[-20, -20, "7/2", -3], [2]],
        x=[[-3], [1], [-1], [3]],
        y=[[1], [-2], [3], [0]],
    )
    net["normalization"] = [{"kind": "layernorm", "units": [2, 3, 4, 5], "eps": "1"}]
    bound = q("dead_unit_bound")
    outcome = recheck(
        witness(net, claim(q("dead_units"), "==", "2"), claim(bound, "==", "7"), claim(q("hessian_rank"), ">", bound))
    )
    assert outcome.confirmed, outcome.explanation
    without = net | {"normalization": []}
    assert not recheck(witness(without, claim(q("hessian_rank"), ">", bound))).confirmed


# -- what must not be confirmed


@pytest.mark.parametrize(
    "tamper",
    [
        lambda w: w["assertions"][0].update(right="7"),
        lambda w: w["assertions"][0].update(op="<"),
        lambda w: w["networks"]["net"]["theta"].__setitem__(3, "30"),  # the bias -10 of the first dead unit
        lambda w: w["networks"]["net"]["x"].__setitem__(4, ["100"]),
        lambda w: w.update(rank=99) or w["assertions"][0].update(right="99"),
    ],
    ids=["right side", "operator", "dead unit revived", "data", "stored rank"],
)
def test_a_tampered_witness_is_not_confirmed(tamper):
    true = witness(
        second_adjacent_dead_units(),
        claim(q("hessian_rank"), "==", "6"),
        claim(q("dead_units"), "==", "2"),
    )
    assert recheck(true).confirmed
    forged = copy.deepcopy(true)
    tamper(forged)
    outcome = recheck(forged)
    assert not outcome.confirmed
    assert outcome.explanation.startswith("not confirmed")


def malformed(path, value):
    broken = witness(adjacent_dead_units(), claim(q("hessian_rank"), ">", "5"))
    *parents, last = path
    spot = broken
    for key in parents:
        spot = spot[key]
    spot[last] = value
    return broken


NET = ("networks", "net")
LEFT = ("assertions", 0, "left")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "lop-witness/2", "format = 'lop-witness/2': unknown witness format"),
        (("role",), "proof", "role = 'proof'"),
        (("networks",), {}, "needs a network"),
        (("assertions",), [], "asserts something"),
        (("assertions", 0, "op"), "=>", "assertions[0].op = '=>': unknown operator"),
        ((*NET, "num_inputs"), -1, "networks.net.num_inputs = -1"),
        ((*NET, "num_inputs"), True, "networks.net.num_inputs = True"),
        ((*NET, "theta", 0), 0.5, "networks.net.theta[0] = 0.5: a number is an exact rational"),
        ((*NET, "theta", 0), "1/0", "networks.net.theta[0] = '1/0'"),
        ((*NET, "theta", 0), "1e3", "exact rational"),
        ((*NET, "theta"), ["0"] * 14, "parameters [13] label no edge"),
        ((*NET, "edges", 0), [2, 2, 0], "edges[0] source = 2: must be an integer, at least 0, at most 1"),
        ((*NET, "edges", 0), [0, 2, 13], "edges[0] param = 13"),
        ((*NET, "edges", 0), [0, 2, -1], "a fixed weight goes with param -1"),
        ((*NET, "edges", 1), [0, 2, 1], "two edges join the same units"),
        ((*NET, "activation", 0), "swish", "networks.net.activation[0] = 'swish': unknown activation"),
        ((*NET, "outputs"), [6, 6], "distinct units"),
        ((*NET, "loss"), "hinge", "unknown loss"),
        ((*NET, "x"), [], "the batch needs a sample"),
        ((*NET, "x", 0), ["1", "2"], "has 2 entries, needs 1"),
        ((*NET, "y"), [["0"]], "has 1 entries, needs 4"),
        ((*NET, "momentum"), 0, "networks.net.momentum = 0: unknown key"),
        ((*NET, "bits"), 10**6, "networks.net.bits = 1000000"),
        ((*NET, "normalization"), [{"kind": "layernorm", "units": [2, 4], "eps": "1"}], "computed together"),
        (LEFT, q("rank"), "assertions[0].left.quantity = 'rank': unknown quantity"),
        (LEFT, q("hessian_rank", net="base"), "no such network"),
        (LEFT, q("value", unit=2), "assertions[0].left.sample = None: required key is missing"),
        (LEFT, q("preactivation", unit=0, sample=0), "assertions[0].left.unit = 0"),
        (LEFT, q("param_after", index=0), "assertions[0].left.steps = None: required key"),
        (LEFT, q("param_after", index=0, steps=1, rate="1", rule={"name": "lion"}), "unknown rule"),
        (LEFT, q("param_after", index=0, steps=2, rate="1", rule={"name": "adam", "eps": "1"}), "exact for one step"),
        (
            LEFT,
            q("param_after", index=0, steps=1, rate="1", rule={"name": "rmsprop", "alpha": "1/2", "eps": "1"}),
            "square of a positive rational",
        ),
        (LEFT, {"sum": []}, "needs a term"),
        (LEFT, {"difference": ["1", "2"]}, "one operation"),
        (LEFT, q("quadratic_form", v=["1"]), "has 1 entries, needs 13"),
    ],
    ids=str,
)
def test_malformed_witnesses_are_named(path, value, message):
    with pytest.raises(WitnessError) as error:
        recheck(malformed(path, value))
    assert message in str(error.value)
    assert "; fix: " in str(error.value)


def spots(node, path=()):
    """Paths of all nodes of a JSON tree."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield from spots(child, (*path, key))


def test_junk_anywhere_is_a_witness_error_or_an_outcome():
    """Every node of a witness that uses every construct is replaced by every kind of junk."""
    net = layered([[[1], [1]], [[1, 1]]], None, x=[[1]], y=[["0"]], activation="tanh")
    net |= {"normalization": [{"kind": "layernorm", "units": [1, 2], "eps": "1"}], "bits": 256}
    net["edges"][0] = [0, 1, -1, "1/2"]
    net["theta"], net["edges"][1:] = ["1", "1", "1"], [[0, 2, 0], [1, 3, 1], [2, 3, 2]]
    sgd = {"name": "sgd", "momentum": "1/2", "nesterov": True, "weight_decay": "0", "l1": "0", "clip_value": "1"}
    training = {"steps": 1, "rate": "1", "rule": sgd, "velocity": ["0"] * 3, "unit_mask": {"1": "2"}}
    left = {"sum": [{"abs": q("value", net="net", unit=3, sample=0)}, q("param_after", index=0, **training)]}
    true = witness(net, claim(left, ">", "-9"), claim(q("hessian_rank"), "<", {"product": ["2", q("hessian_rank")]}))
    recheck(true)
    errors = 0
    for path in list(spots(true))[1:]:
        for junk in (None, True, -1, 7, 1.5, "junk", "1/0", [], [[]], {}, {"a": {}}):
            broken = copy.deepcopy(true)
            spot = broken
            for key in path[:-1]:
                spot = spot[key]
            spot[path[-1]] = junk
            try:
                recheck(broken)
            except WitnessError as error:
                assert "; fix: " in str(error)
                errors += 1
    assert errors > 500


@pytest.mark.parametrize("raw", [None, [], 3, "witness"])
def test_a_witness_that_is_no_object_is_named(raw):
    with pytest.raises(WitnessError, match="must be a JSON object"):
        recheck(raw)


def test_a_kink_is_an_error_for_derivatives_only():
    net = layered([[[1]], [[1]]], None, x=[["0"]], y=[["1"]])
    assert recheck(witness(net, claim(q("loss"), "==", "1/2"), claim(q("dead_units"), "==", "0"))).confirmed
    with pytest.raises(WitnessError, match="derivative 1 of relu at its kink z = 0 is undefined"):
        recheck(witness(net, claim(q("gradient", index=0), "==", "0")))


# -- arithmetic, several networks, the command line


def test_arithmetic_and_several_networks():
    net, base = clones((1, 1), [[1, 1]]), layered([[[1]], [[2]]], None, [[1]], [["0"]], "quadratic")
    outcome = recheck(
        witness(
            net,
            claim(q("loss"), "==", q("loss", net="base")),
            claim({"product": ["2", q("gradient", index=0)]}, "==", q("gradient", index=0, net="base")),
            claim({"abs": {"sum": [q("loss"), "-5"]}}, "==", "1/2"),  # f = 3, loss 9/2
            claim({"max": ["1", q("num_params"), "3"]}, "==", "4"),
            claim({"min": ["1", q("num_params"), "3"]}, "==", "1"),
            claim(q("bilinear_form", u=["1", "0", "0", "0"], v=["0", "0", "1", "0"]), "==", q("hessian", i=2, j=0)),
            claim(q("quadratic_form", v=["0", "1", "0", "0"]), "==", q("hessian", i=1, j=1)),
            claim(q("gradient_form", coefficients=["1", "-1", "0", "0"]), "==", "0"),
            base=base,
        )
    )
    assert outcome.confirmed, outcome.explanation


def test_command_line_exit_status(tmp_path, capsys):
    true, false, broken = tmp_path / "true.json", tmp_path / "false.json", tmp_path / "broken.json"
    true.write_text(json.dumps(witness(adjacent_dead_units(), claim(q("hessian_rank"), ">", q("dead_unit_bound")))))
    false.write_text(json.dumps(witness(adjacent_dead_units(), claim(q("hessian_rank"), ">", "6"))))
    broken.write_text("{")
    assert main([str(true)]) == 0
    assert "confirmed: hessian_rank [6] > dead_unit_bound [5]" in capsys.readouterr().out
    assert main([str(true), str(false)]) == 1
    assert main([str(false), str(broken), str(true)]) == 2
    assert main([str(tmp_path / "absent.json")]) == 2
    nested = '{"abs":' * 800 + '"1"' + "}" * 800
    deep = json.dumps(witness(adjacent_dead_units(), claim("deep", "==", "1"))).replace('"deep"', nested)
    broken.write_text(deep)
    assert main([str(broken)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "not valid JSON" in lines[0] and "give a readable file" in lines[1]


def test_the_checker_loads_neither_torch_nor_the_library():
    script = (
        "import sys; from proofs_checks.recheck import recheck; "
        "bad = [m for m in ('torch', 'numpy', 'scipy', 'sympy', 'lop_theory', 'flint') if m in sys.modules]; "
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_sixty_parameters_and_sixty_samples_take_seconds():
    net = random_layered([3, 4, 5, 3], 60, seed=1)
    start = time.process_time()
    outcome = recheck(witness(net, claim(q("hessian_rank"), "<=", q("num_params"))))
    assert outcome.confirmed and len(net["theta"]) == 59
    assert time.process_time() - start < 20


def test_rational_arithmetic_is_not_rounded():
    third = layered([[[Fraction(1, 3)]]], None, x=[["3"]], y=[["1"]])
    assert recheck(witness(third, claim(q("loss"), "==", "0"))).confirmed
