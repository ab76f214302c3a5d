"""A run's losses and accuracies as TensorBoard events, taken from its CSV files, so that the two never disagree."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.errors import MnistEdgeError
from mnist_edge.files import ensure_folder, explaining_os_errors

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS = "tensorboard"
SERIES = {
    "loss.csv": ("step", {"loss": "loss"}),
    "history.csv": (
        "epoch",
        {
            "loss": "epoch/loss",
            "holdout_accuracy": "epoch/holdout_accuracy",
            "learning_rate": "epoch/learning_rate",
            "seconds": "epoch/seconds",
        },
    ),
}
"""By file: the column with the step or epoch, and the TensorBoard tag of each column that is shown."""


class Events:
    """The folder `tensorboard/` of a run, started afresh with the first values.

    A resumed run writes its earlier values again: no point is missing or duplicated, wherever it was interrupted.
    """

    def __init__(self, run: Path, notify: Callable[[str], object]) -> None:
        """Write nothing yet: the run folder may still be refused, or be in use by another process.

        Raises:
            ModuleNotFoundError: tensorboard is not installed.
        """
        import torch.utils.tensorboard  # noqa: F401 - fails here, before the long work

        self._folder = run / EVENTS
        self._notify = notify
        self._writer: SummaryWriter | None = None
        self._written = dict.fromkeys(SERIES, 0)
        self._failed = False

    def refresh(self) -> None:
        """Add the values that the CSV files have and the events lack; a failure is reported once, and training goes on."""
        if self._failed:
            return
        try:
            with explaining_os_errors(self._folder):
                self._append(self._writer or self._begin())
        except MnistEdgeError as error:
            self._failed = True
            self._notify(f"writing TensorBoard events failed, training continues without them: {error.message}")

    def close(self) -> None:
        """Close the file and end the thread that writes it."""
        if self._writer is not None and not self._failed:
            self._writer.close()

    def _begin(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        ensure_folder(self._folder)
        # TensorBoard discards earlier events from step 0 on. Their files stay: a running TensorBoard reads them.
        self._writer = SummaryWriter(str(self._folder), purge_step=0)
        return self._writer

    def _append(self, writer: SummaryWriter) -> None:
        for name, (counter, tags) in SERIES.items():
            with (self._folder.parent / name).open(newline="") as file:
                rows = list(csv.DictReader(file))
            for row in rows[self._written[name] :]:
                for column, tag in tags.items():
                    if row[column]:
                        writer.add_scalar(tag, float(row[column]), int(row[counter]))
            self._written[name] = len(rows)
        writer.flush()
