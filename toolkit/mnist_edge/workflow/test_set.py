"""The test set that a bundle was made with, where this machine has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from mnist_edge.bundle.folder import Bundle
    from mnist_edge.records.data import EvaluationSet


def refuse_other_dataset(bundle: Bundle, dataset: str | None) -> None:
    """Raise UsageError for a `--dataset` beside a bundle that names its own."""
    if dataset is not None and bundle.manifest.dataset != "folder":
        raise UsageError(f"--dataset cannot change: the bundle is of {bundle.manifest.dataset}", hint="leave it out")


def find_test_set(
    bundle: Bundle, dataset: str | None, data_dir: Path | None, notify: Callable[[str], None], otherwise: str
) -> EvaluationSet | None:
    """Return the test set of a bundle's dataset; None where it is not available. Nothing is downloaded.

    Args:
        bundle: whose images it need not hold: compare their SHA-256.
        dataset: the folder that a bundle of a user's own digits was made with.
        data_dir: folder in which datasets are looked for first.
        notify: called with one plain line where it is not available.
        otherwise: what is done then.

    Raises:
        UnavailableError: it is not where the user says.
    """
    from mnist_edge.data.sources import load_test_set

    try:
        return load_test_set(dataset or bundle.manifest.dataset, data_dir, may_download=False)
    except UnavailableError as error:
        if data_dir is not None or dataset is not None:
            raise
        notify(f"{otherwise}: {error.message}")
        return None
