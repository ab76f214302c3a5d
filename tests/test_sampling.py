"""Timing one callable: what is counted, what is not, and what the timed runs answered."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_edge.benchmarking import process
from mnist_edge.benchmarking.outputs import DISTINCT_INPUTS, row_groups
from mnist_edge.benchmarking.process import ProcessResult, Task, serve
from mnist_edge.benchmarking.sampling import WARMUP_LIMIT_NS, peak_rss_bytes, sample
from mnist_edge.benchmarking.scenarios import MIN_SAMPLES, RealClock
from mnist_edge.errors import UsageError
from mnist_edge.records.benchmark import Scenario

MS = 1_000_000


class Clock:
    """A clock that only a run or a wait moves on; a run by what `cost` says of the n-th."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cost: Callable[[int], int]) -> None:
        self.now, self.runs, self.cost, self.feeds = 1, 0, cost, []
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now)
        monkeypatch.setattr(RealClock, "wait_until", lambda _, when: setattr(self, "now", max(self.now, when)))

    def run(self, feed: str) -> str:
        self.now += self.cost(self.runs)
        self.runs += 1
        self.feeds.append(feed)
        return feed.upper()


def test_first_run_warm_up_and_counted_runs_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow first run and the slow runs of the warm-up are in no counted figure."""
    clock = Clock(monkeypatch, lambda run: 50 * MS if run == 0 else 3 * MS if run < 10 else MS)
    found = sample(clock.run, ["a", "b"], Scenario(seconds=0.1), 1, 0)
    assert found.first_run_ns == 50 * MS
    assert found.timed.run_ns == [MS] * 100
    assert found.warmup_runs == clock.runs - 101
    assert found.warmup_runs > 40  # the slow window, and two alike


def test_at_least_thirty_runs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow a model is, and however short the time given."""
    clock = Clock(monkeypatch, lambda _: 900 * MS)
    assert sample(clock.run, ["a"], Scenario(seconds=0), 1, 0).timed.run_ns == [900 * MS] * MIN_SAMPLES


def test_a_warm_up_that_never_settles_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that grows slower and slower is timed all the same."""
    clock = Clock(monkeypatch, lambda run: int(MS * 1.02**run))
    found = sample(clock.run, ["a"], Scenario(seconds=0), 1, 0)
    warm_up = sum(clock.cost(run) for run in range(1, 1 + found.warmup_runs))
    assert WARMUP_LIMIT_NS <= warm_up < 2 * WARMUP_LIMIT_NS


def test_feeds_take_turns_and_each_keeps_its_own_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs can be judged against the input that they belong to."""
    clock = Clock(monkeypatch, lambda _: MS)
    found = sample(clock.run, ["a", "b", "c"], Scenario(seconds=0.03), 1, 0)
    assert found.timed.outputs == {0: "A", 1: "B", 2: "C"}
    assert clock.feeds[-30:] == ["a", "b", "c"] * 10


def test_no_garbage_is_collected_in_counted_runs_and_all_is_again_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector is off while it counts, and on afterwards, also after an error."""
    assert gc.isenabled()
    clock = Clock(monkeypatch, lambda _: MS)
    states: list[bool] = []
    sample(lambda feed: (clock.run(feed), states.append(gc.isenabled())), ["a"], Scenario(seconds=0), 1, 0)
    assert states[-MIN_SAMPLES:] == [False] * MIN_SAMPLES
    assert all(states[:-MIN_SAMPLES])
    assert gc.isenabled()

    def fail(feed: str) -> None:
        clock.run(feed)
        if not gc.isenabled():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sample(fail, ["a"], Scenario(seconds=0), 1, 0)
    assert gc.isenabled()


def test_a_rate_out_of_reach_is_refused_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model can serve is known from the warm-up, so no queue without end is ever begun."""
    clock = Clock(monkeypatch, lambda run: 50 * MS if run == 0 else 2 * MS)
    refused = Scenario(name="server", seconds=1e6, rate_per_s=2501)
    with pytest.raises(UsageError, match="2501"):
        sample(clock.run, ["a"], refused, 1, 0)
    assert gc.isenabled()
    assert clock.runs < 100
    served = sample(clock.run, ["a"], Scenario(name="server", seconds=0.1, rate_per_s=2500), 1, 0)
    assert len(served.timed.run_ns) == 250


def test_the_seed_decides_when_requests_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates of one round are sent the same requests; the next round others."""

    def latencies(seed: int) -> list[int]:
        clock = Clock(monkeypatch, lambda _: 2 * MS)
        return sample(clock.run, ["a"], Scenario(name="server", seconds=1, rate_per_s=400), 1, seed).timed.run_ns

    assert latencies(1) == latencies(1) != latencies(2)


@given(count=st.integers(1, 2000), batch=st.integers(1, 3000))
def test_row_groups_cover_golden_rows_in_whole_batches(count: int, batch: int) -> None:
    """Every input is one full batch of golden rows; none twice while there are enough."""
    groups = row_groups(count, batch)
    rows = np.concatenate(groups)
    assert all(group.shape == (batch,) for group in groups)
    assert set(rows.tolist()) == set(range(min(count, len(rows))))
    assert len(groups) == max(1, min(DISTINCT_INPUTS, count // batch))
    if batch <= count:
        assert len(set(rows.tolist())) == len(rows)


@pytest.mark.slow
def test_peak_memory_is_that_of_this_process() -> None:
    """Touching 64 MB more than ever before raises the peak by about as much."""
    before = peak_rss_bytes()
    block = np.ones(before // 8 + 8_000_000)
    assert peak_rss_bytes() >= block.nbytes
    assert peak_rss_bytes() > before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9.1 TiB for an array"),
        RuntimeError(
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 9"
        ),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: out of memory"),
    ],
    ids=str,
)
def test_a_batch_that_needs_too_much_memory_is_reported_as_such(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU and on a GPU: exit 4 names the batch. So does a failure of CUDA; any other error stays a crash."""
    task = {
        "model": "m",
        "batch": 512,
        "golden": None,
        "scenario": {"seconds": 1},
        "settings": {},
        "parent": os.getppid(),
    }
    out = io.StringIO()
    monkeypatch.setattr(process, "end_with_parent", lambda _parent: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(task)))
    monkeypatch.setattr(sys, "stdout", out)

    def fail(_task: Task) -> ProcessResult:
        raise error

    with pytest.raises(SystemExit) as ended:
        serve(fail)
    assert ended.value.code == 4
    assert json.loads(out.getvalue()) == {
        "error": ["UnavailableError", "batch 512 needs more memory than there is", "try a smaller --batch"]
    }
    error.args = ("CUDA failure 700: an illegal memory access was encountered",)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(task)))
    with pytest.raises(SystemExit):
        serve(fail)
    assert ("m failed on the GPU: CUDA failure 700" in out.getvalue()) != isinstance(error, MemoryError)
    error.args = ("a kernel failed",)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(task)))
    if not isinstance(error, MemoryError):
        with pytest.raises(RuntimeError, match="a kernel failed"):
            serve(fail)
