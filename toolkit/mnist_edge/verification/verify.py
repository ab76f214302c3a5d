"""Verify a whole bundle: every variant, on the golden inputs and on the test set where it is at hand."""

from __future__ import annotations

import numpy as np

from mnist_edge.bundle import Bundle, sha256_of_test_set
from mnist_edge.contract import ProviderName
from mnist_edge.pixels import Logits
from mnist_edge.records import Dataset, ParityReport, VariantParity
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.stats import upper_bound95
from mnist_edge.verification.parity import Reference, check_parity


def golden_reference(bundle: Bundle, logits: Logits | None = None) -> Reference:
    """The golden inputs with the answers that they carry, or with `logits` (M, 10) of a live PyTorch."""
    golden = bundle.golden
    return Reference(images=golden.images, labels=golden.labels, logits=golden.logits if logits is None else logits)


def reference_on_test_set(bundle: Bundle, dataset: Dataset, logits: Logits | None = None) -> Reference | None:
    """The test set with the answers that the bundle carries for it; None where they are for other images."""
    same = np.array_equal(sha256_of_test_set(dataset.test_images, dataset.test_labels), bundle.golden.test_sha256)
    if logits is None and not same:
        return None
    return Reference(
        images=dataset.test_images,
        labels=dataset.test_labels,
        logits=bundle.golden.test_logits if logits is None else logits,
    )


def verify_bundle(
    bundle: Bundle,
    provider: ProviderName,
    golden: Reference,
    test_set: Reference | None,
    reference: str,
    threads: int = 1,
) -> ParityReport:
    """Check every variant of a bundle.

    Args:
        bundle: already checked byte by byte.
        provider: the only one used.
        golden, test_set: inputs with PyTorch's answers.
        reference: where those answers come from, for the report.
        threads: of onnxruntime.

    Raises:
        SurroundingsError: the provider cannot be had.
    """
    variants = []
    for variant in bundle.manifest.variants:
        try:
            classifier = open_classifier(bundle.file(variant), provider, threads)
        except RefusedModelError as error:
            variants.append(refused(variant.name, error.message, test_set or golden))
            continue
        variants.append(check_parity(variant.name, classifier, golden, test_set))
    return ParityReport(
        passed=bool(variants) and all(variant.passed for variant in variants),
        bundle=str(bundle.folder),
        dataset=bundle.manifest.dataset,
        provider=provider,
        reference=reference,
        test_set=test_set is not None,
        variants=tuple(variants),
    )


def refused(name: str, reason: str, counted: Reference) -> VariantParity:
    """A model that cannot even be built decides nothing as PyTorch does."""
    count = len(counted.images)
    return VariantParity(
        name=name,
        images=count,
        flips=count,
        flip_rate_upper95=upper_bound95(count, count),
        max_abs_error=None,
        max_relative_error=None,
        accuracy=None,
        ties=(),
        batches=(),
        passed=False,
        reason=reason,
    )
