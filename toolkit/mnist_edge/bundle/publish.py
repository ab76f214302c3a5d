"""Replace a bundle folder atomically, one process at a time, and only if it holds nothing but a bundle."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from mnist_edge.bundle.folder import is_bundle, load_bundle
from mnist_edge.bundle.golden import GOLDEN
from mnist_edge.bundle.manifest import MANIFEST, read_manifest
from mnist_edge.errors import BadFileError, UnavailableError, UsageError
from mnist_edge.files import ensure_folder, explaining_os_errors, locked, publish_folder, sha256_bytes

MODEL_FILE = "model.onnx"
SCRATCH = ".exporting-"


@contextlib.contextmanager
def staging(output: Path) -> Iterator[Path]:
    """Yield an empty folder beside `output`, locked against every other export to the same name.

    The folder's name is derived from that of `output`, so that a second export finds the lock, and removes what a
    killed export left there.

    Raises:
        UnavailableError: another process exports to `output`; the parent folder cannot be written.
    """
    target = output.resolve()
    parent = ensure_folder(target.parent)
    scratch = parent / f"{SCRATCH}{sha256_bytes(os.fsencode(target.name))[:16]}"
    with contextlib.ExitStack() as stack:
        _enter_locked(scratch, output, stack)
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)  # before the lock is released
        _clear(scratch)
        _remove_stale(parent, scratch)
        yield ensure_folder(scratch / "bundle")


def _enter_locked(scratch: Path, output: Path, stack: contextlib.ExitStack) -> None:
    while True:
        ensure_folder(scratch)
        identity = scratch.stat().st_ino
        with contextlib.ExitStack() as attempt:
            try:
                attempt.enter_context(locked(scratch))
            except UnavailableError as error:
                if not scratch.exists():
                    continue  # its owner has just removed it
                raise UnavailableError(
                    f"{output} is being exported by another mnist-edge",
                    hint="wait for it to end, or choose another --output",
                ) from error
            if scratch.exists() and scratch.stat().st_ino == identity:
                stack.push(attempt.pop_all())
                return


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _remove_stale(parent: Path, own: Path) -> None:
    """Remove the scratch folders of killed exports: those that no process holds a lock on."""
    for folder in parent.glob(f"{SCRATCH}*"):
        if folder == own or folder.is_symlink() or not folder.is_dir():
            continue
        with contextlib.suppress(UnavailableError, OSError), locked(folder):
            shutil.rmtree(folder)


def refuse_unexpected_files(output: Path) -> None:
    """Raise UsageError unless `output` is missing or empty, or holds only files of a bundle."""
    hint = "choose another folder with --output"
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError(f"{output} is not a folder", hint=hint)
    if not output.exists() or not any(output.iterdir()):
        return
    expected = {MODEL_FILE, GOLDEN, MANIFEST}
    with contextlib.suppress(BadFileError, UnavailableError):  # a damaged bundle may be replaced
        expected |= {variant.file for variant in read_manifest(output / MANIFEST).variants}
    unexpected = sorted(entry.name for entry in output.iterdir() if entry.name not in expected)
    if unexpected or not is_bundle(output):
        found = unexpected[0] if unexpected else "files without a manifest"
        raise UsageError(f"{output} holds files that no export wrote ({found}); it is not replaced", hint=hint)


def write_files(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write files by their path into an empty folder."""
    with explaining_os_errors(folder):
        for name, data in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def publish(staged: Path, output: Path) -> None:
    """Load and check a staged bundle, then replace `output` with it."""
    load_bundle(staged)
    publish_folder(staged, output.resolve())
