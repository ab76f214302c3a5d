"""What `score` scores, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mnist_edge.records.report import Report
from mnist_edge.records.settings import SessionSettings

SetKind = Literal["idx", "photos"]
"""Images of an IDX file, or files of a folder."""


@dataclass(frozen=True, kw_only=True)
class ScorePlan(Report):
    """What the scores are of. A run that was ended is continued only by one with an equal plan.

    Attributes:
        kind: of the input.
        images: number of rows.
        block: images that are scored, kept and resumed together.
        fingerprint: sha256 that distinguishes two inputs; see `scoring.plan`.
        labelled: whether the input states the right labels.
        bundle: sha256 of the manifest.
        variant: name in the bundle.
        settings: of its sessions.
        temperature: that logits are divided by before they become probabilities; None counts as 1.
        names: of the classes, in their order.
        version: of mnist-edge.
    """

    schema: ClassVar[str] = "mnist-edge/score-plan/1"
    kind: SetKind
    images: int
    block: int
    fingerprint: str
    labelled: bool
    bundle: str
    variant: str
    settings: SessionSettings
    temperature: float | None
    names: tuple[str, ...]
    version: str


@dataclass(frozen=True, kw_only=True)
class ScoreReport(Report):
    """What `score` wrote.

    Attributes:
        output: the file.
        model: the bundle.
        plan: what the scores are of.
        unreadable: files that are no image; their row states why, and has no label.
        refused: images with a label that is not to be trusted, or without a digit; their row states why.
        accuracy: share of the images whose label is the stated one, a fraction of 1; None where none is stated.
        resumed: images that an earlier run had scored.
        workers: processes at a time.
        address: of the cluster; None for one that was started here.
        seconds: from the first block to the last one of this run, without the start of Ray.
        images_per_second: scored in this run, in that time; None where there were none.
    """

    schema: ClassVar[str] = "mnist-edge/score/1"
    output: Path
    model: Path
    plan: ScorePlan
    unreadable: int
    refused: int
    accuracy: float | None
    resumed: int
    workers: int
    address: str | None
    seconds: float
    images_per_second: float | None
