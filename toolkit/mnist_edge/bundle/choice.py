"""Write the variant that `tune` chose, and the session settings of variants, into a manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.golden import GOLDEN
from mnist_edge.bundle.manifest import MANIFEST, Manifest, manifest_bytes
from mnist_edge.bundle.publish import publish, staging, write_files
from mnist_edge.records.settings import SessionSettings


def write_choice(folder: Path, choice: str | None, settings: Mapping[str, SessionSettings]) -> Manifest:
    """Set the choice and the settings of variants; the folder is replaced atomically, under the lock of `export`.

    No model changes, so that nothing is proven again: the hash of every file is compared before and after.

    Args:
        folder: the bundle.
        choice: name of the variant that was chosen, or None for no choice.
        settings: by name of the variant; those of the others stay.

    Returns:
        The manifest as written.

    Raises:
        UsageError: a name that the bundle does not have.
        BadFileError: the bundle is damaged, or settings are out of range; it stays as it was.
        UnavailableError: the folder cannot be written or is in use.
    """
    with staging(folder) as staged:
        bundle = load_bundle(folder)
        bundle.select([*settings, *([] if choice is None else [choice])])
        variants = tuple(
            dataclasses.replace(variant, settings=settings.get(variant.name, variant.settings))
            for variant in bundle.manifest.variants
        )
        manifest = dataclasses.replace(bundle.manifest, variants=variants, choice=choice)
        files = [GOLDEN, *(variant.file for variant in variants)]
        write_files(staged, {name: (folder / name).read_bytes() for name in files})
        write_files(staged, {MANIFEST: manifest_bytes(manifest)})
        publish(staged, folder)
        return manifest
