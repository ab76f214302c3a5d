"""Any ONNX image classifier with one input, fed with uint8 images whatever form it takes them in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import (
    LABELS,
    NORMALIZATIONS,
    PIXELS,
    SIDE,
    DatasetName,
    Normalization,
)
from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.pixels import Images, Logits, normalize
from mnist_edge.records.model import ModelInput
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings
from mnist_edge.runtime.session import RefusedModelError, open_session

if TYPE_CHECKING:
    import onnxruntime

Feed = NDArray[np.uint8] | NDArray[np.float32]
"""A prepared input: what one run takes."""
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


@dataclass(frozen=True)
class Classifier:
    """An open model, what its input is, and where its nodes run."""

    name: str
    session: onnxruntime.InferenceSession
    input: ModelInput
    output: str
    placement: dict[str, int]
    metadata: dict[str, str]

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the graph takes, or None when it takes any."""
        return self.input.shape[0]

    def logits(self, images: Images, batch: int | None = None) -> Logits:
        """Run images through the model.

        Args:
            images: uint8 (N, 28, 28).
            batch: images a run; all at once by default. A fixed-batch graph takes only its own.

        Returns:
            float32 (N, classes), whatever the values.

        Raises:
            UsageError: a float model whose normalisation is neither stated nor given.
            RefusedModelError: onnxruntime fails, or the output is no float32 (n, classes).
        """
        return np.concatenate([self.run(feed)[:count] for feed, count in self.batches(self.prepare(images), batch)])

    def batches(self, feed: Feed, batch: int | None = None) -> Iterator[tuple[Feed, int]]:
        """Cut a prepared feed into batches.

        Yields:
            The feed of one run, and how many of its rows are real: the last batch of a fixed-batch graph is filled
            up with zeros.
        """
        size = self.fixed_batch or batch or len(feed)
        for start in range(0, len(feed), size):
            part = feed[start : start + size]
            count = len(part)
            if self.fixed_batch and count < size:
                part = np.concatenate([part, np.zeros((size - count, *part.shape[1:]), part.dtype)])
            yield part, count

    def require_pictures(self) -> None:
        """Raise BadFileError unless the input has the pixels of a picture."""
        if int(np.prod([side or 0 for side in self.input.shape[1:]])) != PIXELS:
            raise BadFileError(
                f"{self.name} takes {describe(self.input)}, not pictures of {SIDE}x{SIDE}",
                hint="give a digit classifier",
            )

    def prepare(self, images: Images) -> Feed:
        """Bring uint8 images (N, 28, 28) to the dtype, normalisation and shape of the input."""
        self.require_pictures()
        shaped = images.reshape(len(images), *(side or 0 for side in self.input.shape[1:]))
        if self.input.dtype == "uint8":
            return shaped
        if self.input.normalization is None:
            raise UsageError(
                f"{self.name} does not say how it wants its pixels", hint=f"--normalize {'|'.join(NORMALIZATIONS)}"
            )
        return normalize(shaped, self.input.normalization)

    def run_for(self, names: Sequence[str], feed: Feed) -> list[NDArray[Any]]:
        """Run one prepared batch for the outputs named, whatever their form."""
        try:
            return list(self.session.run(list(names), {self.input.name: feed}))
        except Exception as error:  # onnxruntime's own exceptions share no base class
            reason = str(error).strip().splitlines()[0].split(" /onnxruntime_src")[0]
            raise RefusedModelError(f"onnxruntime cannot run {self.name}: {reason}", hint="export it again") from error

    def run(self, feed: Feed) -> Logits:
        """Run one prepared batch and check the form of the answer."""
        (answer,) = self.run_for([self.output], feed)
        if not isinstance(answer, np.ndarray):
            raise RefusedModelError(
                f"{self.name} answers no tensor", hint="give a classifier whose output is (batch, classes)"
            )
        if answer.dtype != np.float32 or answer.ndim != 2 or len(answer) != len(feed):
            raise RefusedModelError(
                f"{self.name} answers {answer.dtype} {answer.shape} to {len(feed)} images, expected float32 ({len(feed)}, classes)",
                hint="give a classifier whose output is (batch, classes)",
            )
        return answer


def open_classifier(
    model: Path | bytes,
    settings: SessionSettings = DEFAULT_SETTINGS,
    name: str = "",
    *,
    normalization: Normalization | None = None,
    profile_prefix: Path | None = None,
) -> Classifier:
    """Open a model and read its one input from the graph.

    Args:
        model, settings, name, profile_prefix: as `open_session` takes them.
        normalization: what a float model expects of its pixels; None takes what its metadata state.

    Raises:
        BadFileError: several inputs, or one that holds no image; and as `open_session`.
    """
    name = name or str(model if isinstance(model, Path) else "the model")
    opened = open_session(model, settings, name, profile_prefix=profile_prefix)
    inputs, outputs = opened.session.get_inputs(), opened.session.get_outputs()
    if len(inputs) != 1 or inputs[0].type not in DTYPES or not inputs[0].shape:
        found = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
        raise BadFileError(
            f"{name} takes {found or 'no input'}; expected one uint8 or float32 input", hint="give an image classifier"
        )
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape)
    if None in shape[1:]:
        raise BadFileError(
            f"{name}: only the batch may be free, its input is {inputs[0].shape}", hint="fix the other sides"
        )
    metadata = opened.session.get_modelmeta().custom_metadata_map
    stated = metadata.get("mnist_edge.normalization")
    return Classifier(
        name=name,
        session=opened.session,
        input=ModelInput(
            name=inputs[0].name,
            dtype=DTYPES[inputs[0].type],
            shape=shape,
            normalization=normalization or next((known for known in NORMALIZATIONS if known == stated), None),
        ),
        output=outputs[0].name,
        placement=opened.placement,
        metadata=dict(metadata),
    )


def dataset_of(classifier: Classifier) -> DatasetName | None:
    """Return the dataset that the file says it was trained on, or None."""
    stated = classifier.metadata.get("mnist_edge.dataset")
    return next((name for name in LABELS if name == stated), None)


def describe(model_input: ModelInput) -> str:
    """Say an input in one phrase: `image uint8 (batch, 28, 28)`."""
    sides = ", ".join("batch" if side is None else str(side) for side in model_input.shape)
    return f"{model_input.name} {model_input.dtype} ({sides})"
