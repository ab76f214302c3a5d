"""A file of finished work, from which `tune` continues after it was stopped: one JSON line for each result.

A result is found by the sha256 of everything that it depends on, so that results of another model, machine, version or
option are never taken for it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from mnist_edge.errors import BadFileError
from mnist_edge.files import explaining_os_errors, require_regular_file, sha256_bytes
from mnist_edge.validation import validated

JOURNAL = "journal.jsonl"
MAX_BYTES = 64 * 2**20
"""A line has about 400 bytes: room for a hundred thousand."""
HINT = "--overwrite starts anew"
T = TypeVar("T")


class Journal:
    """Results by what they depend on; every new one is on the disk before the next is begun."""

    def __init__(self, path: Path) -> None:
        """Read the results of earlier calls; a last line that a killed process did not finish is removed.

        Raises:
            BadFileError: the file is no journal.
            UnavailableError: it cannot be read or written.
        """
        self._path = path
        with explaining_os_errors(path):
            self._results = _read(path) if path.exists() else {}

    def get(self, kind: type[T], needs: dict[str, Any]) -> T | None:
        """Return the result that depends on exactly `needs`, or None.

        Raises:
            BadFileError: it is no record of this kind.
        """
        found = self._results.get(_key(needs))
        return None if found is None else validated(kind, found, self._path, HINT)

    def add(self, needs: dict[str, Any], result: Any) -> None:
        """Record a result, a JSON value, and force it to the disk."""
        key = _key(needs)
        line = json.dumps({"key": key, "result": result}, allow_nan=False) + "\n"
        with explaining_os_errors(self._path):
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(handle, line.encode())  # one call: a line is written or cut, never mixed with another
                os.fsync(handle)
            finally:
                os.close(handle)
        self._results[key] = json.loads(line)["result"]


def _key(needs: dict[str, Any]) -> str:
    return sha256_bytes(json.dumps(needs, sort_keys=True, allow_nan=False).encode())


def _read(path: Path) -> dict[str, Any]:
    require_regular_file(path, "a journal of tune", limit=MAX_BYTES, hint=HINT)
    *lines, cut = path.read_bytes().split(b"\n")
    results: dict[str, Any] = {}
    for line in lines:
        try:
            content = json.loads(line)
            results[content["key"]] = content["result"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadFileError(f"{path} is damaged: a line is no result", hint=HINT) from error
    if cut:
        os.truncate(path, path.stat().st_size - len(cut))
    return results
