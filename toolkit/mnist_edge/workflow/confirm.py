"""Verify the choice of `tune` on images that took no part in it, and write it into the manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_edge.contract import MAX_DROP
from mnist_edge.errors import CheckFailedError, UnavailableError

if TYPE_CHECKING:
    from mnist_edge.records.bundle import Variant
    from mnist_edge.records.settings import SessionSettings
    from mnist_edge.records.tuning import TuneChoice
    from mnist_edge.records.verification import ParityReport
    from mnist_edge.tuning.search import Search
    from mnist_edge.workflow.tune import TuneRequest


def confirm(request: TuneRequest, search: Search) -> TuneChoice:
    """Verify the choice with its settings, and write both into the manifest.

    Where the test set is not available, the choice rests on what export recorded of it; the golden images, too few to
    show that accuracy is kept, are run and must not show that it is lost.

    Raises:
        CheckFailedError: it does not pass, or loses more accuracy than the limit; the manifest stays.
        UnavailableError: the bundle changed while it was timed.
    """
    from mnist_edge.bundle.choice import write_choice
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.records.tuning import TuneChoice
    from mnist_edge.tuning.ranking import ratio_to_fp32

    chosen = search.chosen
    assert chosen is not None
    variant = search.variants[chosen.variant]
    request.notify(f"verifying {variant.name} with {chosen.settings.described}")
    report = _verified(request, variant, chosen.settings)
    (found,) = report.variants
    if not found.passed:
        raise CheckFailedError(f"{variant.name} was chosen and does not pass: {found.reason}", hint="mnist-edge verify")
    measured = found.accuracy.variant if report.test_set and found.accuracy is not None else variant.accuracy
    _require_accuracy(search.question.bundle.manifest.accuracy, measured, variant.name, request)
    if load_bundle(request.bundle).variant(variant.name).sha256 != variant.sha256:
        raise UnavailableError(f"{request.bundle} changed while it was timed", hint="run mnist-edge tune again")
    write_choice(request.bundle, variant.name, {variant.name: chosen.settings})
    return TuneChoice(
        variant=variant.name,
        settings=chosen.settings,
        p50_us=search.p50_us(chosen),
        bytes=variant.bytes,
        accuracy=measured,
        selection_accuracy=variant.selection_accuracy,
        confirmed_images=found.images,
        test_set=report.test_set,
        ratio=ratio_to_fp32(search, chosen),
    )


def _verified(request: TuneRequest, variant: Variant, settings: SessionSettings) -> ParityReport:
    """Verify a variant on the test set, or, where that is not available, on the golden images as far as they go."""
    from mnist_edge.verification.verify import VerifyOptions
    from mnist_edge.workflow.verify import verify_folder

    proven = MAX_DROP if variant.max_accuracy_drop is None else variant.max_accuracy_drop

    def verify(max_drop: float) -> ParityReport:
        options = VerifyOptions(session=settings, max_drop=max_drop)
        place = (request.dataset, request.data_dir, request.notify)
        return verify_folder(request.bundle, None, options, *place, variants=[variant.name])[0]

    report = verify(max(request.limits.max_accuracy_drop, proven))
    if report.passed or report.test_set or variant.accuracy is None:
        return report
    return verify(1.0)  # the outputs of all timed runs were checked for a loss that the golden images do show


def _require_accuracy(reference: float, measured: float | None, name: str, request: TuneRequest) -> None:
    """Raise CheckFailedError where the accuracy on the test set is below that of fp32 by more than the limit."""
    allowed = request.limits.max_accuracy_drop
    lost = 0.0 if measured is None else reference - measured
    if lost > allowed + 1e-9:
        raise CheckFailedError(
            f"{name} was chosen on held-out images, and loses {100 * lost:.2f} points on the test set; "
            f"{100 * allowed:g} are allowed",
            hint=f"--max-accuracy-drop {100 * lost:.2f}, or leave it out with --variant",
        )
