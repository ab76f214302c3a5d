"""Build a model repository, and run its model file in onnxruntime here: no server is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mnist_edge.bundle.folder import Bundle
from mnist_edge.contract import LABELS
from mnist_edge.errors import UsageError
from mnist_edge.files import require_regular_file
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.bundle import Variant
from mnist_edge.records.settings import DEFAULT_SETTINGS
from mnist_edge.runtime.classifier import Classifier, dataset_of, open_classifier
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.targets.folder import MARKER, SUMS, write_folder
from mnist_edge.targets.target import Target
from mnist_edge.targets.triton.repository import CONFIG, MODEL, config_text, labels_text, repository_files, untuned
from mnist_edge.targets.triton.repository import LABELS as LABELS_FILE

MAX_CONFIG_BYTES = 2**20
HINT = "export it again"


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


def _require_only_model(folder: Path, name: str) -> None:
    """Raise RefusedModelError where a folder holds more, or less, than one version of one model: a server would load it."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")} - {"README.md", SUMS, MARKER}
    expected = {name, f"{name}/{CONFIG}", f"{name}/{LABELS_FILE}", f"{name}/{Path(MODEL).parent}", f"{name}/{MODEL}"}
    if found != expected:
        other = min(found ^ expected)
        how = "holds" if other in found else "lacks"
        raise RefusedModelError(f"{folder} {how} {other}, unlike what an export writes", hint=HINT)


def _read(file: Path) -> str:
    require_regular_file(file, f"a {file.name}", limit=MAX_CONFIG_BYTES)
    return file.read_text(encoding="utf-8", errors="replace")


@contextmanager
def open_repository(folder: Path, _device: str, timeout: float) -> Iterator[RepositoryModel]:
    """Open the one model of a repository, after comparing all else in it with what `build` writes for that model.

    Raises:
        RefusedModelError: it holds no model or several, other classes, or a config that differs in more than `TUNABLE`.
        BadFileError: the file is no model.
    """
    configs = sorted(folder.glob(f"*/{CONFIG}"))
    if len(configs) != 1:
        raise RefusedModelError(
            f"{folder} holds {len(configs)} models (NAME/{CONFIG}), expected one",
            hint="mnist-edge export --target triton makes a folder with one",
        )
    name = configs[0].parent.name
    _require_only_model(folder, name)
    classifier = open_classifier(folder / name / MODEL, timeout=timeout)
    dataset = dataset_of(classifier) or next((known for known in LABELS if name.startswith(f"{known}-")), None)
    if dataset is None:
        raise RefusedModelError(f"{folder}: {name} names no dataset, nor does its model", hint=HINT)
    config = config_text(name, (classifier.input, classifier.output), DEFAULT_SETTINGS)
    if untuned(_read(folder / name / CONFIG)) != untuned(config):
        raise RefusedModelError(f"{folder / name / CONFIG} does not describe its model, or states more", hint=HINT)
    if _read(folder / name / LABELS_FILE) != labels_text(LABELS[dataset]):
        raise RefusedModelError(f"{folder / name / LABELS_FILE} does not name the classes of {dataset}", hint=HINT)
    yield RepositoryModel(name=f"{folder} in onnxruntime", classifier=classifier)


TRITON = Target(
    name="triton",
    devices=("onnxruntime",),
    require_expressible=read,
    build=build,
    open=open_repository,
    all_batches=True,
)
