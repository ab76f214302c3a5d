"""Validate parsed content against a record type: the one place where pydantic's errors are converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from mnist_edge.errors import BadFileError

T = TypeVar("T")


def validated(record: type[T], content: Any, path: Path, hint: str) -> T:
    """Return `content` as a `record`.

    Args:
        record: a dataclass, validated with all that it holds.
        content: parsed JSON or TOML.
        path: the file that it was read from, for the error.
        hint: what to do about a bad file.

    Raises:
        BadFileError: names the file, the first field that does not fit, and why.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(record).validate_python(content)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise BadFileError(f"{path}: nested too deeply", hint=hint) from error
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadFileError(f"{path}: {where}: {first['msg']}", hint=hint) from error
