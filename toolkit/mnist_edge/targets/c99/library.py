"""The C program as a shared library of this computer, called in the process: what `bench` times."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mnist_edge.contract import CLASSES
from mnist_edge.errors import UnavailableError
from mnist_edge.pixels import Images, Logits
from mnist_edge.targets.c99.devices import compiler_hint, require_tools
from mnist_edge.targets.c99.make import failure, make_environment


def build_library(folder: Path) -> Path:
    """Compile model.c of a C folder for this CPU and return the shared library, which lies in the folder.

    Raises:
        UnavailableError: there is no compiler, or it refuses model.c.
    """
    require_tools("host")
    command = ["make", "--silent", "DEVICE=host", "BUILD=build/host", "library"]
    done = subprocess.run(
        command, cwd=folder, env=make_environment(), capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        raise UnavailableError(f"the compiler cannot compile generated C: {failure(done.stderr)}", hint=compiler_hint())
    return folder.resolve() / "build" / "host" / "model.so"


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
