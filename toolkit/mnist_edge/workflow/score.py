"""Score any number of images on Ray, and write them into one Parquet file."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge import __version__
from mnist_edge.errors import BadFileError, UnavailableError, UsageError
from mnist_edge.extras import install_hint

if TYPE_CHECKING:
    from mnist_edge.bundle.folder import Bundle
    from mnist_edge.records.bundle import Variant
    from mnist_edge.records.scoring import ScorePlan, ScoreReport
    from mnist_edge.scoring.plan import ScoreInput

Notify = Callable[[str], None]
Progress = Callable[[int, int], None]
SUFFIX = ".parquet"


def score_images(
    source: Path,
    model: Path,
    output: Path,
    *,
    variant: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    notify: Notify = lambda _line: None,
    progress: Progress = lambda _done, _total: None,
) -> ScoreReport:
    """Score the images of an IDX file or of a folder, one row each, in their order.

    Finished blocks are kept in `<output>.parts` until all are: the same call continues a run that was ended, repeats no
    finished block, and writes the bytes that an uninterrupted one would have written.

    Args:
        source: an IDX file of images, a folder with one (and its labels), or a folder of image files.
        model: the bundle.
        output: the file; it is replaced atomically.
        variant: a model of the bundle, by name; None takes the one that `tune` chose, or else its first.
        workers: processes at a time; None takes every CPU of this machine, or of the cluster.
        address: HOST:PORT of a Ray cluster, whose machines read `source` at the same path; None starts Ray here.
        notify: takes one plain line about what happens.
        progress: takes the number of finished images, and of all.

    Raises:
        UsageError: no such variant; `<output>.parts` is of another run.
        BadFileError: the input or the bundle is damaged.
        UnavailableError: Ray is not installed, or no cluster answers; the output cannot be written.
    """
    _require_ray()
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.files import sha256_bytes
    from mnist_edge.records.scoring import ScoreReport
    from mnist_edge.runtime.classifier import open_classifier
    from mnist_edge.scoring.output import open_parts
    from mnist_edge.scoring.plan import blocks_of, open_input
    from mnist_edge.scoring.run import connected, require_answer
    from mnist_edge.scoring.worker import ScoreJob
    from mnist_edge.workflow.predict import known_digits, require_photo_classes

    if output.suffix != SUFFIX:
        raise UsageError(f"--output {output}: expected a name that ends in {SUFFIX}", hint="--output scores.parquet")
    if address is not None:
        require_answer(address)
    bundle = load_bundle(model)
    chosen = bundle.chosen(variant)
    found = open_input(source)
    if found.kind == "photos":
        require_photo_classes(bundle)
    plan = plan_of(bundle, chosen, found)
    open_classifier(bundle.file(chosen), plan.settings)  # here, where an error is one line
    blocks = blocks_of(plan.images, plan.block)
    content = bundle.file(chosen).read_bytes()
    if sha256_bytes(content) != chosen.sha256:
        raise BadFileError(f"{model} was changed meanwhile", hint="run it again")
    known = known_digits(bundle) if found.kind == "photos" else None
    job = ScoreJob(plan=plan, source=found, model=content, known=known)
    with open_parts(output, plan) as parts:
        finished = parts.finished(blocks)
        left = tuple(block for block in blocks if block.number not in finished)
        resumed = sum(block.stop - block.start for block in blocks if block.number in finished)
        if resumed:
            notify(f"continuing: {resumed:,} of {plan.images:,} images are scored")
        done, count, seconds = resumed, workers or 0, 0.0
        sizes = {block.number: block.stop - block.start for block in left}

        def keep(number: int, content: bytes) -> None:
            nonlocal done
            parts.keep(number, content)
            done += sizes[number]
            progress(done, plan.images)

        if left:
            with connected(address, workers) as ray:
                count = ray.workers
                started = time.perf_counter()
                ray.run(job, left, keep)
                seconds = time.perf_counter() - started
        totals = parts.join(blocks, output)
    return ScoreReport(
        output=output,
        model=model,
        plan=plan,
        unreadable=totals.unreadable,
        refused=totals.refused,
        accuracy=totals.correct / totals.rows if plan.labelled else None,
        resumed=resumed,
        workers=count,
        address=address,
        seconds=seconds,
        images_per_second=(plan.images - resumed) / seconds if seconds else None,
    )


def plan_of(bundle: Bundle, variant: Variant, source: ScoreInput) -> ScorePlan:
    """Return what the scores of an input by a variant are of."""
    from mnist_edge.bundle.manifest import MANIFEST
    from mnist_edge.files import sha256_file
    from mnist_edge.records.scoring import ScorePlan
    from mnist_edge.scoring.plan import BLOCK

    return ScorePlan(
        kind=source.kind,
        images=source.images,
        block=BLOCK[source.kind],
        fingerprint=source.fingerprint,
        labelled=source.labels is not None,
        bundle=sha256_file(bundle.folder / MANIFEST),
        variant=variant.name,
        settings=variant.settings.with_named({"provider": "cpu", "threads": 1}),
        temperature=variant.temperature,
        names=bundle.manifest.labels,
        version=__version__,
    )


def _require_ray() -> None:
    """Raise UnavailableError, with the command that fixes it, where the extra `score` is missing."""
    for package in ("ray", "pyarrow"):
        if find_spec(package) is None:
            raise UnavailableError(f"score needs {package}, which is not installed", hint=install_hint("score"))
