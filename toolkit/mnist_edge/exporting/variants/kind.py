"""A kind of variant: from what an export knows to the bytes of one ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_edge.contract import InputKind, Normalization, Precision, RequirementKind
from mnist_edge.records.bundle import OutputHashes, VariantSpec
from mnist_edge.records.data import Dataset, SelectionSplit

if TYPE_CHECKING:
    from torch import nn

    from mnist_edge.training.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class VariantContext:
    """What a variant is made from.

    Attributes:
        fp32: the ONNX file of the bundle's fp32 variant.
        network: the network that it was exported from, as `build_model` makes it.
        dataset: with training images. Calibration, fine-tuning and choices use these alone; the test set is for the
            proof.
        recipe: whose held-out images are the selection split: the one that the network was trained with, or `fast`.
        normalization: of the pixels that the network was trained on.
        input: how the graph takes an image.
        opset: ONNX operator set of the file.
        max_accuracy_drop: accuracy that the variant may lose, a fraction of 1.
        runs: folder under which a kind that trains keeps its run folder, so that a killed one resumes.
        user_runs: folder of the user's own runs, which a kind may take a finished one from.
        notify: takes one plain line about what happens.
    """

    fp32: bytes
    network: nn.Sequential
    dataset: Dataset
    recipe: Recipe
    normalization: Normalization
    input: InputKind
    opset: int
    max_accuracy_drop: float
    runs: Path
    user_runs: Path
    notify: Callable[[str], None] = lambda _line: None

    @property
    def selection(self) -> SelectionSplit | None:
        """The training images that training held out; None where there are none."""
        return selection_split(self.dataset, self.recipe)


def selection_split(dataset: Dataset, recipe: Recipe) -> SelectionSplit | None:
    """Return the training images that a recipe holds out, the same for every run of it; None for a tiny set."""
    from mnist_edge.training.loop import held_out

    images, labels = held_out(dataset, recipe)
    return SelectionSplit(images=images, labels=labels) if len(labels) else None


@dataclass(frozen=True, kw_only=True)
class Built:
    """A variant before it is proven.

    Attributes:
        model: content of its ONNX file, with the input and output of the fp32 variant.
        made: how it was made, as JSON values, for the manifest.
        selection: images to measure its selection accuracy on, where it was trained on some of the context's.
        outputs_sha256: what its logits must be on any runtime, byte for byte; None where rounding may differ.
    """

    model: bytes
    spec: VariantSpec
    made: dict[str, Any] = field(default_factory=dict)
    selection: SelectionSplit | None = None
    outputs_sha256: OutputHashes | None = None


@dataclass(frozen=True, kw_only=True)
class VariantKind:
    """A kind of variant that `export --variant` makes.

    Attributes:
        advice: when to use it, in at most 60 characters.
        build: makes it. Raises UsageError where the export settings cannot express it, BadFileError where the data do
            not suffice, CheckFailedError where it fails.
    """

    name: str
    precision: Precision
    requirement: RequirementKind
    advice: str
    build: Callable[[VariantContext], Built]

    def spec(self, context: VariantContext) -> VariantSpec:
        """Return the specification of the variant that is made in this context."""
        return VariantSpec(
            name=self.name,
            precision=self.precision,
            requirement=self.requirement,
            max_accuracy_drop=context.max_accuracy_drop,
        )
