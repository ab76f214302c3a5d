"""`mnist-edge verify BUNDLE --outputs logits.npz`: the logits of any runtime, proven by the same code."""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_cli import in_process, one_line

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.files import sha256_bytes
from mnist_edge.records.data import Dataset
from mnist_edge.runtime.classifier import open_classifier

Images = NDArray[np.uint8]


def digest(images: Images) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(sha256_bytes(images.tobytes())), np.uint8)


@pytest.fixture(scope="module")
def sets(bundle_folder: Path, digits: Dataset) -> dict[str, Images]:
    """The images that a file of logits may be for."""
    golden = load_bundle(bundle_folder).golden.images
    return {"golden": golden, "test": digits.test_images, "both": np.concatenate([golden, digits.test_images])}


@pytest.fixture(scope="module")
def run(bundle_folder: Path, sets: dict[str, Images]) -> dict[str, NDArray[np.float32]]:
    """onnxruntime's own logits for each."""
    classifier = open_classifier(bundle_folder / "model.onnx")
    return {name: classifier.logits(images) for name, images in sets.items()}


def changed(logits: NDArray[np.float32], row: int) -> NDArray[np.float32]:
    """The same with one other prediction."""
    logits = logits.copy()
    logits[row] = np.roll(logits[row], 1)
    return logits


@pytest.mark.parametrize(
    ("name", "images", "test_set"), [("golden", 376, False), ("test", 360, True), ("both", 360, True)]
)
def test_onnxruntimes_own_logits_pass_and_one_changed_prediction_fails(
    name: str, images: int, test_set: bool, bundle_folder: Path, sets: Any, run: Any, tmp_path: Path
) -> None:
    """The report names what was compared; whichever image it is in, one changed prediction ends with 1."""
    np.savez(tmp_path / "logits.npz", logits=run[name], images_sha256=digest(sets[name]))
    done = in_process("verify", bundle_folder, "--outputs", "logits.npz", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = done.json
    assert (report["passed"], report["outputs"], report["settings"]) == (True, "logits.npz", None)
    assert report["test_set"] is test_set
    (row,) = report["variants"]
    assert (row["name"], row["images"], row["flips"], row["batches"]) == ("fp32", images, 0, [])
    for place in (0, len(run[name]) - 1):
        np.savez(tmp_path / "one.npz", logits=changed(run[name], place), images_sha256=digest(sets[name]))
        done = in_process("verify", bundle_folder, "--outputs", "one.npz", "--json", cwd=tmp_path)
        assert (done.code, done.json["passed"]) == (1, False)
        assert "one.npz does not predict as PyTorch's outputs in golden.npz" in done.err


def test_what_a_file_does_not_cover_is_reported(bundle_folder: Path, sets: Any, run: Any, tmp_path: Path) -> None:
    """Logits for the golden images alone are compared alone, and both the line and the table say so."""
    np.savez_compressed(tmp_path / "logits.npz", logits=run["golden"], images_sha256=digest(sets["golden"]))
    done = in_process("verify", bundle_folder, "--outputs", "logits.npz", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.err.splitlines()[0] == "logits.npz holds no logits for the test images"
    assert "only the golden inputs were compared, not the test set of digits" in done.out
    assert "compared with PyTorch's outputs in golden.npz, outputs in logits.npz" in done.out
    assert "run at batch" not in done.out


def test_the_variant_says_what_the_outputs_owe(two_variant_bundle: Path, sets: Any, tmp_path: Path) -> None:
    """int8 logits are lossy and pass as such; as fp32, the default, they fail."""
    logits = open_classifier(two_variant_bundle / "int8.onnx").logits(sets["both"])
    np.savez(tmp_path / "logits.npz", logits=logits, images_sha256=digest(sets["both"]))
    command = ("verify", two_variant_bundle, "--outputs", "logits.npz", "--max-accuracy-drop", "5", "--json")
    done = in_process(*command, "--variant", "int8", cwd=tmp_path)
    assert (done.code, [row["name"] for row in done.json["variants"]]) == (0, ["int8"]), done.err
    done = in_process(*command, cwd=tmp_path)
    assert (done.code, [row["name"] for row in done.json["variants"]]) == (1, ["fp32"])
    done = in_process(*command, "--variant", "int8", "--variant", "fp32", cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (2, "usage")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_fail_the_check(
    value: float, bundle_folder: Path, sets: Any, run: Any, tmp_path: Path
) -> None:
    """The file is a file of logits; the runtime that wrote it is wrong."""
    logits = run["both"].copy()
    logits[400, 2] = value
    np.savez(tmp_path / "logits.npz", logits=logits, images_sha256=digest(sets["both"]))
    done = in_process("verify", bundle_folder, "--outputs", "logits.npz", "--json", cwd=tmp_path)
    assert (done.code, done.json["variants"][0]["passed"]) == (1, False)
    assert "the logits of image 24 are NaN or infinite" in done.json["variants"][0]["reason"]


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.dumps, (1,)


def sealed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def bomb() -> bytes:
    """160 kB that unpack to 160 MB."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, logits=np.zeros((4_000_000, 10), np.float32), images_sha256=np.zeros(32, np.uint8))
    return buffer.getvalue()


def header_that_lies(shape: str) -> bytes:
    """A member whose header declares more rows than it holds."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("logits.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        digest = io.BytesIO()
        np.save(digest, np.zeros(32, np.uint8))
        archive.writestr("images_sha256.npy", digest.getvalue())
    return buffer.getvalue()


LOGITS, NOBODY = np.zeros((5, 10), np.float32), np.zeros(32, np.uint8)


@pytest.mark.parametrize(
    ("data", "piece"),
    [
        (b"no archive", "is not a file of logits"),
        (sealed(logits=LOGITS), "is not a file of logits"),
        (sealed(logits=LOGITS, images_sha256=NOBODY), "not that of the 376 golden images or the 360 test images"),
        (sealed(logits=LOGITS.astype(np.float64), images_sha256=NOBODY), "logits is float64 (5, 10), expected float32 (n, 10)"),
        (sealed(logits=LOGITS[:, :9], images_sha256=NOBODY), "logits is float32 (5, 9), expected float32 (n, 10)"),
        (sealed(logits=LOGITS[0], images_sha256=NOBODY), "logits is float32 (10,), expected float32 (n, 10)"),
        (sealed(logits=LOGITS[:0], images_sha256=NOBODY), "logits is float32 (0, 10)"),
        (sealed(logits=LOGITS, images_sha256=NOBODY[:31]), "images_sha256 is uint8 (31,), expected uint8 (32,)"),
        (sealed(logits=np.array([Payload()]), images_sha256=NOBODY), "logits is object (1,)"),
        (bomb(), "declares 160,000,288 bytes of arrays in a file of"),
        (header_that_lies("(99999999999, 10)"), "declares (99999999999, 10) and holds"),
        (header_that_lies("(" + "9" * 30 + ", 10)"), "logits"),
        (header_that_lies("[" * 50), "is not a file of logits"),
    ],
    ids=[
        "no archive", "no hash", "other images", "double", "nine classes", "one image", "no image", "short hash", "pickle",
        "zip bomb", "more rows than bytes", "rows beyond int64", "broken header",
    ],
)  # fmt: skip
def test_a_file_that_is_no_file_of_logits_is_3_with_what_was_expected(
    data: bytes, piece: str, bundle_folder: Path, tmp_path: Path
) -> None:
    """Nothing is unpickled, nothing is unpacked that the file cannot hold; the line says how such a file is written."""
    (tmp_path / "logits.npz").write_bytes(data)
    done = in_process("verify", bundle_folder, "--outputs", "logits.npz", "--json", cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (3, "bad-file"), done.err
    line = one_line(done.err)
    assert piece in line
    assert "images_sha256 uint8 (32,)" in line


def test_the_count_of_logits_is_that_of_the_images(bundle_folder: Path, sets: Any, run: Any, tmp_path: Path) -> None:
    """A right hash over too few logits is no match."""
    np.savez(tmp_path / "logits.npz", logits=run["both"][:-1], images_sha256=digest(sets["both"]))
    done = in_process("verify", bundle_folder, "--outputs", "logits.npz", cwd=tmp_path)
    assert done.code == 3
    assert "logits are for 735 images, images_sha256 for 736" in one_line(done.err)


@pytest.mark.parametrize(("name", "code"), [("fifo", 3), ("folder", 3), ("gone", 4)])
def test_what_is_no_regular_file_is_refused(name: str, code: int, bundle_folder: Path, tmp_path: Path) -> None:
    """A pipe would wait for ever."""
    if name == "fifo":
        os.mkfifo(tmp_path / name)
    elif name == "folder":
        (tmp_path / name).mkdir()
    done = in_process("verify", bundle_folder, "--outputs", name, cwd=tmp_path)
    assert done.code == code
    assert name in one_line(done.err)


@pytest.mark.parametrize(
    "option", [("--layers",), ("--batch", "5"), ("--threads", "2"), ("--provider", "cuda")], ids=str
)
def test_options_of_a_run_are_refused(option: tuple[str, ...], bundle_folder: Path, tmp_path: Path) -> None:
    """Nothing is run: an option that would do nothing is a mistake."""
    done = in_process("verify", bundle_folder, "--outputs", "logits.npz", *option, cwd=tmp_path)
    assert done.code == 2
    assert f"{option[0]} has no effect on recorded outputs" in one_line(done.err)


def test_recorded_outputs_need_no_onnxruntime(
    bundle_folder: Path, sets: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another runtime may be all that a machine has."""
    np.savez(tmp_path / "logits.npz", logits=run["both"], images_sha256=digest(sets["both"]))
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"] or ["onnxruntime"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("mnist_edge.runtime.session.installed_wheels", dict)
    assert in_process("verify", bundle_folder, cwd=tmp_path).code == 4
    done = in_process("verify", bundle_folder, "--outputs", "logits.npz", cwd=tmp_path)
    assert done.code == 0, done.err
