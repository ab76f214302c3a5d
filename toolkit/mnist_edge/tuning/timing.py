"""Time candidates in fresh processes, and keep the result of every process in the journal."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from mnist_edge.benchmarking.comparable import ENVIRONMENT_FIELDS, GPU_FIELDS
from mnist_edge.benchmarking.plan import requirement_of
from mnist_edge.benchmarking.process import ProcessResult, Task, run_process
from mnist_edge.benchmarking.rounds import ENGINES
from mnist_edge.bundle.folder import Bundle
from mnist_edge.bundle.golden import GOLDEN
from mnist_edge.contract import Objective
from mnist_edge.errors import BadFileError, CheckFailedError
from mnist_edge.records.benchmark import Scenario
from mnist_edge.stats import percentile
from mnist_edge.tuning.candidates import Entry
from mnist_edge.tuning.journal import HINT, Journal

SCENARIO = Scenario(seconds=0.2)
"""A process takes half a second to start: shorter timings save little, longer ones make no process more like another."""
SEED = 11


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One timing process.

    Attributes:
        p50_us, mean_us: of a run.
        session_us, first_run_us: loading of the model, and its first run. All times are 0 where it was not timed.
        seconds: that the whole process took.
        problem: why it was not timed, or why its outputs are wrong; empty where they are right.
    """

    p50_us: float = 0.0
    mean_us: float = 0.0
    session_us: float = 0.0
    first_run_us: float = 0.0
    seconds: float
    problem: str = ""

    @property
    def plausible(self) -> bool:
        """Whether a process can have measured this: positive times, or a problem and none."""
        times = (self.p50_us, self.mean_us, self.session_us, self.first_run_us)
        return bool(self.problem) or all(0 < value < math.inf for value in times)

    @property
    def start_us(self) -> float:
        """Loading and first run."""
        return self.session_us + self.first_run_us

    def time(self, objective: Objective) -> float:
        """Return what a race for an objective compares, in microseconds; smaller is better."""
        return {"throughput": self.mean_us, "cold-start": self.start_us}.get(objective, self.p50_us)


class Stopwatch:
    """Times candidates of one bundle.

    Attributes:
        timed: figures of each candidate by stage, in the order of its rounds.
        processes: started by this call.
        reused: processes of earlier calls.
        seconds: that all processes took, those of earlier calls included.
    """

    def __init__(
        self,
        bundle: Bundle,
        journal: Journal,
        objective: Objective,
        batch: int,
        environment: dict[str, Any],
    ) -> None:
        self._bundle = bundle
        self._journal = journal
        self._objective: Objective = objective
        self._batch = batch
        self._environment = lasting(environment)
        self.timed: dict[Entry, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))
        self.problems: dict[Entry, str] = {}
        self.processes = 0
        self.reused = 0
        self.seconds = 0.0

    def measure(self, stage: str, entry: Entry, turn: int) -> float | None:
        """Return the time of a candidate in a round, from the journal or from a fresh process; None with a problem.

        Raises:
            MnistEdgeError: what no other candidate would be spared: no memory, no process, no provider.
        """
        variant = self._bundle.variant(entry.variant)
        task = Task(
            model=str(self._bundle.file(variant)),
            batch=self._batch,
            golden=str(self._bundle.folder / GOLDEN),
            requirement=requirement_of(variant),
            scenario=SCENARIO,
            settings=entry.settings,
            seed=SEED + turn,
        )
        needs = {
            "stage": stage,
            "turn": turn,
            "objective": self._objective,
            "model": variant.sha256,
            "golden": self._bundle.manifest.golden_sha256,
            "environment": self._environment,
            **{name: dataclasses.asdict(getattr(task, name)) for name in ("requirement", "scenario", "settings")},
            "batch": task.batch,
        }
        figures = self._journal.get(Figures, needs)
        if figures is None:
            figures = _run(task)
            self.processes += 1
            self._journal.add(needs, dataclasses.asdict(figures))
        elif figures.plausible:
            self.reused += 1
        else:
            raise BadFileError(f"the journal of {self._bundle.folder} holds an impossible time", hint=HINT)
        self.seconds += figures.seconds
        if figures.problem:
            self.problems[entry] = figures.problem
            return None
        self.timed[entry][stage].append(figures)
        return figures.time(self._objective)

    def all_figures(self, entry: Entry) -> list[Figures]:
        """Return the figures of a candidate from all stages."""
        return [figures for stage in self.timed[entry].values() for figures in stage] if entry in self.timed else []


def lasting(environment: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an environment that a timing depends on and that is the same a minute later."""
    gpu = environment.get("gpu") or {}
    return {
        **{name: environment.get(name) for name in (*ENVIRONMENT_FIELDS, "available_cpus", "versions")},
        "gpu": {name: gpu.get(name) for name in GPU_FIELDS},
    }


def _run(task: Task) -> Figures:
    started = time.monotonic()
    try:
        result = run_process(ENGINES["onnxruntime"], task)
    except (BadFileError, CheckFailedError) as error:  # of this model alone
        return Figures(seconds=time.monotonic() - started, problem=error.message)
    return _figures(result, time.monotonic() - started)


def _figures(result: ProcessResult, seconds: float) -> Figures:
    return Figures(
        p50_us=(percentile(result.run_ns, 0.5) or 0.0) / 1000,
        mean_us=result.elapsed_ns / len(result.run_ns) / 1000,
        session_us=result.session_ns / 1000,
        first_run_us=result.first_run_ns / 1000,
        seconds=seconds,
        problem=result.check.problem if result.check is not None else "",
    )
