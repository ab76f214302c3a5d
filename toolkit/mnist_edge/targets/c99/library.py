"""The C program as a shared library of this computer, called in the process: what `bench` times."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mnist_edge.contract import CLASSES
from mnist_edge.errors import CheckFailedError
from mnist_edge.pixels import Images, Logits
from mnist_edge.targets.c99.devices import require_tools


def build_library(folder: Path) -> Path:
    """Compile model.c of a C folder for this CPU and return the shared library, which lies in the folder.

    Raises:
        UnavailableError: there is no compiler.
        CheckFailedError: it refuses model.c.
    """
    require_tools("host")
    build = folder.resolve() / "build" / "host"
    command = ["make", "--silent", f"--directory={folder}", "DEVICE=host", f"BUILD={build}", "library"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckFailedError(
            f"{folder} cannot be compiled: {done.stderr.strip().splitlines()[0][:160]}", hint="generate it again"
        )
    return build / "model.so"


@dataclass(frozen=True, kw_only=True)
class CLibrary:
    """An open shared library; a predictor."""

    name: str
    function: ctypes._NamedFuncPointer
    fixed_batch: int | None = None
    placement: Mapping[str, int] = field(default_factory=dict)

    def logits(self, images: Images, batch: int | None = None) -> Logits:
        """Return the logits of uint8 images (n, 28, 28), contiguous in memory; see `Predictor.logits`."""
        del batch
        found = np.empty((len(images), CLASSES), np.float32)
        self.function(images.ctypes.data, len(images), found.ctypes.data)
        return found


def open_library(library: Path) -> CLibrary:
    """Open a library that `build_library` made."""
    function = ctypes.CDLL(str(library)).library_logits
    function.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p]
    function.restype = None
    return CLibrary(name=str(library), function=function)
