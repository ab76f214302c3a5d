"""pruned: whole neurons leave and what stays is trained further; smaller matrices are faster in any runtime.

The widths are found by measurement, from the smallest on: the first network is taken that would pass on the test set if it
did there as well as on the images that training held out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.exporting.variants.kind import Built, VariantContext, VariantKind

if TYPE_CHECKING:
    from torch import nn

    from mnist_edge.records.data import SelectionSplit
    from mnist_edge.records.verification import PairedAccuracy
    from mnist_edge.training.pruning import Neurons
    from mnist_edge.training.recipes import Recipe

Widths = tuple[int, ...]

SHARES = (0.1, 0.15, 0.3)
"""Shares of each hidden layer's neurons that stay, in the order in which they are tried."""
MULTIPLE = 16
"""Widths are rounded up to it: onnxruntime's matrix products work on this many columns at a time."""
LEAST = 32
"""Neurons that stay in a layer, if it has this many. A narrower one saves less than a microsecond."""
RECIPE = "pruned"
SEED = 0
CRITERION = "first-order Taylor (Molchanov et al. 2019), neurons replaced by their mean"


@dataclass(frozen=True)
class Candidate:
    """A pruned and trained network, for pixels normalised as the seed's.

    Attributes:
        accuracy: on the selection split, beside its parent's.
        expected_drop: the 95 % upper bound of the loss of accuracy, a fraction of 1, that the test set would show if
            the network lost and won the same shares of images there.
    """

    model: nn.Sequential
    widths: Widths
    accuracy: PairedAccuracy
    expected_drop: float


def build(context: VariantContext) -> Built:
    """Prune the network to the smallest widths that keep its accuracy, and train each candidate further.

    Where no candidate is expected to pass, the most accurate one is returned: the comparison on the test set, which
    follows, decides.

    Raises:
        UsageError: the network has no hidden layer, or none that is wider than LEAST.
        BadFileError: too few training images of a class to measure the importance on, or none held out.
        CheckFailedError: training diverged, or the ONNX file does not predict as PyTorch does.
    """
    import numpy as np

    from mnist_edge.exporting.graph import Origin, export_graph, weights_sha256
    from mnist_edge.exporting.proof import require_equal_logits
    from mnist_edge.exporting.variants.calibration import SEED as DRAWN_WITH
    from mnist_edge.exporting.variants.calibration import calibration_set
    from mnist_edge.training.model import reference_logits, widths_of, with_normalization
    from mnist_edge.training.pruning import measure_neurons

    parent = widths_of(context.network)
    to_try = candidate_widths(parent)
    calibration = calibration_set(context.dataset, context.recipe)
    images = np.concatenate(list(calibration.batches()))
    network = with_normalization(context.network, context.normalization, "seed")
    chosen, tried = smallest_accurate(context, network, measure_neurons(network, images, calibration.labels), to_try)
    model = with_normalization(chosen.model, "seed", context.normalization)
    origin = Origin(
        dataset=context.dataset.name, weights_sha256=weights_sha256(model), normalization=context.normalization
    )
    file = export_graph(model, context.input, origin, context.opset)
    expected = reference_logits(model, images, normalization=context.normalization)
    require_equal_logits(KIND.name, file, images, expected)
    made = {
        "widths": list(chosen.widths),
        "parent_widths": list(parent),
        "parameters": _parameters(chosen.model),
        "parent_parameters": _parameters(context.network),
        "criterion": CRITERION,
        "importance_images": len(calibration.labels),
        "importance_seed": DRAWN_WITH,
        "recipe": dataclasses.asdict(_recipe(context)),
        "seed": SEED,
        "tried": tried,
    }
    return Built(model=file, spec=KIND.spec(context), made=made)


def candidate_widths(parent: Widths) -> tuple[Widths, ...]:
    """Return the widths to try, the smallest first.

    Args:
        parent: hidden widths of the network.

    Raises:
        UsageError: there is nothing to prune.
    """
    if not parent:
        raise UsageError(
            "pruned: the network has no hidden layer: there is nothing to prune", hint="leave the variant out"
        )
    found = dict.fromkeys(
        tuple(min(width, max(LEAST, MULTIPLE * math.ceil(share * width / MULTIPLE))) for width in parent)
        for share in SHARES
    )
    smaller = tuple(widths for widths in found if widths != parent)
    if not smaller:
        raise UsageError(
            f"pruned: hidden widths {','.join(map(str, parent))}: there is nothing to prune, as {LEAST} neurons of a "
            "layer stay",
            hint="leave the variant out",
        )
    return smaller


def smallest_accurate(
    context: VariantContext, network: nn.Sequential, neurons: Sequence[Neurons], to_try: Sequence[Widths]
) -> tuple[Candidate, list[dict[str, Any]]]:
    """Prune and train until a candidate is expected to lose no more accuracy than allowed.

    Args:
        context: with the dataset and the accuracy that may be lost.
        network: for pixels normalised as the seed's.
        neurons: of its hidden layers.
        to_try: widths, in this order.

    Returns:
        That candidate, or the most accurate one if there is none, and the accuracy of each that was tried, for the
        manifest.

    Raises:
        BadFileError: no training images are held out.
        StoppedError, CheckFailedError, UnavailableError: as `trained_run` raises them.
    """
    from mnist_edge.training.pruning import prune

    selection = context.selection
    if selection is None:
        raise BadFileError(
            f"{context.dataset.source}: too few training images to hold any out, which pruned chooses its widths by",
            hint="add images, or leave the variant out",
        )
    candidates = []
    for widths in to_try:
        candidate = _candidate(context, selection, prune(network, neurons, widths), network)
        candidates.append(candidate)
        accuracy, allowed = candidate.accuracy, context.max_accuracy_drop
        context.notify(
            f"pruned to {_text(widths)}: {accuracy.variant:.2%} on {accuracy.images:,} held-out images, "
            f"{accuracy.reference:.2%} before; the test set would show a loss of at most {candidate.expected_drop:.2%} "
            f"(95 % confidence; allowed {allowed:.2%})"
        )
        if candidate.expected_drop <= allowed:
            break
    else:
        candidate = max(candidates, key=lambda candidate: candidate.accuracy.variant)
    tried = [
        {
            "widths": list(other.widths),
            "selection_accuracy": other.accuracy.variant,
            "expected_drop_upper95": other.expected_drop,
        }
        for other in candidates
    ]
    return candidate, tried


def _candidate(
    context: VariantContext, selection: SelectionSplit, pruned: nn.Sequential, parent: nn.Sequential
) -> Candidate:
    """Train a pruned network, and compare it with its parent on the selection split."""
    from mnist_edge.exporting.graph import weights_sha256
    from mnist_edge.exporting.variants.trained import trained_run
    from mnist_edge.stats import paired_drop_upper95
    from mnist_edge.training.model import reference_logits, widths_of
    from mnist_edge.training.recipes import Settings
    from mnist_edge.verification.paired import paired_accuracy

    widths = widths_of(pruned)
    # The name distinguishes runs that start from other weights, so that none is continued by mistake.
    recipe = _recipe(context)
    recipe = dataclasses.replace(recipe, name=f"{recipe.name} from {weights_sha256(pruned)[:16]}")
    settings = Settings(
        dataset=context.dataset.name,
        fingerprint=context.dataset.fingerprint,
        widths=widths,
        seed=SEED,
        recipe=recipe,
    )
    name = f"{KIND.name}-{_text(widths)}"
    checkpoint = trained_run(context.runs / name, settings, context.dataset, name, context.notify, initial=pruned)
    model = checkpoint.model()
    accuracy = paired_accuracy(
        reference_logits(model, selection.images).argmax(axis=1),
        reference_logits(parent, selection.images),
        selection.labels,
        context.max_accuracy_drop,
    )
    assert accuracy is not None  # every image has a label
    tested = len(context.dataset.test_labels)
    lost, won = (
        round(count * tested / accuracy.images)
        for count in (accuracy.only_reference_right, accuracy.only_variant_right)
    )
    return Candidate(model, widths, accuracy, paired_drop_upper95(lost, won, tested))


def _recipe(context: VariantContext) -> Recipe:
    """Return the recipe of the training that follows; it holds out the images that the parent has not seen either."""
    from mnist_edge.training.recipes import settings_for

    dataset = context.dataset
    settings = settings_for(RECIPE, dataset=dataset.name, train_images=len(dataset.train_images))
    return dataclasses.replace(settings.recipe, holdout=context.recipe.holdout)


def _parameters(model: nn.Sequential) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _text(widths: Widths) -> str:
    return "-".join(map(str, widths))


KIND = VariantKind(
    name="pruned",
    precision="fp32",
    requirement="accuracy",
    advice="fewer neurons, trained further; fast in any runtime",
    build=build,
)
