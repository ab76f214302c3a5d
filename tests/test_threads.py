"""Which thread count bench recommends."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from test_bench_table import lines
from test_cli import in_process
from test_compare import result, row

from mnist_edge.benchmarking import rounds
from mnist_edge.benchmarking.plan import Plan
from mnist_edge.benchmarking.threads import advise_threads, thread_counts
from mnist_edge.cpus import available_cpus
from mnist_edge.errors import UsageError


@pytest.mark.parametrize(
    ("cpus", "counts"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 4)), (12, (1, 2, 4, 8, 12))]
)
def test_auto_doubles_up_to_all_cpus(cpus: int, counts: tuple[int, ...]) -> None:
    """Powers of two, and all."""
    assert thread_counts(cpus) == counts


CALM = (100.0, 101.0, 99.5, 100.5, 100.2)


def test_a_clearly_faster_count_is_recommended_with_its_interval() -> None:
    """Of several, the fastest; slower and GPU rows and PyTorch's count for nothing."""
    rows = [
        row(CALM), row(CALM, 0.6, threads=2), row(CALM, 0.5, threads=4), row(CALM, 0.7, threads=8),
        row(CALM, 0.1, threads=8, engine="torch"), row(CALM, 0.1, threads=16, provider="cuda"),
    ]  # fmt: skip
    (found,) = advise_threads(rows)
    assert (found.variant, found.batch, found.threads) == ("fp32", 1, 4)
    assert found.ratio == pytest.approx(0.5)
    assert found.interval[0] <= 0.5 <= found.interval[1] < 0.6
    shown = " ".join(lines(dataclasses.replace(result(*rows), thread_advice=(found,))))
    assert shown.endswith(
        "fp32, batch 1: --threads 4 is recommended: 2.00x faster than 1 thread (99 % interval 2.00x to 2.00x)"
    )


def test_one_thread_is_recommended_where_nothing_is_clearly_faster() -> None:
    """A smaller median alone is no reason: the spread of the rounds decides."""
    noisy = (60.0, 140.0, 90.0, 120.0, 80.0)
    (found,) = advise_threads([row(CALM), row(noisy, threads=2)])
    assert (found.threads, found.ratio, found.interval) == (1, 1.0, (1.0, 1.0))
    shown = " ".join(lines(dataclasses.replace(result(row()), thread_advice=(found,))))
    assert shown.endswith("--threads 1 is recommended: no other count is clearly faster")


def test_equal_speeds_are_rarely_called_faster() -> None:
    """At most about one recommendation of more threads in a hundred, over three counts."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        rows = [row(tuple(random.lognormal(4, 0.05, 5)), threads=threads) for threads in (1, 2, 4, 8)]
        wrong += advise_threads(rows)[0].threads != 1
    assert wrong <= 6


def test_each_variant_and_batch_has_its_own_advice_and_one_count_none() -> None:
    """A large batch uses more threads than a single image."""
    rows = [row(CALM), row(CALM, 1.1, threads=2), row(CALM, 9, batch=64), row(CALM, 5, batch=64, threads=2)]
    assert [(one.batch, one.threads) for one in advise_threads(rows)] == [(1, 1), (64, 2)]
    assert advise_threads([row(CALM), row(CALM, 2, batch=64)]) == ()
    assert advise_threads([row(CALM, threads=2), row(CALM, threads=4)]) == ()


def test_auto_reaches_the_plan(bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is what this process may use."""
    plans: list[Plan] = []

    def stop(asked: Plan, _on_process: object) -> None:
        plans.append(asked)
        raise UsageError("enough")

    monkeypatch.setattr(rounds, "bench", stop)
    assert in_process("bench", bundle_folder, "--threads", "auto", cwd=tmp_path).code == 2
    assert plans[0].threads == thread_counts(available_cpus())
