"""Generate a target's folder from a variant of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.contract import TargetName
from mnist_edge.errors import UnavailableError, UsageError
from mnist_edge.workflow.folders import EXPORTED, newest_bundle
from mnist_edge.workflow.variants import select_variants

if TYPE_CHECKING:
    from mnist_edge.records.target import SelfTest, TargetReport
    from mnist_edge.targets.target import Target

TIMEOUT_SECONDS = 60.0


def export_target(
    target: TargetName,
    *,
    bundle: Path | None = None,
    variant: str | None = None,
    output: Path | None = None,
    notify: Callable[[str], None] = lambda _line: None,
) -> TargetReport:
    """Generate a folder for a target from a bundle that is there; nothing is trained.

    Args:
        target: for what.
        bundle: a bundle folder; None takes the newest one.
        variant: of the bundle; None takes the first one.
        output: the folder or file, which is replaced; None takes `exported/<dataset>-<target>-<variant>`.
        notify: takes one plain line about what happens.

    Raises:
        UsageError: the target cannot express the variant, or the output lies in a bundle or has another suffix.
        CheckFailedError: the folder's self-test fails here.
    """
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.records.target import TargetFile, TargetReport
    from mnist_edge.targets.registry import REGISTRY

    source = bundle or newest_bundle(notify)
    loaded = load_bundle(source)
    chosen = select_variants(loaded, [variant] if variant else [])[0]
    found = REGISTRY[target]
    folder = output or EXPORTED / f"{loaded.manifest.dataset}-{target}-{chosen.name}{found.suffix}"
    _require_place(folder, found)
    facts = found.build(loaded, chosen, folder)
    parts = [folder] if found.suffix else [path for path in sorted(folder.rglob("*")) if path.is_file()]
    base = folder.parent if found.suffix else folder
    files = tuple(TargetFile(name=path.relative_to(base).as_posix(), bytes=path.stat().st_size) for path in parts)
    self_test, skipped = _self_test(found, folder)
    return TargetReport(
        target=target,
        bundle=source,
        variant=chosen.name,
        folder=folder,
        files=files,
        facts=facts,
        self_test=self_test,
        self_test_skipped=skipped,
    )


def _require_place(output: Path, target: Target) -> None:
    """Raise UsageError where the output would lie in a bundle, or has not the suffix of the target's file."""
    from mnist_edge.bundle.folder import is_bundle

    if is_bundle(output.parent):
        raise UsageError(
            f"--output {output}: {output.parent} is a bundle, which holds only files that its manifest names",
            hint=f"--output {output.name}",
        )
    if target.suffix and output.suffix != target.suffix:
        raise UsageError(
            f"--output {output}: {target.name} is one file, expected a name that ends in {target.suffix}",
            hint=f"--output {output.name}{target.suffix}",
        )


def _self_test(target: Target, folder: Path) -> tuple[SelfTest | None, str]:
    """Run the self-test of a folder on the target's default device; return its result, or why it was not run."""
    from mnist_edge.errors import CheckFailedError
    from mnist_edge.runtime.session import RefusedModelError

    try:
        with target.open(folder, target.devices[0], TIMEOUT_SECONDS) as program:
            return program.self_test(), ""
    except UnavailableError as error:
        return None, f"{error.message}; {error.hint}"
    except RefusedModelError as error:
        raise CheckFailedError(error.message, hint=error.hint) from error
