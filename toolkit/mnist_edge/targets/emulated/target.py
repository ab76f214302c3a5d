"""The target `onnxruntime`: the model file itself, in the onnxruntime of another CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnist_edge.bundle.folder import Bundle
from mnist_edge.records.bundle import Variant
from mnist_edge.records.settings import DEFAULT_SETTINGS
from mnist_edge.runtime.trial import require_bounded
from mnist_edge.targets.emulated.process import EmulatedClassifier, open_emulated
from mnist_edge.targets.emulated.setup import DEVICES, require_emulator
from mnist_edge.targets.folder import write_folder
from mnist_edge.targets.target import Target

MODEL = "model.onnx"


def build(bundle: Bundle, variant: Variant, folder: Path) -> dict[str, int]:
    """Copy the model of a variant into a folder, atomically; return its size."""
    content = bundle.file(variant).read_bytes()
    write_folder(folder, {MODEL: content}, "onnxruntime")
    return {"model_bytes": len(content)}


@contextmanager
def open_model(folder: Path, device: str, timeout: float) -> Iterator[EmulatedClassifier]:
    """Open the model of a folder on an emulated CPU; raises as `require_bounded` and `open_emulated`."""
    require_emulator(device)
    require_bounded(folder / MODEL, timeout)
    with open_emulated(folder / MODEL, device, DEFAULT_SETTINGS, timeout) as classifier:
        yield classifier


ONNXRUNTIME = Target(
    name="onnxruntime",
    devices=tuple(DEVICES),
    require_expressible=lambda _bundle, _variant: None,
    build=build,
    open=open_model,
    all_batches=True,
)
