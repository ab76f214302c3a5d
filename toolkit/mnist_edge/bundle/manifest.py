"""manifest.json: the content of a bundle, with the sha256 of every file and of itself."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_edge.contract import LABELS, PYTORCH, DatasetName, InputKind
from mnist_edge.errors import BadFileError
from mnist_edge.files import require_regular_file, sha256_bytes
from mnist_edge.records.bundle import Variant
from mnist_edge.validation import validated

SCHEMA = "mnist-edge/bundle/6"
OLDER_SCHEMAS = tuple(f"mnist-edge/bundle/{number}" for number in range(1, 6))
MANIFEST = "manifest.json"
MAX_BYTES = 16 * 2**20
"""A manifest has a few kilobytes for each variant; a larger file is not read."""
EXPORT_AGAIN = "export it again, or copy the whole folder anew"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MAX_THREADS = 1024
"""No machine has more cores; onnxruntime would start as many threads as a manifest states."""
HASH = re.compile("[0-9a-f]{64}")
RESERVED = {MANIFEST, "golden.npz"}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of a bundle.

    Attributes:
        input_description: name, dtype and shape of the models' input, as `contract.INPUTS` has it.
        labels: class names, by class number.
        normalization: of the pixels that the models take.
        weights_sha256: of the PyTorch weights whose outputs golden.npz holds.
        versions: of the packages that determine the content of the files.
        accuracy: PyTorch's on the test set, a fraction of 1.
        parity: session settings and results of the comparison before publication.
        variants: at least one; a variant's reference stands before it.
        golden_sha256: of golden.npz.
        choice: name of the variant that `tune` chose; None if none was chosen.
    """

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
    variants: tuple[Variant, ...]
    golden_sha256: str
    choice: str | None = None


def is_variant_name(name: str) -> bool:
    """Whether a variant may have this name; `pytorch` is reserved for the reference."""
    return NAME.fullmatch(name) is not None and name != PYTORCH


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
        BadFileError: not a manifest, of another schema, changed, or with values that no export writes.
    """
    require_regular_file(path, "a manifest", limit=MAX_BYTES, hint=EXPORT_AGAIN)
    try:
        data = path.read_bytes()
        content = json.loads(data)
        stated = content.pop("sha256")
        intact = stated == sha256_bytes(_dump(content)) and data == _dump({**content, "sha256": stated})
        schema = content.pop("schema")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadFileError(f"{path} is not a manifest", hint=EXPORT_AGAIN) from error
    if schema in OLDER_SCHEMAS:
        raise BadFileError(
            f"{path} has schema {schema!r} of an older version, this version reads {SCHEMA!r}",
            hint=_export_command(path.parent, content.get("dataset")),
        )
    if schema != SCHEMA:
        raise BadFileError(f"{path} has schema {schema!r}, this version reads {SCHEMA!r}", hint=EXPORT_AGAIN)
    if not intact:
        raise BadFileError(f"{path} was changed: its content does not match its own sha256", hint=EXPORT_AGAIN)
    manifest = validated(Manifest, content, path, EXPORT_AGAIN)
    problem = next(_problems(manifest), "")
    if problem:
        raise BadFileError(f"{path}: {problem}", hint=EXPORT_AGAIN)
    return manifest


def _export_command(folder: Path, dataset: Any) -> str:
    """Return the command that replaces an older bundle; the run is named where the default folder has one."""
    run = Path("runs") / dataset if isinstance(dataset, str) and dataset in LABELS else None
    named = run if run is not None and (run / "last.safetensors").is_file() else "RUN"
    data = " --dataset FOLDER" if dataset == "folder" else ""
    return f"mnist-edge export --run {named}{data} --output {folder}"


def _problems(manifest: Manifest) -> Iterator[str]:
    """Yield each value that no export writes."""
    if not 0 <= manifest.accuracy <= 1:  # nor is NaN
        yield f"accuracy: {manifest.accuracy} is no fraction of 1"
    if not HASH.fullmatch(manifest.weights_sha256):
        yield f"weights_sha256: {manifest.weights_sha256[:80]!r} is no sha256"
    names: set[str] = set()
    files = set(RESERVED)
    for variant in manifest.variants:
        if not is_variant_name(variant.name):
            yield f"variants: {variant.name[:80]!r} is no name of a variant"
        if variant.name in names or variant.file in files:
            yield f"variants: {variant.name}: its name, or its file {variant.file[:80]!r}, is taken"
        if variant.reference not in {PYTORCH, *names}:
            yield f"variants: {variant.name}: its reference {variant.reference[:80]!r} is no variant before it"
        yield from (f"variants: {variant.name}: {problem}" for problem in _variant_problems(variant))
        names.add(variant.name)
        files.add(variant.file)
    if manifest.choice is not None and manifest.choice not in names:
        yield f"choice: {manifest.choice[:80]!r} is no variant of the bundle"
    results = manifest.parity.get("variants")
    if not isinstance(results, list) or not all(isinstance(entry, dict) and "name" in entry for entry in results):
        yield "parity: no results of variants"


def _variant_problems(variant: Variant) -> Iterator[str]:
    for key in ("max_accuracy_drop", "accuracy", "selection_accuracy"):
        value = getattr(variant, key)
        if value is not None and not 0 <= value <= 1:  # no loss exceeds NaN: export and bench would let any pass
            yield f"{key}: {value} is no fraction of 1"
    if variant.temperature is not None and not 0 < variant.temperature < math.inf:  # nor is NaN
        yield f"temperature: {variant.temperature} is no finite number above 0"
    if variant.flips is not None and variant.flips < 0:
        yield f"flips: {variant.flips} is no count"
    if variant.outputs_sha256 is not None:
        for key, value in dataclasses.asdict(variant.outputs_sha256).items():
            if not HASH.fullmatch(value):
                yield f"outputs_sha256: {key}: {value[:80]!r} is no sha256"
    if not 1 <= variant.settings.threads <= MAX_THREADS:
        yield f"settings: threads: {variant.settings.threads} is not 1 to {MAX_THREADS}"
    if not variant.passed:
        yield "it did not pass: no export publishes it"
