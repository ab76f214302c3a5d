"""What a bundle states of a variant is checked for its program as for its model: a valid signature proves nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_outputs_sha256 import folder, published, resign, without_trials  # noqa: F401

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes, read_manifest
from mnist_edge.errors import BadFileError
from mnist_edge.records.bundle import OutputHashes
from mnist_edge.records.data import Dataset
from mnist_edge.records.verification import VariantParity
from mnist_edge.runtime.classifier import Classifier, open_classifier
from mnist_edge.targets.target import Target
from mnist_edge.targets.verify import TargetOptions, verify_programs
from mnist_edge.verification.reference import recorded_reference


class Program(Classifier):
    """The variant's own file stands for a program without a fault."""

    def self_test(self) -> None:
        return None


def perfect(file: Path) -> Target:
    """A target whose program computes what a file does, whatever is stated of it."""

    @contextmanager
    def opened(*_args: object) -> Iterator[Program]:
        found = open_classifier(file)
        yield Program(**{field.name: getattr(found, field.name) for field in dataclasses.fields(found)})

    return Target(
        name="c",
        devices=("host", "small"),
        golden_only=frozenset({"small"}),
        require_expressible=lambda *_: None,
        build=lambda *_: {},
        open=opened,
    )


def verified(
    folder: Path,  # noqa: F811
    data: Dataset | None,
    images: int | None = None,
    device: str = "host",
) -> VariantParity:
    bundle = load_bundle(folder)
    variant = bundle.variant("int8-exact")
    options = TargetOptions(device=device, images=images)
    target = perfect(bundle.file(variant))
    return verify_programs(bundle, [variant], target, recorded_reference(bundle, data), options).variants[0]


def state(folder: Path, **statements: object) -> None:  # noqa: F811
    """Change the manifest, and sign it anew."""
    manifest = dataclasses.replace(read_manifest(folder / MANIFEST), **statements)
    (folder / MANIFEST).write_bytes(manifest_bytes(manifest))


def test_a_true_bundle_passes(published: Path, digits: Dataset) -> None:  # noqa: F811
    for images, device in ((None, "host"), (20, "host"), (None, "small")):
        found = verified(published, digits, images, device)
        assert found.passed, found.reason


def test_other_labels_fail(folder: Path, digits: Dataset) -> None:  # noqa: F811
    state(folder, labels=tuple(reversed(read_manifest(folder / MANIFEST).labels)))
    assert "classes were swapped" in verified(folder, digits).reason


def test_another_dataset_is_a_bad_file(folder: Path, digits: Dataset) -> None:  # noqa: F811
    state(folder, dataset="folder")
    with pytest.raises(BadFileError, match="its manifest states dataset folder, its graph has digits"):
        verified(folder, digits)


def test_another_accuracy_fails(folder: Path, digits: Dataset) -> None:  # noqa: F811
    state(folder, accuracy=0.5)
    assert "manifest.json states an accuracy of 50.00%" in verified(folder, digits).reason
    state(folder, accuracy=load_bundle_accuracy(folder, digits))
    resign(folder, "int8-exact", lambda variant: dataclasses.replace(variant, accuracy=0.5))
    assert "states an accuracy of 50.00% for int8-exact" in verified(folder, digits).reason


def load_bundle_accuracy(folder: Path, digits: Dataset) -> float:  # noqa: F811
    return float((load_bundle(folder).golden.test_logits.argmax(axis=1) == digits.test_labels).mean())


def test_another_precision_fails(folder: Path, digits: Dataset) -> None:  # noqa: F811
    resign(folder, "int8-exact", lambda variant: dataclasses.replace(variant, precision="int4"))
    assert "states that it computes in int4, its graph computes in int8" in verified(folder, digits).reason


def test_another_test_set_fails(published: Path, digits: Dataset) -> None:  # noqa: F811
    """Golden images alone would pass, and the report would only say that there was no test set."""
    other = dataclasses.replace(digits, test_images=digits.test_images[::-1].copy())
    assert "PyTorch's outputs for another test set" in verified(published, other).reason


@pytest.mark.parametrize(("images", "device"), [(20, "host"), (None, "small")])
@pytest.mark.parametrize("part", ["golden", "test"])
def test_a_changed_hash_fails_also_where_few_images_are_run(
    folder: Path, digits: Dataset, images: int | None, device: str, part: str  # noqa: F811
) -> None:  # fmt: skip
    resign(folder, "int8-exact", lambda variant: dataclasses.replace(variant, outputs_sha256=OutputHashes(
        **{**dataclasses.asdict(variant.outputs_sha256), part: "0" * 64})))  # fmt: skip
    found = verified(folder, digits, images, device)
    assert (found.passed, found.flips) == (False, 0)
    assert f"records other logits for the {part} images than its integers compute" in found.reason


def test_a_network_without_a_hash_fails(folder: Path, digits: Dataset) -> None:  # noqa: F811
    resign(folder, "int8-exact", lambda variant: dataclasses.replace(variant, outputs_sha256=None))
    assert verified(folder, digits).reason == "the manifest does not record the SHA-256 of its logits"


def test_a_network_that_saturates_elsewhere_fails_on_few_images(folder: Path, digits: Dataset) -> None:  # noqa: F811
    proto = onnx.load(folder / "int8-exact.onnx")
    weight = next(value for value in proto.graph.initializer if list(value.dims) == [48, 32])
    values = numpy_helper.to_array(weight).copy()
    values[4:6, 9] = 127
    weight.raw_data = np.ascontiguousarray(values).tobytes()
    onnx.save(proto, folder / "int8-exact.onnx")
    resign(folder, "int8-exact", lambda variant: variant)
    assert "a pair of products may reach 64770" in verified(folder, digits, images=20).reason
