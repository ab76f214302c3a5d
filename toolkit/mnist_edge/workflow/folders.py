"""The default folders of runs and bundles, and the newest run or bundle in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mnist_edge.errors import UnavailableError

RUNS = Path("runs")
EXPORTED = Path("exported")
VARIANT_RUNS = RUNS / "variants"
"""Networks that variants were trained for, one level deeper, so that none of them is the newest run."""


def newest_run() -> Path:
    """Return the run folder in `runs/` whose checkpoint was written last.

    Raises:
        UnavailableError: there is none.
    """
    from mnist_edge.training.checkpoint import LAST

    return _newest_with(LAST, RUNS, "mnist-edge train, or name one with --run")


def newest_bundle(notify: Callable[[str], None]) -> Path:
    """Return the bundle in `exported/` whose manifest was written last, and report which it is.

    Raises:
        UnavailableError: there is none.
    """
    from mnist_edge.bundle.manifest import MANIFEST

    newest = _newest_with(MANIFEST, EXPORTED, "mnist-edge export, or name a bundle folder")
    notify(f"taking {newest}, the newest bundle in {EXPORTED}/")
    return newest


def _newest_with(file: str, root: Path, hint: str) -> Path:
    found = sorted(root.glob(f"*/{file}"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise UnavailableError(f"{root}/ holds no folder with {file}", hint=hint)
    return found[-1].parent
