"""The result of `run`: one report per stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mnist_edge.records.benchmark import BenchReport
from mnist_edge.records.bundle import ExportReport
from mnist_edge.records.evaluation import EvalReport
from mnist_edge.records.report import Report
from mnist_edge.records.training import TrainReport
from mnist_edge.records.verification import ParityReport


@dataclass(frozen=True, kw_only=True)
class RunReport(Report):
    """The reports of all stages."""

    schema: ClassVar[str] = "mnist-edge/run/2"
    train: TrainReport
    export: ExportReport
    eval: EvalReport
    verify: ParityReport
    bench: BenchReport
