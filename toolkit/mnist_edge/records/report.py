"""The base of reports: records that become JSON documents with a schema."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

NOT_IN_JSON = {"json": False}


def _jsonable(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = (field for field in dataclasses.fields(value) if field.metadata != NOT_IN_JSON)
        return {field.name: _jsonable(getattr(value, field.name)) for field in shown}
    return value


class Report:
    """Base of records that `--json` prints."""

    schema: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values, `schema` first."""
        return {"schema": self.schema, **_jsonable(self)}
