"""Run make in a C folder so that neither the environment nor the names of folders change what it builds."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

INHERITED = ("MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "MAKEOVERRIDES", "MAKEFILES", "MAKELEVEL")
"""Variables by which make takes options, assignments and rules from whoever started it."""
SHOWN = 160
"""Characters of a line that an error shows."""


def make_environment() -> dict[str, str]:
    """Return the environment of make."""
    return {name: value for name, value in os.environ.items() if name not in INHERITED}


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder with `source`, links to the files of a C folder, and `build`, empty.

    make runs in `source` with `BUILD=../build`: it takes no path with a space, which the folder of temporary files may have.
    """
    with tempfile.TemporaryDirectory(prefix="mnist-edge-c-") as name:
        place = Path(name)
        (place / "build").mkdir()
        (place / "source").mkdir()
        for entry in folder.resolve().iterdir():
            (place / "source" / entry.name).symlink_to(entry)
        yield place


def failure(output: str) -> str:
    """Return the line that explains a failure best: the first error of compiler or linker, else the last line but make's."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("make: ***")]
    errors = [line for line in lines if any(word in line for word in ("error:", "FAILED", "will not fit"))]
    return ([*errors, *lines[-1:], "it printed nothing"])[0][:SHOWN]
