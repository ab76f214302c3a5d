"""A bundle folder: every file is compared with the manifest before use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnist_edge.bundle.golden import GOLDEN, Golden, read_golden
from mnist_edge.bundle.manifest import EXPORT_AGAIN, MANIFEST, Manifest, read_manifest
from mnist_edge.contract import LABELS
from mnist_edge.errors import BadFileError, UnavailableError, UsageError
from mnist_edge.files import sha256_file
from mnist_edge.records.bundle import Variant


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose files have been compared with its manifest."""

    folder: Path
    manifest: Manifest
    golden: Golden

    def file(self, variant: Variant) -> Path:
        """Return the path of a variant's model."""
        return self.folder / variant.file

    def variant(self, name: str) -> Variant:
        """Return the variant of that name.

        Raises:
            UsageError: there is none; lists the names.
        """
        return self.select([name])[0]

    def chosen(self, name: str | None = None) -> Variant:
        """Return the variant of that name; None takes the one that `tune` chose, or else the first.

        Raises:
            UsageError: there is none of that name.
        """
        return self.variant(name or self.manifest.choice or self.manifest.variants[0].name)

    def require_digits(self, purpose: str, hint: str) -> None:
        """Raise UsageError, with what needs them and what to do instead, unless the classes are digits."""
        if self.manifest.labels != LABELS["mnist"]:
            raise UsageError(f"{self.folder} classifies {self.manifest.dataset}; {purpose}", hint=hint)

    def select(self, names: Sequence[str] | None = None) -> tuple[Variant, ...]:
        """Return the variants of these names, each once and in the order of the manifest; without names, all.

        Raises:
            UsageError: a name is not in the bundle; lists those that are.
        """
        known = [variant.name for variant in self.manifest.variants]
        for name in names or ():
            if name not in known:
                raise UsageError(
                    f"{self.folder} has no variant {name!r}; it has {', '.join(known)}", hint=f"--variant {known[0]}"
                )
        return tuple(variant for variant in self.manifest.variants if not names or variant.name in names)


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a bundle, whatever its state."""
    return (folder / MANIFEST).is_file()


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every byte of it.

    Raises:
        UnavailableError: there is no bundle.
        BadFileError: names the file that was changed, that is missing, or that the manifest does not name.
    """
    if not is_bundle(folder):
        found = f"holds no bundle (no {MANIFEST})" if folder.exists() else "does not exist: no bundle"
        raise UnavailableError(f"{folder} {found}", hint="mnist-edge export makes one; check the path")
    manifest = read_manifest(folder / MANIFEST)
    if not manifest.variants:
        raise BadFileError(f"{folder / MANIFEST} names no variant: there is nothing in the bundle", hint=EXPORT_AGAIN)
    hashes = {GOLDEN: manifest.golden_sha256} | {variant.file: variant.sha256 for variant in manifest.variants}
    sizes = {variant.file: variant.bytes for variant in manifest.variants}
    present = {path.name for path in folder.iterdir()}
    for name, expected in hashes.items():
        path = folder / name
        # By the names that are there: one that is too long or leads elsewhere is never looked up.
        if name not in present or path.is_symlink() or not path.is_file():
            raise BadFileError(
                f"{folder / name[:80]} is missing, or is not a plain file of the bundle", hint=EXPORT_AGAIN
            )
        # The size first: hashing a sparse file of a terabyte takes an hour.
        if path.stat().st_size != sizes.get(name, path.stat().st_size) or sha256_file(path) != expected:
            raise BadFileError(f"{path} was changed: its sha256 differs from the manifest's", hint=EXPORT_AGAIN)
    refuse_unexpected_files(folder, {MANIFEST, *hashes})
    return Bundle(folder=folder, manifest=manifest, golden=read_golden(folder / GOLDEN))


def refuse_unexpected_files(folder: Path, expected: set[str]) -> None:
    """Refuse a file or folder that the manifest does not name.

    A model's external data, a sidecar that a runtime reads by its name or a link would take part in inference
    without a hash.

    Raises:
        BadFileError: names the first one.
    """
    unexpected = sorted(path.name for path in folder.iterdir() if path.name not in expected or path.is_symlink())
    if unexpected:
        raise BadFileError(
            f"{folder / unexpected[0]} is not named in {MANIFEST}: a bundle holds only files that it names",
            hint="move it elsewhere",
        )
