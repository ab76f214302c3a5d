"""What `sweep` prints."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.sweep import SweepReport, SweepTrial
from mnist_edge.reporting.tables.format import percent


def trial_line(trial: SweepTrial, done: int, trials: int) -> str:
    """Return one line per trial, for standard error during a sweep."""
    widths = ",".join(map(str, trial.widths))
    found = trial.failure or f"held-out accuracy {percent(trial.holdout_accuracy)}"
    return (
        f"trial {done:>3} of {trials}  lr {trial.lr:g}  batch {trial.batch_size}  widths {widths}  "
        f"{found}  {trial.seconds:.1f} s"
    )


def sweep_table(report: SweepReport) -> RenderableType:
    """Return a row per setting, best first, and the command that trains the best."""
    table = Table(
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        title=f"{report.dataset}, recipe {report.recipe}, {report.epochs} epochs each",
    )
    for heading in ("#", "lr", "batch", "widths", "held-out", "over seeds", "seconds"):
        is_widths = heading == "widths"  # the one column of any length
        table.add_column(heading, justify="left" if is_widths else "right", no_wrap=not is_widths, overflow="fold")
    for trial in report.trials:
        table.add_row(
            str(trial.rank),
            f"{trial.lr:g}",
            str(trial.batch_size),
            ",".join(map(str, trial.widths)),
            "FAILED" if trial.failure else percent(trial.holdout_accuracy),
            f"{100 * min(trial.accuracies):.2f}..{percent(max(trial.accuracies))}" if trial.accuracies else "-",
            f"{trial.seconds:.1f}",
        )
    split = f"accuracy on {report.holdout_images:,} images held out of the training set"
    lines = [f"#{trial.rank} failed: {trial.failure}" for trial in report.trials if trial.failure]
    lines += [f"{split}, mean over seeds {', '.join(map(str, report.seeds))}; no test image was used"]
    if report.command:
        lines.append(f"the best: {report.command}")
    return Group(table, *lines)
