"""Keep the variants of the previous bundle that a new export can still vouch for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mnist_edge.bundle.folder import Bundle, is_bundle, load_bundle
from mnist_edge.bundle.manifest import Manifest
from mnist_edge.bundle.publish import write_files
from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError
from mnist_edge.exporting.proof import verify_staged
from mnist_edge.records.bundle import Variant
from mnist_edge.records.data import Dataset
from mnist_edge.records.verification import ParityReport


def keep_variants(output: Path, bundle: Bundle, dataset: Dataset) -> tuple[Bundle, list[ParityReport], dict[str, str]]:
    """Add to a staged bundle the variants in `output`, other than those that it holds, that still meet their requirement.

    Settings that `tune` chose are kept with each file that has not changed, and so is its choice.

    Returns:
        The bundle with the variants that were kept, their reports, and why each other one was dropped, by name.
    """
    if not is_bundle(output):
        return bundle, [], {}
    try:
        before = load_bundle(output)
    except (BadFileError, UnavailableError):  # nothing in a damaged bundle is worth keeping
        return bundle, [], {}
    kept: list[ParityReport] = []
    dropped: dict[str, str] = {}
    made_again = {variant.name for variant in bundle.manifest.variants}
    reason = _not_comparable(before.manifest, bundle.manifest)
    for variant in before.manifest.variants:
        if variant.name in made_again:
            bundle = _with_settings(bundle, variant)
            continue
        if reason or variant.reference in dropped:
            dropped[variant.name] = reason or f"its reference {variant.reference} was dropped"
            continue
        write_files(bundle.folder, {variant.file: before.file(variant).read_bytes()})
        manifest = dataclasses.replace(bundle.manifest, variants=(*bundle.manifest.variants, variant))
        tried = dataclasses.replace(bundle, manifest=manifest)
        try:
            report = verify_staged(tried, [variant], dataset)
            why = report.variants[0].reason
        except (BadFileError, CheckFailedError) as error:  # it contradicts its manifest, or does not return
            why = error.message
        if why:
            (bundle.folder / variant.file).unlink()
            dropped[variant.name] = why
        else:
            bundle = tried
            kept.append(report)
    return _with_choice(bundle, before.manifest), kept, dropped


def _with_settings(bundle: Bundle, before: Variant) -> Bundle:
    """Return the bundle with what was chosen and fitted for its variant of this name, if the file is the same."""
    variants = tuple(
        dataclasses.replace(
            variant,
            settings=before.settings,
            selection_accuracy=before.selection_accuracy,
            temperature=before.temperature,
        )
        if _same_file(variant, before)
        else variant
        for variant in bundle.manifest.variants
    )
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, variants=variants))


def _with_choice(bundle: Bundle, before: Manifest) -> Bundle:
    """Return the bundle with the choice of the previous one, if it has the file that was chosen."""
    chosen = next((variant for variant in before.variants if variant.name == before.choice), None)
    if chosen is None or not any(_same_file(variant, chosen) for variant in bundle.manifest.variants):
        return bundle
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, choice=before.choice))


def _same_file(one: Variant, other: Variant) -> bool:
    return (one.name, one.sha256) == (other.name, other.sha256)


def _not_comparable(before: Manifest, now: Manifest) -> str:
    for key in ("weights_sha256", "input", "dataset", "normalization"):
        if getattr(before, key) != getattr(now, key):
            what = "weights" if key == "weights_sha256" else key
            return f"it was made for another {what}" if what != "weights" else "it was made from other weights"
    return ""
