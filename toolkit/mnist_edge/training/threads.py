"""Choose the number of CPU threads to train with, by timing a few steps on a copy of the run."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat

import torch

from mnist_edge.cpus import available_cpus
from mnist_edge.ranks import ALONE
from mnist_edge.records.data import Dataset
from mnist_edge.training.feed import Feed
from mnist_edge.training.loop import Run
from mnist_edge.training.network import normalization_of, step_for
from mnist_edge.training.step import momentum_of

ROUNDS = 2
"""Rounds in which every number of threads is timed, in turn."""
ROUND_S = 0.15
"""Seconds of timed steps in a round."""
LEAST_STEPS = 3
"""Timed steps of a round, however slow they are."""
IMAGES = 4096
"""Training images that the timed steps take their batches from."""


def choose_threads(run: Run, dataset: Dataset, wanted: int | None, recorded: int | None) -> tuple[int, list[str]]:
    """Return how many threads to train with, and notes on the choice.

    Args:
        run: is not changed.
        dataset: that it trains on.
        wanted: the number that the user chose, or None.
        recorded: the number that the run was started with; None for a new run. Another number rounds differently.
    """
    cpus = available_cpus()
    if wanted is not None or recorded is not None:
        threads = wanted if wanted is not None else min(recorded or 1, cpus)
        if recorded is not None and threads != recorded:
            return threads, [
                f"the run was started with {recorded} threads, {threads} are used now: losses may round differently"
            ]
        return threads, []
    most = min(cpus, torch.get_num_threads())  # which honours OMP_NUM_THREADS
    if most == 1:
        return 1, _busy(cpus)
    seconds = _seconds_per_step(run, dataset, (1, most))
    threads = min(seconds, key=lambda number: seconds[number])
    measured = ", ".join(f"{1000 * value:.1f} ms with {number}" for number, value in seconds.items())
    return threads, [
        *_busy(cpus),
        f"training with {threads} of {cpus} threads: a step took {measured} (--threads sets it)",
    ]


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Set the number of torch's threads for the duration of the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _busy(cpus: int) -> list[str]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return [f"the machine is busy: load {load:.1f} on {cpus} CPUs; training takes longer"] if load > cpus else []


def _seconds_per_step(run: Run, dataset: Dataset, candidates: tuple[int, ...]) -> dict[int, float]:
    """Return the mean time of a step, including the preparation of its batch, by number of threads."""
    model, recipe, cpu = copy.deepcopy(run.model).cpu(), run.settings.recipe, torch.device("cpu")
    step = step_for(model, recipe, momentum_of(model, recipe, {}))
    images, labels = dataset.train_images[:IMAGES], dataset.train_labels[:IMAGES]
    feed = Feed(images, labels, torch.arange(len(images)), recipe, cpu, ALONE, normalization_of(model))
    sampler = torch.Generator().manual_seed(0)
    times: dict[int, list[float]] = {number: [] for number in candidates}
    for number in candidates * ROUNDS:
        with limited_threads(number):
            batches = chain.from_iterable(feed.epoch(sampler, 0) for _ in repeat(None))
            step(*next(batches), 0.0)  # starts the threads
            started = last = time.perf_counter()
            for done in range(1, 10_000):
                step(*next(batches), 0.0)
                last = time.perf_counter()
                if done >= LEAST_STEPS and last - started > ROUND_S:
                    break
            times[number].append((last - started) / done)
    return {number: min(values, default=math.inf) for number, values in times.items()}
