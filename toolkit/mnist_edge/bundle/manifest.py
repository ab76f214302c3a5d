"""manifest.json: what a bundle states about itself, under a sha256 of its own."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_edge.contract import DatasetName, InputKind
from mnist_edge.errors import BadFileError
from mnist_edge.files import sha256_bytes
from mnist_edge.records.bundle import VariantFile
from mnist_edge.validation import validated

SCHEMA = "mnist-edge/bundle/2"
MANIFEST = "manifest.json"
EXPORT_AGAIN = "export it again, or copy the whole folder anew"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the bundle says of itself; `accuracy` is PyTorch's on the test set, a fraction of 1."""

    dataset: DatasetName
    input: InputKind
    input_description: str
    labels: tuple[str, ...]
    normalization: str
    opset: int
    weights_sha256: str
    versions: dict[str, str]
    accuracy: float
    parity: dict[str, Any]
    variants: tuple[VariantFile, ...]
    golden_sha256: str


def manifest_bytes(manifest: Manifest) -> bytes:
    """Serialise with a sha256 over everything else in the manifest."""
    content = {"schema": SCHEMA, **dataclasses.asdict(manifest)}
    content = json.loads(json.dumps(content))
    return _dump({**content, "sha256": sha256_bytes(_dump(content))})


def _dump(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest alone.

    Raises:
        BadFileError: not a manifest, of another schema, or changed.
    """
    try:
        data = path.read_bytes()
        content = json.loads(data)
        stated = content.pop("sha256")
        whole = stated == sha256_bytes(_dump(content)) and data == _dump({**content, "sha256": stated})
        schema = content.pop("schema")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadFileError(f"{path} is not a manifest", hint=EXPORT_AGAIN) from error
    if schema != SCHEMA:
        raise BadFileError(f"{path} has schema {schema!r}, this version reads {SCHEMA!r}", hint=EXPORT_AGAIN)
    if not whole:
        raise BadFileError(f"{path} was changed: its content does not match its own sha256", hint=EXPORT_AGAIN)
    manifest = validated(Manifest, content, path, EXPORT_AGAIN)
    if not 0 <= manifest.accuracy <= 1:  # nor is NaN
        raise BadFileError(f"{path}: accuracy: {manifest.accuracy} is no fraction of 1", hint=EXPORT_AGAIN)
    if not re.fullmatch("[0-9a-f]{64}", manifest.weights_sha256):
        raise BadFileError(f"{path}: weights_sha256: {manifest.weights_sha256[:80]!r} is no sha256", hint=EXPORT_AGAIN)
    return manifest
