"""The bundle: every byte is vouched for, and nothing in it is taken on trust."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.golden import GOLDEN, golden_bytes, golden_inputs, sha256_of_test_set
from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes
from mnist_edge.contract import Precision, RequirementKind
from mnist_edge.errors import BadFileError, UnavailableError, UsageError
from mnist_edge.files import sha256_bytes
from mnist_edge.records.bundle import Variant
from mnist_edge.records.data import Dataset
from mnist_edge.records.settings import SessionSettings

FILES = ("model.onnx", GOLDEN, MANIFEST)


def rewrite_bundle(
    source: Path,
    target: Path,
    *,
    model: bytes | None = None,
    precision: Precision = "fp32",
    requirement: RequirementKind | None = None,
    golden: bytes | None = None,
    **changes: Any,
) -> Path:
    """Copy a bundle with other content and every hash renewed: what no hash can tell from an honest one."""
    manifest = load_bundle(source).manifest
    shutil.copytree(source, target)
    if model is not None:
        (target / "model.onnx").write_bytes(model)
        (variant,) = manifest.variants
        kind = requirement or ("exact" if precision == "fp32" else "lossy")
        variant = dataclasses.replace(
            variant, precision=precision, requirement=kind, bytes=len(model), sha256=sha256_bytes(model), accuracy=None
        )
        manifest = dataclasses.replace(manifest, variants=(variant,))
    if golden is not None:
        (target / GOLDEN).write_bytes(golden)
        manifest = dataclasses.replace(manifest, golden_sha256=sha256_bytes(golden))
    (target / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, **changes)))
    return target


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle_folder, tmp_path / "digits")


@pytest.fixture(scope="module")
def shared_copy(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One copy for many small changes; whoever changes it puts it right again."""
    folder = shutil.copytree(bundle_folder, tmp_path_factory.mktemp("changed") / "digits")
    load_bundle(folder)
    yield folder
    load_bundle(folder)


@settings(max_examples=120, deadline=None)
@given(name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_changed_bit_anywhere_is_found_and_its_file_named(
    shared_copy: Path, name: str, where: float, bit: int
) -> None:
    """A copy damaged on its way is never run, and the user learns which file to copy again."""
    path = shared_copy / name
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[int(where * len(whole))] ^= 1 << bit
    path.write_bytes(changed)
    try:
        with pytest.raises(BadFileError) as caught:
            load_bundle(shared_copy)
    finally:
        path.write_bytes(whole)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("normalization", ["cut", "longer", "empty"])
def test_a_file_of_another_length_is_found(copy: Path, name: str, normalization: str) -> None:
    """A copy that was cut off, or that something was added to, does not load."""
    data = (copy / name).read_bytes()
    (copy / name).write_bytes({"cut": data[:-1], "longer": data + b"\n", "empty": b""}[normalization])
    with pytest.raises(BadFileError, match=name):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["model.onnx", GOLDEN])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    """Half a bundle is a damaged one."""
    (copy / name).unlink()
    with pytest.raises(BadFileError, match=name):
        load_bundle(copy)


def test_a_folder_without_manifest_is_no_bundle(copy: Path, tmp_path: Path) -> None:
    """A wrong path is told apart from a damaged bundle, and says what to do."""
    (copy / MANIFEST).unlink()
    for folder in (copy, tmp_path / "nowhere"):
        with pytest.raises(UnavailableError, match="no bundle") as caught:
            load_bundle(folder)
        assert "export" in caught.value.hint


@pytest.mark.parametrize("name", ["model.onnx", GOLDEN])
def test_a_symlink_is_refused_though_its_content_is_right(copy: Path, tmp_path: Path, name: str) -> None:
    """What a link points to can change after the check."""
    shutil.move(copy / name, tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadFileError, match=name):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["../secret.onnx", "{outside}", "sub/secret.onnx", "..", ".", "", "a\0b", "a" * 1000])
def test_a_file_name_never_leads_out_of_the_folder(bundle_folder: Path, tmp_path: Path, name: str) -> None:
    """A manifest with right hashes still cannot make us read another place."""
    data = (bundle_folder / "model.onnx").read_bytes()
    outside = tmp_path / "secret.onnx"
    outside.write_bytes(data)
    (variant,) = load_bundle(bundle_folder).manifest.variants
    variant = dataclasses.replace(variant, file=name.format(outside=outside))
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", variants=(variant,))
    (folder / "sub").mkdir()
    (folder / "sub" / "secret.onnx").write_bytes(data)
    with pytest.raises(BadFileError, match="not a plain file"):
        load_bundle(folder)


def sealed(content: dict[str, Any]) -> bytes:
    """A manifest's bytes with the sha256 that its content should have, whatever the content."""

    def dump(value: dict[str, Any]) -> bytes:
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

    return dump({**content, "sha256": sha256_bytes(dump(content))})


def test_a_manifest_of_another_schema_names_both(copy: Path) -> None:
    """A bundle of a later version is told as such, not as damage."""
    content = json.loads((copy / MANIFEST).read_text())
    del content["sha256"]
    assert sealed(content) == (copy / MANIFEST).read_bytes()  # the control: this is how a manifest is sealed
    (copy / MANIFEST).write_bytes(sealed({**content, "schema": "mnist-edge/bundle/99"}))
    with pytest.raises(BadFileError, match=r"bundle/99.*bundle/6"):
        load_bundle(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"opset": "many"}, {"dataset": "letters"}, {"variants": None}, {"labels": 3}, {"golden_sha256": None},
        {"variants": [{"name": "fp32"}]},
        {"variants": [{"name": "a", "precision": "fp64", "file": "model.onnx", "bytes": 1, "sha256": ""}]},
        {"accuracy": float("nan")}, {"accuracy": 1.0001}, {"accuracy": -0.1}, {"accuracy": 97.42},
        {"choice": "int3"}, {"choice": 3}, {"weights_sha256": ""}, {"weights_sha256": "no hash"}, {"weights_sha256": "0" * 63}, {"weights_sha256": "0" * 64 + "\n"}, {"parity": {}}, {"parity": {"variants": [3]}},
    ],
)  # fmt: skip
def test_a_sealed_manifest_with_wrong_fields_names_the_field(copy: Path, change: dict[str, Any]) -> None:
    """A right hash over wrong content is not enough."""
    content = json.loads((copy / MANIFEST).read_text()) | change
    del content["sha256"]
    (copy / MANIFEST).write_bytes(sealed(content))
    with pytest.raises(BadFileError, match=f"{MANIFEST}: {next(iter(change))}"):
        load_bundle(copy)


@pytest.mark.parametrize("drop", [float("nan"), -0.01, 1.5, 5.0])
def test_a_sealed_manifest_allows_no_impossible_loss_of_accuracy(copy: Path, drop: float) -> None:
    """NaN is exceeded by no loss: export would keep, and bench accept, whatever the variant predicts."""
    content = json.loads((copy / MANIFEST).read_text())
    content["variants"][0] |= {"requirement": "lossy", "max_accuracy_drop": drop}
    del content["sha256"]
    (copy / MANIFEST).write_bytes(sealed(content))
    with pytest.raises(BadFileError, match="max_accuracy_drop"):
        load_bundle(copy)


@pytest.mark.parametrize(
    "data",
    [
        b"[]", b'"text"', b"3", b"null", b"{}", b"\xff\xfe", b'{"schema": 1}', b"[" * 100_000,
        b'{"schema": "mnist-edge/bundle/6", "sha256": "x", "dataset": "\\ud800"}',
        b'{"schema": "mnist-edge/bundle/6", "sha256": ["x"], "dataset": NaN}',
    ],
    ids=lambda data: data[:12].decode("latin1") + data[-8:].decode("latin1"),
)  # fmt: skip
def test_any_text_in_place_of_the_manifest_is_a_bad_file(copy: Path, data: bytes) -> None:
    """Whatever JSON, or no JSON, lies there: one error that names the file."""
    (copy / MANIFEST).write_bytes(data)
    with pytest.raises(BadFileError, match=MANIFEST):
        load_bundle(copy)


def with_variants(*changes: dict[str, Any]) -> Callable[[Variant], tuple[Variant, ...]]:
    return lambda first: (first, *(dataclasses.replace(first, **change) for change in changes))


@pytest.mark.parametrize(
    ("changes", "piece"),
    [
        ([{"name": "Int8", "file": "b"}], "'Int8' is no name"),
        ([{"name": "pytorch", "file": "b"}], "'pytorch' is no name"),
        ([{"name": "../b", "file": "b"}], "is no name"),
        ([{"name": "b"}], "its file 'model.onnx', is taken"),
        ([{"file": "b"}], "fp32: its name"),
        ([{"name": "b", "file": GOLDEN}], "is taken"),
        ([{"name": "b", "file": MANIFEST}], "is taken"),
        ([{"name": "b", "file": "b", "reference": "c"}], "its reference 'c' is no variant before it"),
        ([{"name": "b", "file": "b", "reference": "b"}], "its reference 'b' is no variant before it"),
        ([{"name": "b", "file": "b", "requirement": "none"}], "requirement"),
        ([{"name": "b", "file": "b", "precision": "fp8"}], "precision"),
        ([{"name": "b", "file": "b", "format": "pickle"}], "format"),
        ([{"name": "b", "file": "b", "passed": False}], "b: it did not pass"),
        ([{"name": "b", "file": "b", "accuracy": 1.01}], "b: accuracy: 1.01 is no fraction of 1"),
        ([{"name": "b", "file": "b", "selection_accuracy": -0.1}], "b: selection_accuracy: -0.1 is no fraction of 1"),
        ([{"name": "b", "file": "b", "temperature": 0.0}], "b: temperature: 0.0 is no finite number above 0"),
        ([{"name": "b", "file": "b", "temperature": float("nan")}], "b: temperature: nan is no finite number"),
        ([{"name": "b", "file": "b", "temperature": float("inf")}], "b: temperature: inf is no finite number"),
        ([{"name": "b", "file": "b", "flips": -1}], "b: flips: -1 is no count"),
        ([{"name": "b", "file": "b", "settings": SessionSettings(threads=0)}], "b: settings: threads: 0 is not 1 to"),
        ([{"name": "b", "file": "b", "settings": SessionSettings(threads=10**9)}], "threads: 1000000000 is not 1 to"),
    ],
)
def test_variants_have_names_files_and_references_of_their_own(
    changes: list[dict[str, Any]], piece: str, bundle_folder: Path, tmp_path: Path
) -> None:
    """A name selects one model, and what a variant is compared with exists and is checked before it."""
    (first,) = load_bundle(bundle_folder).manifest.variants
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", variants=with_variants(*changes)(first))
    with pytest.raises(BadFileError, match=re.escape(piece)):
        load_bundle(folder)


@pytest.mark.parametrize("schema", ["mnist-edge/bundle/1", "mnist-edge/bundle/3", "mnist-edge/bundle/5"])
@pytest.mark.parametrize("run", [False, True])
def test_an_older_bundle_names_the_command_that_exports_it_again(
    schema: str, run: bool, copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command works as printed where the run lies in its default folder."""
    monkeypatch.chdir(tmp_path)
    if run:
        (tmp_path / "runs" / "digits").mkdir(parents=True)
        (tmp_path / "runs" / "digits" / "last.safetensors").touch()
    content = json.loads((copy / MANIFEST).read_text())
    del content["sha256"]
    (copy / MANIFEST).write_bytes(sealed({**content, "schema": schema}))
    with pytest.raises(BadFileError, match=f"{schema}.*bundle/6") as caught:
        load_bundle(copy)
    assert caught.value.hint == f"mnist-edge export --run {'runs/digits' if run else 'RUN'} --output {copy}"


@pytest.mark.parametrize("kind", ["file", "hidden file", "folder", "link", "weights beside the model"])
def test_a_file_that_the_manifest_does_not_name_is_refused(kind: str, copy: Path) -> None:
    """A file without a hash may take part in inference: external data, a sidecar that a runtime reads."""
    name = {"hidden file": ".hidden", "weights beside the model": "model.onnx.data"}.get(kind, "more")
    if kind == "folder":
        (copy / name).mkdir()
    elif kind == "link":
        (copy / name).symlink_to("model.onnx")
    else:
        (copy / name).write_bytes(b"")
    with pytest.raises(BadFileError, match=re.escape(f"{copy / name} is not named in {MANIFEST}")):
        load_bundle(copy)


def test_a_sparse_model_is_refused_before_it_is_hashed(copy: Path) -> None:
    """A file of a terabyte that takes no space on the disk would be hashed for an hour."""
    os.truncate(copy / "model.onnx", 2**40)
    with pytest.raises(BadFileError, match=r"model\.onnx was changed"):
        load_bundle(copy)
    os.truncate(copy / MANIFEST, 2**40)
    with pytest.raises(BadFileError, match="more than a manifest can have"):
        load_bundle(copy)


def test_variants_are_selected_by_name(two_variant_bundle: Path) -> None:
    """In the order of the manifest, each once; an unknown name lists the known ones."""
    bundle = load_bundle(two_variant_bundle)
    assert [variant.name for variant in bundle.select()] == ["fp32", "int8"]
    assert [variant.name for variant in bundle.select(["int8", "fp32", "int8"])] == ["fp32", "int8"]
    assert bundle.variant("int8").precision == "int8"
    with pytest.raises(UsageError, match="no variant 'int4'; it has fp32, int8"):
        bundle.select(["fp32", "int4"])


def packed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def other_golden(bundle_folder: Path, **changes: Any) -> bytes:
    golden = load_bundle(bundle_folder).golden
    arrays = {field.name: getattr(golden, field.name) for field in dataclasses.fields(golden)} | changes
    return packed(**{name: value for name, value in arrays.items() if value is not None})


@pytest.mark.parametrize(
    "change",
    [
        {"logits": None},
        {"logits": np.zeros((3, 10), np.float32)},
        {"logits": np.full((376, 10), np.nan, np.float32)},
        {"test_logits": np.full((360, 10), np.inf, np.float32)},
        {"test_logits": np.zeros((0, 10), np.float32)},
        {"images": np.zeros((376, 28, 28), np.float32)},
        {"images": np.uint8(3)},
        {"images": np.zeros((0, 28, 28), np.uint8), "labels": np.zeros(0, np.uint8)},
        {"labels": np.zeros((376, 1), np.uint8)},
        {"test_sha256": np.zeros(31, np.uint8)},
        {"weights_sha256": np.zeros(33, np.uint8)},
        {"weights_sha256": None},
        {"layer_rows": np.zeros(0, np.int64)},
        {"layer_rows": np.zeros((48, 1), np.int64)},
        {"layer_rows": np.full(48, 376)},
        {"layer_rows": np.full(48, -1)},
        {"layer_widths": np.array([48, 32, 11])},
        {"layer_widths": np.array([48, 32, -10, 20])},
        {"layer_widths": np.array([90.0])},
        {"pre_activations": np.zeros((47, 90), np.float32)},
        {"pre_activations": np.full((48, 90), np.inf, np.float32)},
        {"pre_activations": None},
        {"layer_widths": np.array([48, 31, 11])},
    ],
    ids=str,
)
def test_a_golden_file_of_another_form_is_refused(bundle_folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    """Missing, empty, misshapen or NaN answers can prove nothing, though their hash is right."""
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", golden=other_golden(bundle_folder, **change))
    with pytest.raises(BadFileError, match=GOLDEN):
        load_bundle(folder)


def test_a_golden_file_that_unpacks_to_more_than_it_holds_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    """40 MB of zeros in 40 kB: refused by the declared sizes, before memory is taken; 4 MB are a small test set."""
    for images, whole in ((1_000_000, False), (100_000, True)):
        logits = np.zeros((images, 10), np.float32)
        data = other_golden(bundle_folder, test_logits=logits)
        folder = rewrite_bundle(bundle_folder, tmp_path / str(images), golden=data)
        if whole:
            load_bundle(folder)
            continue
        with pytest.raises(BadFileError, match=r"declares .* bytes of arrays in a file of"):
            load_bundle(folder)


@pytest.mark.parametrize("text", [b"", b"no array", b"\x93NUMPY", b"\x93NUMPY\x09\x00"])
def test_a_golden_member_that_is_no_array_is_refused(text: bytes, bundle_folder: Path, tmp_path: Path) -> None:
    """A text in place of an array is a bad file, and no bug of ours."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(bundle_folder / GOLDEN) as archive, zipfile.ZipFile(buffer, "w") as other:
        for name in archive.namelist():
            other.writestr(name, text if name == "labels.npy" else archive.read(name))
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", golden=buffer.getvalue())
    with pytest.raises(BadFileError, match=f"{GOLDEN} is not a golden file"):
        load_bundle(folder)


@pytest.mark.parametrize(("label", "whole"), [(9, True), (10, False), (254, False), (255, True)])
def test_a_golden_label_is_a_class_or_none(label: int, whole: bool, bundle_folder: Path, tmp_path: Path) -> None:
    """255 is no label; what lies between is damage, and would count as a wrong decision of any model."""
    labels = load_bundle(bundle_folder).golden.labels.copy()
    labels[5] = label
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", golden=other_golden(bundle_folder, labels=labels))
    if whole:
        assert load_bundle(folder).golden.labels[5] == label
        return
    with pytest.raises(BadFileError, match=f"{GOLDEN}: labels: {label} is no class: expected 0 to 9, or 255"):
        load_bundle(folder)


@pytest.mark.parametrize(("factor", "whole"), [(1 + 1e-6, True), (1 + 2e-4, False), (1.01, False)])
@pytest.mark.parametrize("row", [0, 47])
def test_the_last_sums_of_a_golden_file_are_its_logits(
    factor: float, whole: bool, row: int, bundle_folder: Path, tmp_path: Path
) -> None:
    """The same figures are kept twice; a file in which they differ by more than rounding was made by nobody's export."""
    sums = load_bundle(bundle_folder).golden.pre_activations.copy()
    sums[row, -10:] *= np.float32(factor)
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", golden=other_golden(bundle_folder, pre_activations=sums))
    if whole:
        load_bundle(folder)
        return
    with pytest.raises(BadFileError, match=f"{GOLDEN}: pre_activations: the last layer's are not its logits"):
        load_bundle(folder)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_in_the_golden_file_never_runs(bundle_folder: Path, tmp_path: Path) -> None:
    """An array of objects is code; a bundle from a stranger must not run any."""
    mark = tmp_path / "ran"
    payload = np.array([Payload(mark)], dtype=object)
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", golden=other_golden(bundle_folder, labels=payload))
    with pytest.raises(BadFileError, match=GOLDEN):
        load_bundle(folder)
    assert not mark.exists()
    pickle.loads(pickle.dumps(payload))
    assert mark.exists()  # the payload itself works


@settings(max_examples=150, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_damaged_golden_file_under_a_right_hash_is_a_bad_file_or_harmless(
    bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory, where: float, bit: int
) -> None:
    """Whatever the decompressor makes of it, the user gets an error that names the file."""
    data = bytearray((bundle_folder / GOLDEN).read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    folder = rewrite_bundle(bundle_folder, tmp_path_factory.mktemp("golden") / "b", golden=bytes(data))
    try:
        load_bundle(folder)
    except BadFileError as error:
        assert GOLDEN in error.message  # noqa: PT017 - it may also load


def test_what_was_written_is_what_is_read(bundle_folder: Path, digits: Dataset) -> None:
    """Both records survive the way to disk and back, byte for byte, at another time of day."""
    bundle = load_bundle(bundle_folder)
    assert manifest_bytes(bundle.manifest) == (bundle_folder / MANIFEST).read_bytes()
    assert golden_bytes(bundle.golden) == (bundle_folder / GOLDEN).read_bytes()
    with zipfile.ZipFile(bundle_folder / GOLDEN) as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}  # no clock in the bytes
    assert np.array_equal(bundle.golden.images[:360], digits.test_images)
    assert np.array_equal(bundle.golden.labels[:360], digits.test_labels)
    (variant,) = bundle.manifest.variants
    assert bundle.file(variant).stat().st_size == variant.bytes


def test_golden_inputs_hold_black_white_and_noise_without_labels() -> None:
    """The first 1,024 test images, then inputs that no dataset has; the same ones every time."""
    images = np.arange(2000 * 784, dtype=np.uint64).astype(np.uint8).reshape(2000, 28, 28)
    labels = (np.arange(2000) % 10).astype(np.uint8)
    chosen, told = golden_inputs(images, labels)
    assert chosen.shape == (1024 + 2 + 14, 28, 28)
    assert np.array_equal(chosen[:1024], images[:1024])
    assert np.array_equal(told[:1024], labels[:1024])
    assert (chosen[1024].max(), chosen[1025].min()) == (0, 255)
    assert set(told[1024:].tolist()) == {255}
    assert np.array_equal(golden_inputs(images, labels)[0], chosen)


def test_the_hash_of_a_test_set_tells_images_and_labels_apart(digits: Dataset) -> None:
    """Recorded answers are only compared on exactly the images that they were given for."""
    known = sha256_of_test_set(digits.test_images, digits.test_labels)
    changed = digits.test_images.copy()
    changed[0, 0, 0] ^= 1
    assert not np.array_equal(sha256_of_test_set(changed, digits.test_labels), known)
    assert not np.array_equal(sha256_of_test_set(digits.test_images, digits.test_labels[::-1]), known)
    assert np.array_equal(sha256_of_test_set(np.asfortranarray(digits.test_images), digits.test_labels), known)
