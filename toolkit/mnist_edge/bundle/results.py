"""The results folder beside a bundle: what each command measured, and whether it still describes the bundle.

It is not in the bundle folder, where an unexpected file is refused.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnist_edge.bundle.manifest import MANIFEST, read_manifest
from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.files import explaining_os_errors, require_regular_file, sha256_file, write_atomic
from mnist_edge.records.result import BundleState, StoredResult
from mnist_edge.validation import validated

SUFFIX = ".results"
MAX_BYTES = 16 * 2**20
"""A result of `bench` takes about 3 kB a row; a larger file is not read."""
MAX_FILES = 500
LARGEST = 2**63
"""Number of a result: seeds are smaller, and so is all that is measured."""
AGAIN = "delete it, and run the command again"


def results_folder(bundle: Path) -> Path:
    """Return the folder of the results of a bundle: beside it, `mnist.results` for `mnist`."""
    named = bundle if bundle.name and not bundle.is_symlink() else bundle.resolve()
    return named.with_name(named.name + SUFFIX)


def state_of(bundle: Path) -> BundleState:
    """Return the state of a bundle, from its manifest alone.

    Raises:
        BadFileError, UnavailableError: it has no manifest, or a damaged one.
    """
    manifest = read_manifest(bundle / MANIFEST)
    return BundleState(
        bundle_sha256=sha256_file(bundle / MANIFEST),
        golden_sha256=manifest.golden_sha256,
        weights_sha256=manifest.weights_sha256,
        variants={variant.name: variant.sha256 for variant in manifest.variants},
    )


def write_result(bundle: Path, name: str, state: BundleState, command: Sequence[str], document: dict[str, Any]) -> Path:
    """Write a result atomically, replacing the one of that name; return its path.

    Raises:
        UnavailableError: the folder cannot be written.
    """
    stored = StoredResult(
        bundle_sha256=state.bundle_sha256,
        state=state,
        command=tuple(command),
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        document=document,
    )
    path = results_folder(bundle) / f"{name}.json"
    text = json.dumps(stored.to_json(), indent=2, allow_nan=False, ensure_ascii=False)
    write_atomic(path, f"{text}\n".encode(errors="replace"))  # a file name need not be decodable
    return path


def read_results(bundle: Path) -> dict[str, StoredResult]:
    """Read every result of a bundle, by name without suffix, the oldest first; none where there is no folder.

    Raises:
        BadFileError: a file of the folder is damaged, no regular file or no result.
        UnavailableError: one cannot be read.
    """
    folder = results_folder(bundle)
    if not folder.exists():
        return {}
    with explaining_os_errors(folder):
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    if len(paths) > MAX_FILES:
        raise BadFileError(f"{folder} holds {len(paths):,} results, at most {MAX_FILES} are read", hint="delete some")
    found = {path.stem: _read(path) for path in paths}
    return dict(sorted(found.items(), key=lambda item: item[1].time))


def _read(path: Path) -> StoredResult:
    require_regular_file(path, "a result of mnist-edge", limit=MAX_BYTES, hint=AGAIN)
    try:
        content: Any = json.loads(path.read_bytes(), parse_constant=_number, parse_float=_number, parse_int=_whole)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"{path} is not JSON", hint=AGAIN) from error
    schema = content.pop("schema", None) if isinstance(content, dict) else None
    if schema != StoredResult.schema:
        raise BadFileError(f"{path} has schema {str(schema)[:80]!r}, expected {StoredResult.schema!r}", hint=AGAIN)
    stored = validated(StoredResult, content, path, AGAIN)
    try:
        datetime.datetime.fromisoformat(stored.time)
    except ValueError as error:
        raise BadFileError(f"{path}: time: {stored.time[:80]!r} is no time", hint=AGAIN) from error
    return stored


def _number(text: str) -> float:
    """Parse a number; NaN, Infinity and 1e300 are none that a command writes."""
    value = float(text)
    if not abs(value) <= LARGEST:
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) > LARGEST:
        raise ValueError(text)
    return value
