"""Write the folder of a target atomically, with a SHA256SUMS of its files, and replace only a folder of that kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mnist_edge.bundle.publish import staging, write_files
from mnist_edge.errors import UsageError
from mnist_edge.files import publish_folder, sha256_bytes

SUMS = "SHA256SUMS"
MADE = "build"
"""What `make` leaves in a folder."""


def with_sums(content: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return files by path, and SHA256SUMS, which `sha256sum --check` reads."""
    sums = "".join(f"{sha256_bytes(data)}  {name}\n" for name, data in sorted(content.items()))
    return {**content, SUMS: sums.encode()}


def write_folder(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write a folder atomically; one that is there is replaced if it holds nothing but a target's files.

    Args:
        folder: to make or to replace.
        content: its files by path, without SHA256SUMS.

    Raises:
        UsageError: the folder holds something else.
        UnavailableError: it cannot be written.
    """
    _refuse_other_files(folder)
    with staging(folder) as staged:
        write_files(staged, with_sums(content))
        publish_folder(staged, folder.resolve())


def _refuse_other_files(folder: Path) -> None:
    hint = "choose another folder with --output"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is not a folder", hint=hint)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    present = {name for name in present if not name.startswith(f"{MADE}/")}
    known = {SUMS}
    if SUMS in present:
        lines = (folder / SUMS).read_text(errors="replace").splitlines()
        known |= {line.partition("  ")[2] for line in lines}
    unexpected = sorted(present - known)
    if unexpected:
        raise UsageError(f"{folder} holds files that no export wrote ({unexpected[0]}); it is not replaced", hint=hint)
