"""Algorithms against loss of plasticity: ``init(params) → state`` and ``update(params, grads, state, ctx) → (params, state)``.

``base`` says what an algorithm is, ``descent`` holds the optimisers, ``regularizers`` what is added to their gradient or
taken as a step of its own, ``perturbation`` what is random. Everything has a leading replica axis.
"""
