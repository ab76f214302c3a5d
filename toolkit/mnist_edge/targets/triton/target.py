"""Build a model repository, and run its model file in onnxruntime here: no server is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mnist_edge.bundle.folder import Bundle
from mnist_edge.errors import UsageError
from mnist_edge.files import require_regular_file
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.bundle import Variant
from mnist_edge.runtime.classifier import Classifier, open_classifier
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.targets.folder import write_folder
from mnist_edge.targets.target import Target
from mnist_edge.targets.triton.repository import CONFIG, MODEL, repository_files, tensor_blocks

MAX_CONFIG_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class RepositoryModel:
    """The model file of a repository in onnxruntime, on the CPU with one thread."""

    name: str
    classifier: Classifier

    @property
    def fixed_batch(self) -> int | None:
        """That of the graph."""
        return self.classifier.fixed_batch

    @property
    def placement(self) -> Mapping[str, int]:
        """That of the session."""
        return self.classifier.placement

    def logits(self, images: Images, batch: int | None = None) -> Logits:
        """Run images through the model; see `Predictor.logits`."""
        return self.classifier.logits(images, batch)

    def self_test(self) -> None:
        """Return None: a repository has no program of its own."""


def read(bundle: Bundle, variant: Variant) -> Classifier:
    """Return the model of a variant; raise UsageError where Triton could not collect requests to batches for it."""
    classifier = open_classifier(bundle.file(variant), trial=False)
    if classifier.fixed_batch is not None:
        raise UsageError(
            f"the target triton needs a model for any batch size, {variant.name} takes {classifier.fixed_batch}",
            hint="name another variant",
        )
    return classifier


def build(bundle: Bundle, variant: Variant, folder: Path) -> dict[str, int]:
    """Write the repository of a variant, atomically; return the size of its model.

    Raises:
        UsageError: the variant takes one batch size only.
        UnavailableError: the folder cannot be written.
    """
    classifier = read(bundle, variant)
    model = bundle.file(variant).read_bytes()
    name = f"{bundle.manifest.dataset}-{variant.name}"
    tensors = (classifier.input, classifier.output)
    write_folder(folder, repository_files(name, variant, model, tensors, bundle.manifest.labels), "triton")
    return {"model_bytes": len(model)}


@contextmanager
def open_repository(folder: Path, _device: str, timeout: float) -> Iterator[RepositoryModel]:
    """Open the one model of a repository, after comparing its config.pbtxt with its graph.

    Raises:
        RefusedModelError: it holds no model or several, or the config describes another input or output.
        BadFileError: the file is no model.
    """
    configs = sorted(folder.glob(f"*/{CONFIG}"))
    if len(configs) != 1:
        raise RefusedModelError(
            f"{folder} holds {len(configs)} models (NAME/{CONFIG}), expected one",
            hint="mnist-edge export --target triton makes a folder with one",
        )
    (config,) = configs
    require_regular_file(config, f"a {CONFIG}", limit=MAX_CONFIG_BYTES)
    text = "".join(config.read_text(encoding="utf-8", errors="replace").split())
    classifier = open_classifier(config.parent / MODEL, timeout=timeout)
    named = f'name:"{config.parent.name}"'
    for part in (named, *tensor_blocks(classifier.input, classifier.output)):
        if "".join(part.split()) not in text:
            raise RefusedModelError(
                f"{config} does not describe its model: expected {' '.join(part.split())}", hint="export it again"
            )
    yield RepositoryModel(name=f"{folder} in onnxruntime", classifier=classifier)


TRITON = Target(
    name="triton",
    devices=("onnxruntime",),
    require_expressible=read,
    build=build,
    open=open_repository,
    all_batches=True,
)
