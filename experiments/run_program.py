"""What a configuration stands for: :func:`prepare` opens its streams and its algorithm, or says why it cannot run."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.datasets import DataError
from experiments.errors import Failure
from experiments.run_algorithms import make_algorithm
from experiments.run_config import Run, as_json
from experiments.run_metrics import measured_columns
from experiments.streams import Stream, StreamConfig, open_streams, protocol
from lop_theory.activations import get_activation
from lop_theory.algorithms.base import Algorithm

__all__ = ["Program", "prepare"]


@dataclass(frozen=True)
class Program:
    """A configuration with all that it needs to run: one stream per replica, the algorithm, the widths of the net."""

    config: Run
    streams: tuple[Stream[Any], ...]
    algorithm: Algorithm
    widths: tuple[int, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the measurements: those of ``run``, around those of ``run_metrics.measured_columns``."""
        names = ["online_accuracy", "online_loss", "final_train_accuracy", "final_test_accuracy"]
        return [*names, *measured_columns(as_json(self.config)), "diverged_at", "reason", "seconds"]

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on: configuration, data and versions (its rounding depends on these)."""
        images = self.streams[0].images
        versions = {name: metadata.version(name) for name in ("torch", "numpy", "scipy", "numba")}
        return {
            **as_json(self.config),
            "data_sha256": images.fingerprint if images else "",
            "versions": versions | {"python": platform.python_version()} | _device(self.config),
        }


def prepare(config: Run, data: str | Path | None = None) -> Program:
    """Open the streams and the algorithm; raises :class:`Failure` for what cannot run.

    >>> prepare(Run(stream="permuted-images")).widths
    (64, 100, 100, 100, 10)
    >>> prepare(Run(stream="permuted-images", algorithm="cbp", tasks=1, maturity=10**6))
    Traceback (most recent call last):
    ...
    experiments.errors.Failure: maturity = 1000000; the run has 224 updates, so that no unit would ever be replaced: lower it
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise Failure("device = 'cuda'; torch finds no GPU on this machine: leave it out")
    try:
        get_activation(config.activation)
        seeds = range(config.seed, config.seed + config.seeds)
        streams = open_streams(config.stream, _stream_config(config), seeds, data)
    except DataError:
        raise
    except (ValueError, TypeError) as error:
        raise Failure(str(error)) from error
    if streams[0].loss != "cross_entropy":
        raise Failure(
            f"stream {config.stream!r} is a regression: it has a runner of its own; choose a stream of images"
        )
    for t in (0, config.tasks - 1):
        sizes = sorted({len(stream.task(t).train) for stream in streams})
        if len(sizes) > 1:
            raise Failure(
                f"task {t} has {sizes[0]} to {sizes[-1]} examples, depending on the seed, so that replicas cannot advance "
                "together: give --seeds 1, or data with classes of one size"
            )
    counts = [len(streams[0].task(t).batches()) * streams[0].config.epochs for t in (0, config.tasks - 1)]
    total = max(counts) * config.tasks
    smallest = min(len(batch) for t in (0, config.tasks - 1) for batch in streams[0].task(t).batches())
    if config.norm == "batch" and smallest < 2:
        raise Failure("norm = 'batch'; one example has no variance: choose norm layer, or another batch")
    if config.maturity is not None and config.maturity >= total:
        raise Failure(
            f"maturity = {config.maturity}; the run has {total} updates, so that no unit would ever be replaced: lower it"
        )
    if config.period == 0 and len(set(counts)) > 1:
        raise Failure(
            f"period = 0 is a task, but tasks have {counts[0]} to {counts[1]} updates: give a number of updates"
        )
    widths = (int(np.prod(streams[0].input_shape)), *config.hidden, streams[0].num_outputs)
    return Program(config, tuple(streams), make_algorithm(config, counts[0]), widths)


def _device(config: Run) -> dict[str, str]:
    return {} if config.device == "cpu" else {config.device: torch.cuda.get_device_name()}


def _stream_config(config: Run) -> StreamConfig:
    base = protocol(config.stream, config.protocol)
    probe = config.probe if config.probe or not config.examples else min(base.probe, config.examples)
    options = {"data": config.dataset, "batch": config.batch, "epochs": config.epochs, "examples": config.examples}
    given = {name: value for name, value in {**options, "probe": probe}.items() if value is not None}
    for name in given:
        if not hasattr(base, name):
            raise ValueError(f"{name} = {given[name]}; stream {config.stream!r} has no such option: leave it out")
    return replace(base, tasks=config.tasks, source="", **given)  # type: ignore[arg-type]
