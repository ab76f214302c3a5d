"""Download a dataset with torchvision, with the limits and checks that torchvision lacks.

torchvision runs in a process of its own, so that a download that hangs can be ended and torch is never imported in
this process. Files are written to a temporary folder, which is moved into place once it is complete and checked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.extras import install_hint
from mnist_edge.files import ensure_folder, explaining_os_errors

IDLE_SECONDS = 10
"""Seconds without data after which a download is abandoned."""
TOTAL_SECONDS = 300
"""Time limit of a complete download."""

_HINT = (
    "check the network, or put the four raw files into the data folder (--data-dir); --dataset digits needs no network"
)


def download(
    class_name: str, root: Path, check: Callable[[Path], object], total_seconds: float = TOTAL_SECONDS
) -> Path:
    """Download one dataset into `root/<class_name>/raw`, atomically.

    The environment variable `MNIST_EDGE_MIRROR`, a URL ending in `/`, replaces torchvision's mirrors.

    Args:
        class_name: torchvision's class, which also names the folder: MNIST, FashionMNIST, KMNIST.
        root: the data folder.
        check: called with the folder of raw files before it is published; raises if they are wrong.
        total_seconds: the time limit.

    Returns:
        The folder of the four raw files.

    Raises:
        UnavailableError: no torchvision, no network, too slow, or wrong content.
    """
    if find_spec("torchvision") is None:
        raise UnavailableError(
            f"{class_name} is not in {root}, and torchvision, which downloads it, is not installed",
            hint=f"put the four files into {root / class_name / 'raw'}, or {install_hint('train')}",
        )
    ensure_folder(root)
    with explaining_os_errors(root), tempfile.TemporaryDirectory(prefix=".downloading-", dir=root) as staging:
        _fetch(class_name, Path(staging), total_seconds)
        raw = Path(staging, class_name, "raw")
        try:
            check(raw)
        except BadFileError as error:
            raise UnavailableError(f"what was downloaded is not {class_name}: {error.message}", hint=_HINT) from error
        for archive in raw.glob("*.gz"):
            archive.unlink()
        target = root / class_name / "raw"
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(raw, target)
    return target


def _fetch(class_name: str, staging: Path, total_seconds: float) -> None:
    command = [sys.executable, "-m", "mnist_edge.data.torchvision_process", class_name, str(staging), str(os.getpid())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=total_seconds, check=False)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"downloading {class_name} took over {total_seconds:g} s", hint=_HINT) from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise UnavailableError(f"{class_name} could not be downloaded: {lines[-1]}", hint=_HINT)
