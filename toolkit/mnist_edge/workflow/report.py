"""Gather what a report shows: the bundle, the results beside it, and the test images that are predicted worst."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.workflow.test_set import find_test_set, refuse_other_dataset

if TYPE_CHECKING:
    from mnist_edge.bundle.evidence import ReportContent
    from mnist_edge.bundle.folder import Bundle
    from mnist_edge.pixels import Images
    from mnist_edge.records.evidence import Evidence


def gather_report(
    folder: Path,
    *,
    dataset: str | None = None,
    data_dir: Path | None = None,
    notify: Callable[[str], None] = lambda _line: None,
) -> ReportContent:
    """Read a bundle and its results; nothing is measured.

    Args:
        folder: the bundle.
        dataset: the folder that a bundle of a user's own digits was made with.
        data_dir: folder in which datasets are looked for first.
        notify: takes one plain line about what is left out.

    Raises:
        UnavailableError: there is no bundle, or a result cannot be read.
        BadFileError: the bundle or a result is damaged.
        UsageError: `dataset` is of another bundle.
    """
    from mnist_edge.bundle.evidence import ReportContent, collect, missing
    from mnist_edge.bundle.folder import load_bundle

    bundle = load_bundle(folder)
    evidence = collect(bundle)
    return ReportContent(
        bundle=bundle,
        evidence=evidence,
        absent=tuple(missing(bundle, evidence)),
        images=_mistakes(bundle, evidence, dataset, data_dir, notify),
    )


def _mistakes(
    bundle: Bundle, evidence: Evidence, dataset: str | None, data_dir: Path | None, notify: Callable[[str], None]
) -> Mapping[int, Images] | None:
    """Return the images of all mistakes, by number; None where the test set of the bundle is not available."""
    from mnist_edge.bundle.golden import sha256_of_test_set

    refuse_other_dataset(bundle, dataset)
    numbers = {one.image for found in evidence.evaluated.values() for one in found.report.mistakes}
    if not numbers:
        return {}
    otherwise = "the worst mistakes are listed without images"
    data = find_test_set(bundle, dataset, data_dir, notify, otherwise)
    if data is None:
        return None
    if sha256_of_test_set(data.test_images, data.test_labels).tobytes() != bundle.golden.test_sha256.tobytes():
        notify(f"{otherwise}: the test set of {bundle.manifest.dataset} here is not the bundle's")
        return None
    return {number: data.test_images[number] for number in sorted(numbers) if 0 <= number < len(data.test_images)}
