"""What `train` prints."""

from __future__ import annotations

from rich.console import RenderableType

from mnist_edge.records.training import EpochRecord, TrainReport
from mnist_edge.reporting.tables.format import facts_table, percent


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """Return one line per epoch, for standard error during training."""
    held = "" if record.holdout_accuracy is None else f"  held-out accuracy {percent(record.holdout_accuracy)}"
    return f"epoch {record.epoch:>3} of {epochs}  loss {record.loss:.4f}{held}  {record.seconds:.1f} s"


def training_detail(record: EpochRecord, epochs: int) -> str:
    """Return the text beside the progress bar: the current epoch, and loss and accuracy of the previous one."""
    held = "" if record.holdout_accuracy is None else f", held-out accuracy {percent(record.holdout_accuracy)}"
    return f"epoch {min(record.epoch + 1, epochs)} of {epochs}, loss {record.loss:.4f}{held}"


def train_table(report: TrainReport) -> RenderableType:
    """Return the result of training."""
    return facts_table(
        "train",
        {
            "dataset": report.dataset,
            "recipe": f"{report.recipe}, {report.epochs} epochs on {report.device}",
            "test accuracy": percent(report.test_accuracy),
            "time": f"{report.seconds:.1f} s ({report.seconds_per_epoch:.2f} s an epoch)",
            "checkpoint": str(report.checkpoint),
        },
    )
