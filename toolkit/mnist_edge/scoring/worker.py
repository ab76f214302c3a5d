"""Score one block. This runs in Ray's worker processes, each of which opens the model once."""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_edge.data.idx import read_label_rows
from mnist_edge.data.image_file import read_image
from mnist_edge.data.photo import prepare_photo
from mnist_edge.errors import BadFileError, MnistEdgeError, UnavailableError
from mnist_edge.pixels import ImageFile
from mnist_edge.records.scoring import ScorePlan
from mnist_edge.runtime.acceptance import judge_photo
from mnist_edge.runtime.classifier import Classifier, open_classifier
from mnist_edge.runtime.familiarity import Familiarity
from mnist_edge.runtime.probabilities import finite_logits, predictions
from mnist_edge.scoring.part import PhotoScore, Scores, part_bytes
from mnist_edge.scoring.plan import Block, ScoreInput

if TYPE_CHECKING:
    import ray


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """All that a worker needs but the input's files.

    Attributes:
        plan, source: what is scored, and with which settings.
        model: content of the variant's file; a worker on another machine has no bundle.
        known: what a digit in a photo should resemble; None where that is not checked.
    """

    plan: ScorePlan
    source: ScoreInput
    model: bytes
    known: Familiarity | None = None


def score_rows(rows: Any, job: ray.ObjectRef[ScoreJob]) -> Any:
    """Score the block that one row of a Ray dataset names.

    Args:
        rows: `number`, `start` and `stop` of one block, arrays by name.
        job: in Ray's object store.

    Returns:
        `number`; `part`, the file of its scores, empty where they could not be made; `error`, the pickled error then.
    """
    import ray

    block = Block(number=int(rows["number"][0]), start=int(rows["start"][0]), stop=int(rows["stop"][0]))
    part, error = b"", b""
    try:
        part = score_block(ray.get(job), block)
    except MnistEdgeError as caught:
        error = pickle.dumps(caught)
    return {"number": [block.number], "part": [part], "error": [error]}


def score_block(job: ScoreJob, block: Block) -> bytes:
    """Return the file of the scores of a block; see `scoring.part`.

    Raises:
        BadFileError: the IDX file became shorter, or the model has another number of classes.
        CheckFailedError: the model's outputs are NaN or infinite.
    """
    classifier = _classifier(job.model, job.plan)
    if job.source.kind == "photos":
        return part_bytes(job.plan, block, _score_photos(classifier, job, block))
    images = ImageFile(job.source.path, np.array([[block.start, block.stop]]))[:]
    labels = None if job.source.labels is None else read_label_rows(job.source.labels, block.start, block.stop)
    found, probabilities = predictions(classifier, images, len(job.plan.names), job.plan.temperature)
    return part_bytes(job.plan, block, Scores(labels=found, probabilities=probabilities, stated=labels))


def _score_photos(classifier: Classifier, job: ScoreJob, block: Block) -> tuple[PhotoScore, ...]:
    names = job.source.names[block.start : block.stop]
    return tuple(_score_photo(classifier, job, job.source.path / name) for name in names)


def _score_photo(classifier: Classifier, job: ScoreJob, path: Path) -> PhotoScore:
    try:
        prepared = prepare_photo(read_image(path))
    except (BadFileError, UnavailableError) as error:
        reason = error.message.replace(f"{path} ", "", 1)
        return PhotoScore(name=path.name, label=None, probability=None, accepted=False, reason=reason, readable=False)
    judgement = judge_photo(
        lambda images: finite_logits(classifier, images, len(job.plan.names)),
        prepared,
        job.plan.temperature,
        job.known,
    )
    shares, reason = judgement.probabilities, judgement.reason
    if shares is None:
        return PhotoScore(name=path.name, label=None, probability=None, accepted=False, reason=reason)
    label = int(shares.argmax())
    return PhotoScore(name=path.name, label=label, probability=float(shares[label]), accepted=not reason, reason=reason)


@functools.lru_cache(maxsize=1)
def _classifier(model: bytes, plan: ScorePlan) -> Classifier:
    return open_classifier(model, plan.settings, plan.variant, trial=False)
