"""The recorded sha256 of logits: equal in every way of running, and any other byte fails `verify`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_cli import in_process

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes, read_manifest
from mnist_edge.contract import Optimization
from mnist_edge.errors import BadFileError
from mnist_edge.exporting.variants import exact
from mnist_edge.exporting.variants.add import add_kind
from mnist_edge.exporting.variants.kind import VariantContext
from mnist_edge.files import sha256_file
from mnist_edge.integer_network import integer_logits
from mnist_edge.pixels import logits_sha256
from mnist_edge.records.bundle import OutputHashes, Variant
from mnist_edge.records.data import Dataset
from mnist_edge.records.settings import SessionSettings
from mnist_edge.records.verification import VariantParity
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.verification.integer_graph import read_integer_network
from mnist_edge.verification.reference import recorded_reference
from mnist_edge.verification.verify import VerifyOptions, verify_bundle


@pytest.fixture(autouse=True)
def without_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are not run first in a process of their own, which tests/test_attack.py covers."""
    monkeypatch.setattr("mnist_edge.runtime.trial.require_bounded", lambda *_args: None)


@pytest.fixture(scope="module")
def published(bundle_folder: Path, variant_context: VariantContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the digits with int8-exact and int4-exact. Copy it before changing it."""
    folder = shutil.copytree(bundle_folder, tmp_path_factory.mktemp("exact") / "digits")
    for kind in exact.KINDS_BY_BITS.values():
        add_kind(folder, kind, variant_context)
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published, tmp_path / "digits")


def verified(folder: Path, digits: Dataset | None, name: str = "int8-exact", **session: object) -> VariantParity:
    bundle = load_bundle(folder)
    options = VerifyOptions(session=SessionSettings(**session), batches=(5,), max_drop=0.05)
    return verify_bundle(bundle, recorded_reference(bundle, digits), options, [bundle.variant(name)]).variants[0]


def resign(folder: Path, name: str, change: Callable[[Variant], Variant]) -> None:
    """Change an entry of the manifest, with all hashes of files and of the manifest itself made valid again."""
    manifest = read_manifest(folder / MANIFEST)
    changed = []
    for variant in manifest.variants:
        file = folder / variant.file
        changed.append(dataclasses.replace(variant, bytes=file.stat().st_size, sha256=sha256_file(file)))
        if variant.name == name:
            changed[-1] = change(changed[-1])
    (folder / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, variants=tuple(changed))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8-exact", "int4-exact"])
def test_the_recorded_bytes_come_out_at_every_level(published: Path, digits: Dataset, name: str) -> None:
    """Unfused, fused, with two threads; at batch 1, 2, 3, 5, 7, 64 and all: `verify` compares each with the manifest."""
    variant = load_bundle(published).variant(name)
    levels: tuple[Optimization, ...] = ("none", "basic", "extended", "all")
    for level in levels:
        found = verified(published, digits, name, optimization=level, threads=1 + (level == "all"))
        assert found.passed, found.reason
        assert found.outputs_sha256 == variant.outputs_sha256.test
    assert verified(published, None, name).outputs_sha256 == variant.outputs_sha256.golden
    network = read_integer_network(published / variant.file)
    assert logits_sha256(integer_logits(network, digits.test_images)) == variant.outputs_sha256.test


@pytest.mark.slow
def test_every_variant_reports_the_hash_of_its_logits(published: Path, digits: Dataset) -> None:
    """Also where nothing is recorded, so that two machines can be compared by one line."""
    assert load_bundle(published).variant("fp32").outputs_sha256 is None
    found = verified(published, digits, "fp32")
    logits = open_classifier(published / "model.onnx").logits(digits.test_images, batch=1000)
    assert found.outputs_sha256 == logits_sha256(logits)


def off_by_one(folder: Path) -> None:
    """One weight of one layer, in the file alone."""
    proto = onnx.load(folder / "int8-exact.onnx")
    weight = next(value for value in proto.graph.initializer if list(value.dims) == [48, 32])
    values = numpy_helper.to_array(weight).copy()
    values[7, 3] += 1 if values[7, 3] < 60 else -1
    weight.raw_data = values.tobytes()
    onnx.save(proto, folder / "int8-exact.onnx")


def test_a_weight_that_is_off_by_one_fails(folder: Path, digits: Dataset) -> None:
    """Too little to change a prediction, and in a bundle that is signed anew: only the bytes of the logits show it."""
    off_by_one(folder)
    resign(folder, "int8-exact", lambda variant: variant)
    found = verified(folder, digits)
    assert found.accuracy.non_inferior
    assert not found.passed
    assert found.reason.startswith("at batch 1 logits are not the recorded bytes: their sha256 is ")
    assert found.layers is None
    resign(folder, "int8-exact", lambda variant: dataclasses.replace(variant, outputs_sha256=None))
    assert verified(folder, digits).reason == "the manifest does not record the SHA-256 of its logits"  # nothing else


@pytest.mark.parametrize("part", ["golden", "test"])
def test_a_changed_hash_fails(folder: Path, digits: Dataset, part: str) -> None:
    """Each of the two; without a test set, only the golden one can be compared."""

    def other(variant: Variant) -> Variant:
        return dataclasses.replace(
            variant, outputs_sha256=dataclasses.replace(variant.outputs_sha256, **{part: "0" * 64})
        )

    resign(folder, "int8-exact", other)
    found = verified(folder, digits)
    where = "at batch 1" if part == "golden" else "on the test set"
    assert not found.passed
    assert f"{where} logits are not the recorded bytes: " in found.reason
    assert "expected 0000000000000000..." in found.reason
    assert verified(folder, None).passed == (part == "test")


def test_a_file_that_saturates_elsewhere_fails_although_its_bytes_agree_here(folder: Path, digits: Dataset) -> None:
    """A pair of weights that int16 cannot hold is right on this CPU, or unfused, and wrong on another."""
    proto = onnx.load(folder / "int8-exact.onnx")
    weight = next(value for value in proto.graph.initializer if list(value.dims) == [48, 32])
    values = numpy_helper.to_array(weight).copy()
    values[4:6, 9] = 127
    weight.raw_data = values.tobytes()
    onnx.save(proto, folder / "int8-exact.onnx")
    network = read_integer_network(folder / "int8-exact.onnx")
    bundle = load_bundle_images(folder)
    hashes = OutputHashes(
        golden=logits_sha256(integer_logits(network, bundle)),
        test=logits_sha256(integer_logits(network, digits.test_images)),
    )
    resign(folder, "int8-exact", lambda variant: dataclasses.replace(variant, outputs_sha256=hashes, accuracy=None))
    found = verified(folder, digits, optimization="none")
    assert not found.passed
    assert "layer 2: output 9: a pair of products may reach 64770" in found.reason
    assert "recorded bytes" not in found.reason


def load_bundle_images(folder: Path) -> np.ndarray:
    return np.load(folder / "golden.npz")["images"]


def test_a_file_of_another_form_fails(folder: Path, digits: Dataset) -> None:
    """A graph that is no integer network promises nothing, whatever its logits are here."""
    resign(folder, "int8-exact", lambda variant: variant)
    bundle = load_bundle(folder)
    logits = open_classifier(folder / "model.onnx").logits
    hashes = OutputHashes(
        golden=logits_sha256(logits(bundle.golden.images)), test=logits_sha256(logits(digits.test_images))
    )
    resign(folder, "fp32", lambda variant: dataclasses.replace(variant, outputs_sha256=hashes))
    found = verified(folder, digits, "fp32")
    assert not found.passed
    assert "model.onnx is not the graph of an integer network" in found.reason


@pytest.mark.parametrize("value", ["", "0" * 63, "G" * 64])
def test_malformed_hashes_are_a_bad_file(folder: Path, value: str) -> None:
    hashes = OutputHashes(golden=value, test="0" * 64)
    resign(folder, "int8-exact", lambda variant: dataclasses.replace(variant, outputs_sha256=hashes))
    with pytest.raises(BadFileError, match=f"int8-exact: outputs_sha256: golden: '{value}' is no sha256"):
        load_bundle(folder)


def test_recorded_outputs_must_be_the_bytes_too(folder: Path, tmp_path: Path) -> None:
    """Another runtime, whose logits are a file: one last bit of one of 3,760 logits is exit code 1."""
    from mnist_edge.runtime.recorded import images_sha256

    images = load_bundle_images(folder)
    logits = integer_logits(read_integer_network(folder / "int8-exact.onnx"), images)
    digest = np.frombuffer(bytes.fromhex(images_sha256(images)), np.uint8)
    command = ("verify", folder, "--variant", "int8-exact", "--outputs", "logits.npz", "--max-accuracy-drop", "5")
    np.savez(tmp_path / "logits.npz", logits=logits, images_sha256=digest)
    done = in_process(*command, "--json", cwd=tmp_path)
    assert (done.code, done.json["variants"][0]["outputs_sha256"]) == (0, logits_sha256(logits))
    logits[100, 3] = np.nextafter(logits[100, 3], np.float32(np.inf))
    np.savez(tmp_path / "logits.npz", logits=logits, images_sha256=digest)
    done = in_process(*command, cwd=tmp_path)
    assert done.code == 1
    assert "logits are not the recorded bytes" in " ".join(done.out.split())
