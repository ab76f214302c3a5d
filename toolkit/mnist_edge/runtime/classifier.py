"""An ONNX image classifier with one input: uint8 images are converted to the form that its graph takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_edge.contract import LABELS, NORMALIZATIONS, DatasetName, Normalization, ProviderName
from mnist_edge.errors import BadFileError, CheckFailedError
from mnist_edge.pixels import ImageFile, Images, Logits
from mnist_edge.records.model import ModelInput, ModelOutput
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings
from mnist_edge.runtime.images import Feed, prepare_images
from mnist_edge.runtime.interface import class_rows, read_input, read_output
from mnist_edge.runtime.reasons import explain
from mnist_edge.runtime.session import RefusedModelError, import_onnxruntime, open_session, refusal

if TYPE_CHECKING:
    import onnxruntime

TIMEOUT_SECONDS = 60.0
"""Default time after which a run is ended."""
FEED_BYTES = 2**26
"""Largest feed of a run where the batch size does not matter: 64 MiB."""


@dataclass(frozen=True)
class Classifier:
    """An open model, its input and output, and the provider of its nodes.

    Attributes:
        placement: number of nodes by onnxruntime's name of the provider.
        metadata: what the file states about itself.
        timeout: seconds after which a run is ended; None waits for ever.
    """

    name: str
    session: onnxruntime.InferenceSession
    input: ModelInput
    output: ModelOutput
    placement: dict[str, int]
    metadata: dict[str, str]
    provider: ProviderName = "cpu"
    timeout: float | None = TIMEOUT_SECONDS

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the graph takes, or None when it takes any."""
        return self.input.shape[0]

    def logits(self, images: Images | ImageFile, batch: int | None = None) -> Logits:
        """Run images through the model.

        Args:
            images: uint8 (N, 28, 28); those in a file are read a batch at a time.
            batch: images a run; all at once by default. A fixed-batch graph takes only its own.

        Returns:
            float32 (N, classes), whatever the values.

        Raises:
            UsageError: a float model whose normalisation is neither stated nor given.
            BadFileError: the images cannot be fitted to the input, or no output holds a float for each class.
            RefusedModelError: onnxruntime cannot run the graph.
        """
        self.require_scores()
        size = self.fixed_batch or batch or max(1, len(images))
        rows = []
        for start in range(0, max(1, len(images)), size):
            feed = prepare_images(self.name, self.input, images[start : start + size])
            rows += [self.run(part)[:count] for part, count in self.batches(feed, size)]
        return np.concatenate(rows)

    def batches(self, feed: Feed, batch: int | None = None) -> Iterator[tuple[Feed, int]]:
        """Cut a prepared feed into batches.

        Yields:
            The feed of one run, and the number of its rows that are real: the last batch of a fixed-batch graph is
            padded with zeros.
        """
        size = self.fixed_batch or batch or len(feed)
        for start in range(0, len(feed), size):
            part = feed[start : start + size]
            count = len(part)
            if self.fixed_batch and count < size:
                part = np.concatenate([part, np.zeros((size - count, *part.shape[1:]), part.dtype)])
            yield part, count

    def bounded_batch(self, batch: int) -> int:
        """Return the largest batch size up to `batch` whose feed stays below 64 MiB; at least 1."""
        item = int(np.prod(self.input.image_shape)) * np.dtype(self.input.dtype).itemsize
        return max(1, min(batch, FEED_BYTES // item))

    def prepare(self, images: Images) -> Feed:
        """Return uint8 images (N, 28, 28) in the size, axes, normalisation and dtype of the input."""
        return prepare_images(self.name, self.input, images)

    def class_logits(self, images: Images, classes: int, batch: int | None = None) -> Logits:
        """Run images through a model of `classes` classes; as `logits`, and BadFileError for another number."""
        self.require_scores()
        declared = self.output.classes
        logits = self.logits(images, batch) if declared in {None, classes} else None
        found = declared if logits is None else logits.shape[1]
        if logits is None or found != classes:
            raise BadFileError(
                f"{self.name} predicts {found} classes, the dataset has {classes}; it can only be timed",
                hint=f"give a model of {classes} classes",
            )
        return logits

    def require_scores(self) -> None:
        """Raise BadFileError unless an output holds a float for each class, which evaluating and verifying need."""
        output = self.output
        if not output.scores_classes:
            found = ", ".join(sorted({output.name, *output.others}))
            raise BadFileError(
                f"{self.name} has no float output of (batch, classes): its outputs are {found} "
                f"({output.name} is {output.dtype}); it can only be timed",
                hint="export the logits or probabilities as a tensor: zipmap=False in skl2onnx, no ArgMax at the end",
            )

    def run_for(self, names: Sequence[str], feed: Feed) -> list[Any]:
        """Run one prepared batch and return the outputs of these names, whatever their form.

        Raises:
            CheckFailedError: the run did not return within `timeout` seconds.
            UnavailableError: not enough memory, or the GPU failed.
            RefusedModelError: onnxruntime cannot run the graph.
        """
        with self.ended_in_time(len(feed)) as options:
            return list(self.session.run(list(names), {self.input.name: feed}, options))

    @contextlib.contextmanager
    def ended_in_time(self, batch: int) -> Iterator[onnxruntime.RunOptions]:
        """Give the options for runs of this session that end once they take `timeout` seconds together.

        Raises:
            As `run_for`.
        """
        # onnxruntime looks at `terminate` between operators, in loops too; checked with an endless Loop.
        options = import_onnxruntime().RunOptions()
        timer = None if self.timeout is None else Timer(self.timeout, setattr, (options, "terminate", True))
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            yield options
        except Exception as error:  # onnxruntime's own exceptions share no base class
            if self.timeout is not None and explain(error).cause == "stopped":
                raise did_not_return(self.name, self.timeout) from error
            raise refusal(self.name, self.provider, error, "run", batch) from error
        finally:
            if timer is not None:
                timer.cancel()

    def run_zeros(self) -> None:
        """Run one batch of zeros, the smallest that the graph takes; raises what `run_for` raises."""
        shape = (self.fixed_batch or 1, *self.input.image_shape)
        self.run_for([self.output.name], np.zeros(shape, self.input.dtype))

    def run(self, feed: Feed) -> Logits:
        """Run one prepared batch and return its outputs, float32 (n, classes)."""
        (values,) = self.run_for([self.output.name], feed)
        rows = class_rows(values, len(feed))
        if rows is None:
            found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else self.output.dtype
            raise RefusedModelError(
                f"{self.name} returns {found} for {len(feed)} images, expected float ({len(feed)}, classes)",
                hint="export it with logits of (batch, classes) as its output",
            )
        return rows


def open_classifier(
    model: Path | bytes,
    settings: SessionSettings = DEFAULT_SETTINGS,
    name: str = "",
    *,
    normalization: Normalization | None = None,
    profile_prefix: Path | None = None,
    timeout: float | None = TIMEOUT_SECONDS,
    trial: bool = True,
) -> Classifier:
    """Open a model and read its one input and its class values from the graph.

    Args:
        model, settings, name, profile_prefix: as `open_session` takes them.
        normalization: what a float model expects of its pixels; None takes what its metadata state.
        timeout: seconds after which a run is ended.
        trial: run a file once before it is returned, and first in a process of its own where its graph does not bound
            time and memory. False where that has been done, and where the first run is measured.

    Raises:
        BadFileError: several inputs, or one that holds no image; and as `open_session`.
        CheckFailedError: the trial did not return in time.
    """
    name = name or str(model if isinstance(model, Path) else "the model")
    trial = trial and isinstance(model, Path)
    if trial and isinstance(model, Path):
        from mnist_edge.runtime.trial import require_bounded

        require_bounded(model, timeout or TIMEOUT_SECONDS)
    opened = open_session(model, settings, name, profile_prefix=profile_prefix)
    metadata = dict(opened.session.get_modelmeta().custom_metadata_map)
    stated = metadata.get("mnist_edge.normalization")
    known = next((known for known in NORMALIZATIONS if known == stated), None)
    try:
        model_input = read_input(name, opened.session.get_inputs(), normalization or known)
        model_output = read_output(name, opened.session.get_outputs())
    except UnicodeDecodeError as error:  # onnxruntime reads a dimension's name only when it is asked for it
        raise BadFileError(f"{name}: a name of a dimension is not UTF-8", hint="export it again") from error
    classifier = Classifier(
        name=name,
        session=opened.session,
        input=model_input,
        output=model_output,
        placement=opened.placement,
        metadata=metadata,
        provider=settings.provider,
        timeout=timeout,
    )
    if trial:
        classifier.run_zeros()
    return classifier


def dataset_of(classifier: Classifier) -> DatasetName | None:
    """Return the dataset that the model was trained on, if its metadata state one."""
    stated = classifier.metadata.get("mnist_edge.dataset")
    return next((name for name in LABELS if name == stated), None)


def did_not_return(name: str, timeout: float) -> CheckFailedError:
    """Return the error of a model that is still running after `timeout` seconds."""
    return CheckFailedError(
        f"{name} did not return within {timeout:g} s", hint="a loop without an end? Raise --timeout if it is only slow"
    )
