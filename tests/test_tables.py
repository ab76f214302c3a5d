"""The tables of doctor, train and sweep fit a terminal of 80 columns."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from mnist_edge.extras import install_hint
from mnist_edge.records.sweep import SweepReport, SweepTrial
from mnist_edge.records.system import DoctorReport, Finding
from mnist_edge.records.training import TrainReport
from mnist_edge.reporting.tables.doctor import doctor_table
from mnist_edge.reporting.tables.sweep import sweep_table
from mnist_edge.reporting.tables.train import train_table


def printed(content: RenderableType) -> list[str]:
    """The lines on a terminal of 80 columns."""
    console = Console(width=80, file=io.StringIO(), highlight=False, markup=False)
    console.print(content, crop=False)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("widths", [(600, 400, 200, 100), (2500, 2000, 1500, 1000, 500)])
def test_a_trial_of_a_sweep_is_one_line(widths: tuple[int, ...]) -> None:
    """The longest values of a setting stay on its row."""
    trials = tuple(
        SweepTrial(
            rank=rank, lr=0.00123, batch_size=1024, widths=widths, holdout_accuracy=0.9912, accuracies=(0.9901, 0.9923),
            seconds=1234.5, failure="",
        )
        for rank in range(1, 21)
    )  # fmt: skip
    report = SweepReport(
        study=Path("s"), dataset="fashion-mnist", recipe="fast", epochs=10, holdout_images=3000, seeds=(0, 1),
        trials=trials, storage="study.db", command="mnist-edge train",
    )  # fmt: skip
    lines = printed(sweep_table(report))
    rows = [line for line in lines if line.split()[:1] and line.split()[0].isdigit() and "0.00123" in line]
    assert len(rows) == 20
    assert all("99.12%" in row and ",".join(map(str, widths)) in row and "1234.5" in row for row in rows)
    assert max(map(len, lines)) <= 80


def test_the_result_of_training_is_a_line_each() -> None:
    """Names and values stay on one line."""
    report = TrainReport(
        run=Path("runs/fashion-mnist"), checkpoint=Path("runs/fashion-mnist/last.safetensors"), dataset="fashion-mnist",
        recipe="fast", epochs=100, test_accuracy=0.9891, seconds=1234.56, seconds_per_epoch=12.3, device="cuda:0",
    )  # fmt: skip
    lines = [line for line in printed(train_table(report)) if line.strip()]
    assert len(lines) == 6
    assert max(map(len, lines)) <= 80


def test_a_fix_of_doctor_is_never_broken_into_lines() -> None:
    """What is copied from the terminal is one command; the table beside it fits."""
    fix = install_hint("train")
    findings = (
        Finding(subject="provider cuda", found="CUDAExecutionProvider", ok=True),
        Finding(subject="extra tensorboard", found="missing: tensorboard", ok=False, fix=fix),
    )
    lines = printed(doctor_table(DoctorReport(findings=findings)))
    assert f"  {fix}" in lines
    assert sum("provider cuda" in line and "CUDAExecutionProvider" in line for line in lines) == 1
    assert max(len(line) for line in lines if fix not in line) <= 80
