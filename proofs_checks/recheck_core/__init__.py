"""The parts of the independent witness checker: nothing here imports torch, numpy, or the library it checks.

Reading order: ``numbers`` (number systems), ``jets`` (second-order forward derivatives), ``activations``, ``network``
(the NETWORK object of a witness), ``forward`` (evaluation and loss), ``exact_rank``, ``steps`` (optimiser steps),
``expressions`` (the EXPR object of a witness).  The door is :mod:`proofs_checks.recheck`.
"""
