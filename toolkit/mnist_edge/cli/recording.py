"""Keep the documents of commands that ran on a bundle, in the results folder beside it."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from mnist_edge.errors import CheckFailedError, MnistEdgeError, error_document

if TYPE_CHECKING:
    from mnist_edge.records.report import Report
    from mnist_edge.records.result import BundleState

UNNAMED = (
    *("model", "built", "dataset", "data_dir", "normalize", "timeout", "layers", "plot", "json"),
    *("key", "signature", "compare", "tolerance", "anyway", "output", "verbose", "profile", "self_check"),
)
"""Parameters that change neither what is measured nor where it runs: a result replaces one that differs in them."""
VALUE_ALONE = ("variant", "target", "device", "on", "provider", "scenario", "optimization", "arithmetic")
"""Parameters whose value says what they are."""
LONGEST_NAME = 120


class Keep(Protocol):
    """What `recording` yields."""

    def __call__(self, report: Report, own: str = "") -> None:
        """Keep a report; under `own`, if that is given, in place of the name of the command."""


@contextlib.contextmanager
def recording(bundle: Path, name: str, *, changes: bool = False) -> Iterator[Keep]:
    """Yield a function that keeps the report of a command as a result; it does nothing for what is no bundle.

    A check that ends in an error is kept as well, so that it shows as failed.

    Args:
        bundle: what the command runs on.
        name: of the file, without suffix, unless another one is given with the report.
        changes: whether the command changes the bundle: its result is then about the changed one.
    """
    before = None if changes else _state(bundle)

    def keep(document: dict[str, Any], own: str = "") -> None:
        after = _state(bundle)
        if after is not None and (changes or before is not None):
            _keep(bundle, own or name, before or after, after, document)

    try:
        yield lambda report, own="": keep(report.to_json(), own)
    except CheckFailedError as error:
        keep(error_document(error.kind, error.message, error.hint))
        raise


def result_name(command: str, context: typer.Context) -> str:
    """Return the name of a result from the options that were typed: `verify-c-cortex-m3`, `bench-batch-1-64`."""
    words = [command]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in UNNAMED or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if name not in VALUE_ALONE:
            words.append(name)
        if value is not True:
            words += [str(Path(one).stem if isinstance(one, Path) else one) for one in _as_list(value)]
    return file_name("-".join(words))


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def file_name(words: str) -> str:
    """Return words as the name of a file: lower-case letters, digits, dots and hyphens."""
    from mnist_edge.files import sha256_bytes

    name = re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{sha256_bytes(words.encode(errors='surrogateescape'))[:8]}"


def _state(bundle: Path) -> BundleState | None:
    """Return the state of a bundle; None for anything else, which the command itself refuses or accepts."""
    from mnist_edge.bundle.results import state_of

    with contextlib.suppress(MnistEdgeError, OSError):
        return state_of(bundle) if bundle.is_dir() else None
    return None


def _keep(bundle: Path, name: str, state: BundleState, now: BundleState, document: dict[str, Any]) -> None:
    """Write a result; where that fails, or the bundle has changed meanwhile, report it and go on."""
    from mnist_edge.bundle.results import results_folder, write_result
    from mnist_edge.reporting.console import say

    if now != state:
        say(f"the result is not kept: {bundle} was changed meanwhile")
        return
    try:
        write_result(bundle, name, state, ["mnist-edge", *sys.argv[1:]], document)
    except (MnistEdgeError, OSError) as error:
        reason = error.message if isinstance(error, MnistEdgeError) else str(error.strerror or error)
        say(f"the result is not kept in {results_folder(bundle)}: {reason}")
