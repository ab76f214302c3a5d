"""Results on disk: the document of a command that ran on a bundle, and the state of the bundle that it is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class BundleState:
    """What a result depends on, each as a SHA-256.

    Attributes:
        bundle_sha256: of manifest.json.
        golden_sha256: of golden.npz, the recorded outputs.
        weights_sha256: of the PyTorch weights that the bundle was exported from.
        variants: of each variant's file, by name.
    """

    bundle_sha256: str
    golden_sha256: str
    weights_sha256: str
    variants: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class StoredResult(Report):
    """A file of the results folder.

    Attributes:
        bundle_sha256: of the manifest, so that one comparison shows that nothing changed.
        state: of the bundle when the command ran.
        command: its words as they were typed.
        time: when it ended, ISO 8601 in UTC.
        document: what the command prints with `--json`; an error document where a check could not be finished.
    """

    schema: ClassVar[str] = "mnist-edge/result/1"
    bundle_sha256: str
    state: BundleState
    command: tuple[str, ...]
    time: str
    document: dict[str, Any]
