"""What `sign` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class SignReport(Report):
    """A signed bundle.

    Attributes:
        signature: the file that was written, outside the bundle.
        key_sha256: of the public key in PEM, by which the signature names it.
        files: SHA-256 of every file that was signed, by name.
    """

    schema: ClassVar[str] = "mnist-edge/sign/1"
    bundle: Path
    signature: Path
    key_sha256: str
    files: dict[str, str]
