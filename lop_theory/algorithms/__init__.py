"""Algorithms against loss of plasticity: ``init(params) → state`` and ``update(params, grads, state, ctx) → (params, state)``.

``base`` says what an algorithm is; ``descent`` holds the optimisers, ``regularizers`` what is added to their gradient or taken
as a step of its own, ``perturbation`` what is random, ``resets`` and ``continual_backprop`` what replaces units. Everything
has a leading replica axis.

>>> from lop_theory.algorithms.base import chain, generators, gradients, mlp_context, mlp_init
>>> from lop_theory.algorithms.descent import adam
>>> from lop_theory.algorithms.perturbation import shrink_and_perturb
>>> import torch
>>> seeds, x, y = generators([0, 1, 2]), torch.ones(4, 5).double(), torch.zeros(4, 1).double()
>>> params = mlp_init([5, 8, 1], seeds)                                   # three networks side by side
>>> rule = chain(adam(torch.tensor([1e-1, 1e-2, 1e-3])), shrink_and_perturb(0.999, 1e-3, every=10))
>>> state, losses = rule.init(params), []
>>> for step in range(100):
...     ctx = mlp_context(params, x, y, step=step, generator=seeds)
...     losses.append(ctx.loss(params))
...     params, state = rule.update(params, gradients(params, ctx), state, ctx)
>>> bool((losses[-1] < losses[0]).all())
True
"""
