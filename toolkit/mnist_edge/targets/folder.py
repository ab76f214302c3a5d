"""Write the folder of a target atomically, with a SHA256SUMS of its files, and replace only what was written so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mnist_edge.bundle.publish import staging, write_files
from mnist_edge.contract import TargetName
from mnist_edge.errors import UsageError
from mnist_edge.files import publish_folder, sha256_bytes, sha256_file

SUMS = "SHA256SUMS"
MARKER = ".mnist-edge-target"
"""A file that holds the name of the target, and tells a folder of ours from a user's with a SHA256SUMS of its own."""
MADE = "build"
"""What `make` leaves in a C folder."""
HINT = "choose another folder with --output"


def write_folder(folder: Path, content: Mapping[str, bytes], target: TargetName) -> None:
    """Write a folder atomically; one that is there is replaced if it is what this function wrote, unchanged.

    Args:
        folder: to make or to replace.
        content: its files by path, without SHA256SUMS.
        target: that it is for.

    Raises:
        UsageError: the folder holds something else, or was changed.
        UnavailableError: it cannot be written.
    """
    _require_replaceable(folder, target)
    marked = {**content, MARKER: f"{target}\n".encode()}
    sums = _sums({name: sha256_bytes(data) for name, data in marked.items()})
    with staging(folder) as staged:
        write_files(staged, {**marked, SUMS: sums.encode()})
        publish_folder(staged, folder.resolve())


def entries(folder: Path) -> set[str]:
    """Return the paths in a folder of all that is no folder: files, links and whatever else."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in found}


def _sums(hashes: Mapping[str, str]) -> str:
    """Return what `sha256sum --check` reads."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))


def changes(folder: Path, target: TargetName) -> str:
    """Return how a folder differs from what `write_folder` wrote for a target, or an empty string.

    What `make` leaves in a C folder is no difference.
    """
    stated = (folder / SUMS).read_text(errors="replace") if (folder / SUMS).is_file() else ""
    listed = {line.partition("  ")[2] for line in stated.splitlines()}
    present = entries(folder)
    if target == "c" and MARKER in listed:
        present = {name for name in present if not name.startswith(f"{MADE}/")}
    unexpected = sorted(present - listed - {SUMS} if MARKER in listed else present)
    if unexpected:
        return f"holds files that no export wrote ({unexpected[0]})"
    files = present - {SUMS}
    readable = all((folder / name).is_file() for name in files)
    if not readable or stated != _sums({name: sha256_file(folder / name) for name in files}):
        return f"holds changes: its files are not those of {SUMS}"
    return ""


def _require_replaceable(folder: Path, target: TargetName) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is not a folder", hint=HINT)
    found = changes(folder, target) if entries(folder) else ""
    if found:
        raise UsageError(f"{folder} {found}; it is not replaced", hint=HINT)
