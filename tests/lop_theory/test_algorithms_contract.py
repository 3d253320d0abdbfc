"""One contract for the whole family: what every algorithm must do, whatever it does.

The forward passes of the tests run replica by replica, so that a difference between a replica and a single run can only come
from the algorithm.
"""

import importlib
import inspect
import io
import pkgutil

import pytest
import torch

import lop_theory.algorithms
from lop_theory.algorithms import continual_backprop as cbp
from lop_theory.algorithms import perturbation, regularizers, resets
from lop_theory.algorithms.base import (
    Algorithm,
    Context,
    LayerTrace,
    Params,
    chain,
    flatten,
    forget,
    generators,
    gradients,
    mlp_context,
    mlp_init,
    restore,
)
from lop_theory.algorithms.descent import adam, adamw, momentum, nesterov, sgd

WIDTHS, SAMPLES, REPLICAS, STEPS = [3, 5, 5, 2], 6, 3, 5
LR = torch.tensor([0.05, 0.01, 0.1])  # one per replica: sliced for the single runs

# Each row makes the algorithm for the hyper-parameters of the given replicas.
FAMILY = {
    "sgd": lambda lr: sgd(lr),
    "momentum": lambda lr: momentum(lr, 0.8),
    "nesterov": lambda lr: nesterov(lr, 0.8),
    "adam": lambda lr: adam(lr),
    "adam per weight": lambda lr: adam(lr, per_weight_count=True),
    "adamw": lambda lr: adamw(lr, weight_decay=lr),
    "l2": lambda lr: regularizers.l2(adam(lr), lr),
    "l2_init": lambda lr: regularizers.l2_init(momentum(lr), 0.1),
    "effective_rank_penalty": lambda lr: regularizers.effective_rank_penalty(sgd(lr), 0.1),
    "effective_rank_step": lambda lr: regularizers.effective_rank_step(lr, 2),
    "l2_er": lambda lr: regularizers.l2_er(momentum(lr), 1e-2, lr, every=2),
    "l2_er first": lambda lr: regularizers.l2_er(sgd(lr), 1e-2, lr, every=2, ascend_first=True),
    "l2_er_printed": lambda lr: regularizers.l2_er_printed(sgd(lr), 1e-2),
    "spectral_regularization": lambda lr: regularizers.spectral_regularization(sgd(lr), 0.1),
    "weight_clipping": lambda lr: chain(sgd(lr), regularizers.weight_clipping(1.0)),
    "gradient_noise": lambda lr: perturbation.gradient_noise(adam(lr), lr, relative="norm"),
    "noisy_sgd": lambda lr: perturbation.noisy_sgd(lr, mu=0.5),
    "shrink_and_perturb": lambda lr: chain(sgd(lr), perturbation.shrink_and_perturb(0.9, lr, every=2)),
    "continual_backprop": lambda lr: cbp.continual_backprop(adam(lr, per_weight_count=True), 0.2, maturity=2),
    "cbp_published_spectral": lambda lr: cbp.cbp_published_spectral(sgd(lr), 0.2, maturity=2),
    "cbp_published_bitflip": lambda lr: cbp.cbp_published_bitflip(sgd(lr), 0.2, maturity=2),
    "redo": lambda lr: resets.redo(momentum(lr), threshold=0.5, period=2),
    "layer_reset": lambda lr: resets.layer_reset(momentum(lr), [0], 2),
    "head_reset": lambda lr: resets.head_reset(momentum(lr), 2),
    "full_reset": lambda lr: resets.full_reset(adam(lr), 2),
    "chain": lambda lr: chain(regularizers.l2(sgd(lr), 0.1), perturbation.shrink_and_perturb(0.99, 0.01)),
}
TO_ROUNDING = {"effective_rank_penalty", "effective_rank_step", "l2_er", "l2_er first", "l2_er_printed"}
TO_ROUNDING |= {"spectral_regularization"}  # decompositions and batched products; all others agree to the last bit

family = pytest.mark.parametrize("name", FAMILY)


def one(tensors: Params, r: int) -> Params:
    return tuple(t[r : r + 1] for t in tensors)


def context(params: Params, step: int, generator: tuple[torch.Generator, ...], seeds: list[int]) -> Context:
    """A context whose forward passes and data are those of single runs, replica by replica."""
    dtype = params[0].dtype
    single = []
    for r, seed in enumerate(seeds):
        draw = torch.Generator().manual_seed(1000 * seed + step)
        x = torch.randn(SAMPLES, WIDTHS[0], generator=draw, dtype=dtype)
        y = torch.randn(SAMPLES, WIDTHS[-1], generator=draw, dtype=dtype)
        single.append(mlp_context(one(params, r), x, y))
    traces = [c.trace for c in single]
    trace = LayerTrace(
        tuple(torch.cat(rows) for rows in zip(*(t.z for t in traces))),
        tuple(torch.cat(rows) for rows in zip(*(t.h for t in traces))),
        torch.cat([t.output for t in traces]),
    )
    return Context(
        loss=lambda p: torch.cat([c.loss(one(p, r)) for r, c in enumerate(single)]),
        features=lambda p: tuple(torch.cat(h) for h in zip(*(c.features(one(p, r)) for r, c in enumerate(single)))),
        trace=trace,
        step=step,
        generator=generator,
    )


def train(rule, params, state, generator, seeds, steps):
    for step in steps:
        ctx = context(params, step, generator, seeds)
        params, state = rule.update(params, gradients(params, ctx), state, ctx)
    return params, state


def run(name, seeds, dtype=torch.float64):
    rule = FAMILY[name](LR[list(seeds)].to(dtype))
    params = mlp_init(WIDTHS, generators(seeds), dtype)
    return train(rule, params, rule.init(params), generators([50 + s for s in seeds]), list(seeds), range(STEPS))


def same(a, b) -> bool:
    left, right = flatten(a), flatten(b)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_the_family_is_complete():
    """Every public function of the package that makes an algorithm is in the table above, under its own name."""
    made = set()
    for module in pkgutil.iter_modules(lop_theory.algorithms.__path__):
        members = inspect.getmembers(
            importlib.import_module(f"lop_theory.algorithms.{module.name}"), inspect.isfunction
        )
        made |= {n for n, f in members if f.__annotations__.get("return") == "Algorithm" and not n.startswith("_")}
    assert made <= set(FAMILY)


@family
def test_same_seed_same_bits_and_it_moves(name):
    first, again = run(name, [0, 1, 2]), run(name, [0, 1, 2])
    assert same(first[0], again[0]) and same(first[1], again[1])
    start = mlp_init(WIDTHS, generators([0, 1, 2]))
    assert not any(torch.equal(a, b) for a, b in zip(first[0][::2], start[::2])) or name == "effective_rank_step"


@family
def test_a_replica_is_a_single_run(name):
    together, state = run(name, [0, 1, 2])
    for r in range(REPLICAS):
        alone, own = run(name, [r])
        if name in TO_ROUNDING:
            for a, b in zip(one(together, r), alone):
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
        else:
            assert same(one(together, r), alone)
            ours = {k: v[r : r + 1] for k, v in flatten(state).items()}
            assert all(torch.equal(v, ours[k]) for k, v in flatten(own).items())


@family
def test_a_saved_state_resumes_exactly(name):
    """Through torch.save with weights_only: 2 steps, save, load, 3 steps = 5 steps."""
    seeds = [0, 1, 2]
    rule, params = FAMILY[name](LR.double()), mlp_init(WIDTHS, generators(seeds))
    source = generators([50 + s for s in seeds])
    params, state = train(rule, params, rule.init(params), source, seeds, range(2))
    file = io.BytesIO()
    torch.save({"params": params, "state": flatten(state), "rng": [g.get_state() for g in source]}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    fresh = generators([0, 0, 0])
    for g, saved in zip(fresh, loaded["rng"]):
        g.set_state(saved)
    like = rule.init(mlp_init(WIDTHS, generators([7, 8, 9])))
    resumed = train(rule, loaded["params"], restore(like, loaded["state"]), fresh, seeds, range(2, STEPS))
    straight = run(name, seeds)
    assert same(resumed[0], straight[0]) and same(resumed[1], straight[1])


@family
def test_arguments_are_left_alone(name):
    seeds = [0, 1, 2]
    rule, params = FAMILY[name](LR.double()), mlp_init(WIDTHS, generators(seeds))
    state, source = rule.init(params), generators(seeds)
    for step in range(4):  # period, maturity and ``every`` are 2
        ctx = context(params, step, source, seeds)
        grads = gradients(params, ctx)
        before = [{k: v.clone() for k, v in flatten(t).items()} for t in (params, grads, state, ctx.trace)]
        new, after = rule.update(params, grads, state, ctx)
        for held, t in zip(before, (params, grads, state, ctx.trace), strict=True):
            assert all(torch.equal(v, held[k]) for k, v in flatten(t).items())
        assert not any(t.requires_grad for t in (*flatten(new).values(), *flatten(after).values()))
        params, state = new, after


@family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_shapes_are_kept(name, dtype):
    params, state = run(name, [0, 1, 2], dtype)
    start = mlp_init(WIDTHS, generators([0, 1, 2]), dtype)
    assert [(p.dtype, p.shape) for p in params] == [(p.dtype, p.shape) for p in start]
    initial = flatten(FAMILY[name](LR.to(dtype)).init(start))
    assert {k: (v.dtype, v.shape) for k, v in flatten(state).items()} == {
        k: (v.dtype, v.shape) for k, v in initial.items()
    }
    assert all(v.dtype == dtype for v in initial.values() if v.is_floating_point())
    assert all(v.shape[0] == REPLICAS for v in initial.values())


@family
def test_bad_arguments_raise_named_errors(name):
    rule, params = FAMILY[name](0.1), mlp_init(WIDTHS, generators([0, 1]))
    state = rule.init(params)
    with pytest.raises(ValueError, match="5 gradients for 6 parameters"):
        rule.update(params, params[:5], state, None)
    with pytest.raises(ValueError, match="gradient 0 is torch.float32"):
        rule.update(params, (params[0].float(), *params[1:]), state, None)
    with pytest.raises(ValueError, match="one R; stack them"):
        rule.init((params[0], params[1][:1], *params[2:]))
    with pytest.raises(TypeError, match="parameters are floating point"):
        rule.init((params[0].long(), *params[1:]))
    with pytest.raises(TypeError, match="a non-empty tuple of tensors is needed"):
        rule.init(list(params))


@family
def test_a_wrong_step_size_is_refused(name):
    with pytest.raises(ValueError, match="must be finite and in"):
        FAMILY[name](float("nan"))
    if name not in ("chain",):
        with pytest.raises(ValueError, match="-1.0"):
            FAMILY[name](-1.0)


@family
def test_hyper_parameters_per_replica_are_those_of_the_replicas(name):
    """A tensor [0.05, 0.05, 0.05] is the float 0.05 (as far as float32 of the tensor goes, hence a dyadic value)."""
    seeds, params = [0, 1, 2], mlp_init(WIDTHS, generators([0, 1, 2]))
    ends = []
    for lr in (0.0625, torch.full((3,), 0.0625)):
        rule = FAMILY[name](lr)
        ends.append(train(rule, params, rule.init(params), generators(seeds), seeds, range(3))[0])
    assert same(*ends)
    rule = FAMILY[name](torch.full((2,), 0.0625))
    with pytest.raises(ValueError, match="for 3 replicas"):
        train(rule, params, rule.init(params), generators(seeds), seeds, range(3))


@family
def test_forget_everything_is_like_new(name):
    """With every weight under the mask, what is left of the state is what init gives (per-weight memory, that is)."""
    rule, params = FAMILY[name](0.1), mlp_init(WIDTHS, generators([0, 1, 2]))
    initial = rule.init(params)
    _, state = train(rule, params, initial, generators([0, 1, 2]), [0, 1, 2], range(2))
    forgotten = flatten(forget(state, tuple(torch.ones_like(p, dtype=torch.bool) for p in params)))
    for path, value in flatten(initial).items():
        if path.split(".")[-2] in ("velocity", "first", "second"):
            assert torch.equal(forgotten[path], value), path
    untouched = forget(state, tuple(torch.zeros_like(p, dtype=torch.bool) for p in params))
    assert same(untouched, state)


def test_a_state_of_another_algorithm_is_refused():
    params = mlp_init(WIDTHS, generators([0]))
    with pytest.raises(ValueError, match="use the algorithm that saved"):
        restore(momentum(0.1).init(params), flatten(adam(0.1).init(params)))
    with pytest.raises(ValueError, match="has shape"):
        restore(adam(0.1).init(params), flatten(adam(0.1, per_weight_count=True).init(params)))
    with pytest.raises(TypeError, match="states hold tensors"):
        flatten((1.0,))
    with pytest.raises(ValueError, match="at least one algorithm"):
        chain()
    assert isinstance(chain(sgd(0.1)), Algorithm)
