"""A bundle folder: every file is checked against the manifest before use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mnist_edge.bundle.golden import GOLDEN, Golden, read_golden
from mnist_edge.bundle.manifest import EXPORT_AGAIN, MANIFEST, Manifest, read_manifest
from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.files import sha256_file
from mnist_edge.records.bundle import VariantFile


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose every byte was checked."""

    folder: Path
    manifest: Manifest
    golden: Golden

    def file(self, variant: VariantFile) -> Path:
        """Return the path of a variant's model."""
        return self.folder / variant.file


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a bundle, whatever its state."""
    return (folder / MANIFEST).is_file()


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every byte of it.

    Raises:
        UnavailableError: there is no bundle.
        BadFileError: names the file whose hash differs, that is missing, or that was not put there by export.
    """
    if not is_bundle(folder):
        raise UnavailableError(
            f"{folder} holds no bundle (no {MANIFEST})", hint="mnist-edge export makes one; check the path"
        )
    manifest = read_manifest(folder / MANIFEST)
    if not manifest.variants:
        raise BadFileError(f"{folder / MANIFEST} names no variant: there is nothing in the bundle", hint=EXPORT_AGAIN)
    hashes = {GOLDEN: manifest.golden_sha256} | {variant.file: variant.sha256 for variant in manifest.variants}
    for name, expected in hashes.items():
        path = folder / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            raise BadFileError(f"{path} is missing, or is not a plain file of the bundle", hint=EXPORT_AGAIN)
        if sha256_file(path) != expected:
            raise BadFileError(f"{path} was changed: its sha256 differs from the manifest's", hint=EXPORT_AGAIN)
    return Bundle(folder=folder, manifest=manifest, golden=read_golden(folder / GOLDEN))
