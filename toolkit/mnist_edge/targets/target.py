"""What a target is: it builds a folder or a file from a variant of a bundle, and opens that as a predictor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mnist_edge.bundle.folder import Bundle
from mnist_edge.contract import TargetName
from mnist_edge.records.bundle import Variant
from mnist_edge.records.target import SelfTest
from mnist_edge.runtime.predictor import Predictor


class TargetProgram(Predictor, Protocol):
    """A folder that was built for a target, running on a device."""

    def self_test(self) -> SelfTest | None:
        """Run the self-test that the folder contains; None where it has none.

        Raises:
            RefusedModelError: it fails, or does not report what a self-test reports.
        """


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that variants are generated for.

    Attributes:
        devices: where its folders can be run here, the default first.
        require_expressible: raises UsageError for a variant that the target cannot express.
        build: writes a variant of a bundle into a folder, atomically; returns facts about it, bytes by name. Raises
            UsageError for a variant that the target cannot express.
        open: starts the program of a folder on a device; its runs may take that many seconds each. Raises UnavailableError
            where a tool is missing, RefusedModelError where the folder cannot be run.
        all_batches: whether its programs take a batch, so that several sizes must give the same.
        golden_only: devices that run only the images of the self-test.
        suffix: of the one file that is built; empty for a folder.
    """

    name: TargetName
    devices: tuple[str, ...]
    require_expressible: Callable[[Bundle, Variant], object]
    build: Callable[[Bundle, Variant, Path], dict[str, int]]
    open: Callable[[Path, str, float], AbstractContextManager[TargetProgram]]
    all_batches: bool = False
    golden_only: frozenset[str] = frozenset()
    suffix: str = ""
