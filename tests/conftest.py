"""Shared set-up: one thread, explicit randomness, named Hypothesis profiles."""

import os

# OpenMP and BLAS read these once, when torch and numpy are loaded, so they are set before those imports.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# `dev` looks at new examples on every run and remembers its failures; `ci` repeats the same examples everywhere;
# `nightly` searches longer: pytest --hypothesis-profile=nightly. Wall time says nothing on a shared machine, so no
# profile has a deadline and none calls a slow draw an error.
COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", derandomize=False, **COMMON)
settings.register_profile("ci", derandomize=True, database=None, **COMMON)
settings.register_profile("nightly", derandomize=False, max_examples=5000, **COMMON)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh generator with a fixed seed: the only source of randomness of a test that does not use Hypothesis."""
    return torch.Generator().manual_seed(20260101)


@pytest.fixture
def dtype() -> torch.dtype:
    """float64, to be passed explicitly. The global default stays float32, so that code relying on it is noticed."""
    return torch.float64
