"""The Python API: light to import, typed, and the same predictions as onnxruntime and as another language."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from scipy.special import softmax
from test_isolation import HEAVY, WORKSHOP, imported
from test_onnxruntime_web import installed

import mnist_edge
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.records.data import Dataset
from mnist_edge.targets.web.onnxruntime_web import find_package

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_importing_the_package_loads_nothing_heavy(bundle_folder: Path, tmp_path: Path) -> None:
    """A program that imports it pays for what it uses; predicting needs no PyTorch."""
    assert imported("-c", "import mnist_edge; dir(mnist_edge)", cwd=tmp_path) & (HEAVY | {"pydantic"}) == set()
    script = f"import mnist_edge, numpy; mnist_edge.load({str(bundle_folder)!r}).predict(numpy.zeros((28, 28), 'u1'))"
    found = imported("-c", script, cwd=tmp_path)
    assert "onnxruntime" in found
    assert found & (WORKSHOP - {"onnx"}) == set()


def test_every_name_of_the_api_is_there_and_documented() -> None:
    """A name that cannot be imported would be found by a user first."""
    for name in mnist_edge.__all__:
        assert getattr(mnist_edge, name) is not None
        assert name in dir(mnist_edge)
        assert name.startswith("__") or getattr(mnist_edge, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'prove'"):
        mnist_edge.prove  # noqa: B018
    table = PAGE.split("| function |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:])))
    assert named == {name for name in mnist_edge.__all__ if name.islower() and not name.startswith("__")}


def test_predictions_are_those_of_the_recorded_outputs(two_variant_bundle: Path) -> None:
    """Labels, logits and probabilities agree with PyTorch's logits and with scipy's softmax."""
    model = mnist_edge.load(two_variant_bundle)
    golden = load_bundle(two_variant_bundle).golden
    found = model.predict(golden.images)
    np.testing.assert_allclose(found.logits, golden.logits, atol=1e-3)
    assert found.logits.dtype == np.float32
    np.testing.assert_array_equal(found.labels, golden.logits.argmax(axis=1))
    expected = softmax(found.logits.astype(np.float64) / (model.variant.temperature or 1), axis=1)
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-12)
    assert model.labels == tuple("0123456789")
    other = mnist_edge.load(str(two_variant_bundle), "int8", provider="cpu")
    assert other.variant.precision == "int8"
    assert not np.array_equal(other.predict(golden.images).logits, found.logits)


def test_one_image_none_and_many(bundle_folder: Path, digits: Dataset) -> None:
    """An image without a batch axis is one row; no image is no row; more than a run takes are cut into runs."""
    model = mnist_edge.load(bundle_folder)
    many = model.predict(np.tile(digits.test_images, (4, 1, 1)))
    assert many.logits.shape == (1440, 10)
    one = model.predict(digits.test_images[0])
    assert (one.labels.shape, one.probabilities.shape) == ((1,), (1, 10))
    np.testing.assert_allclose(one.logits[0], many.logits[-360], atol=1e-4)
    none = model.predict(digits.test_images[:0])
    assert (none.labels.shape, none.probabilities.shape, none.logits.shape) == ((0,), (0, 10), (0, 10))


@pytest.mark.parametrize(
    "images",
    [np.zeros((3, 28, 28)), np.zeros((3, 784), np.uint8), np.zeros((1, 1, 28, 28), np.uint8), np.zeros(28, np.uint8)],
    ids=["floats", "flat", "channels", "row"],
)
def test_images_of_another_form_are_refused(images: np.ndarray, bundle_folder: Path) -> None:
    """Floats of 0 to 1 would be nearly black images, and a prediction all the same."""
    with pytest.raises(mnist_edge.MnistEdgeError, match="expected uint8") as caught:
        mnist_edge.load(bundle_folder).predict(images)
    assert caught.value.exit_code == 2


def test_verify_checks_the_signature_first(bundle_folder: Path, tmp_path: Path) -> None:
    """A missing signature is an error, as on the command line; strings are paths."""
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "k.pem"], cwd=tmp_path, check=True
    )
    subprocess.run(["openssl", "pkey", "-in", "k.pem", "-pubout", "-out", "p.pem"], cwd=tmp_path, check=True)
    with pytest.raises(mnist_edge.MnistEdgeError, match="is not signed"):
        mnist_edge.verify(str(bundle_folder), key=str(tmp_path / "p.pem"), signature=str(tmp_path / "no.sig"))
    signed = mnist_edge.sign(str(bundle_folder), key=str(tmp_path / "k.pem"), output=str(tmp_path / "b.sig"))
    report = mnist_edge.verify(bundle_folder, key=tmp_path / "p.pem", signature=signed.signature, batches=(5,))
    assert report.passed
    assert 5 in report.variants[0].batches


@pytest.mark.slow
def test_the_examples_pass_a_strict_type_check(tmp_path: Path) -> None:
    """With the installed types; and the check sees a misspelt name."""
    for number, content in enumerate([*examples("python"), "import mnist_edge\nmnist_edge.prove()\n"]):
        (tmp_path / f"example_{number}.py").write_text(content)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--cache-dir", tmp_path / "cache"]
    environment = {**os.environ, "MYPYPATH": str(ROOT / "toolkit")}
    done = subprocess.run(
        [*command, *sorted(tmp_path.glob("*.py"))], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if line.startswith("example_")]
    assert len(errors) == 1, done.stdout
    assert 'has no attribute "prove"' in errors[0]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("node") is None or not installed(), reason="needs node and onnxruntime-web: make runtimes"
)
def test_the_program_for_node_predicts_the_same(two_variant_bundle: Path, tmp_path: Path) -> None:
    """The function of the page as it stands, on the golden images of both variants."""
    (program,) = examples("js")
    (tmp_path / "predict.js").write_text(program)
    (tmp_path / "run.js").write_text(
        """
const fs = require("fs");
const [, , model, images, output] = process.argv;
require("./predict.js").predict(model, new Uint8Array(fs.readFileSync(images))).then((logits) => {
  fs.writeFileSync(output, Buffer.from(logits.buffer, logits.byteOffset, logits.byteLength));
});
"""
    )
    bundle = load_bundle(two_variant_bundle)
    bundle.golden.images.tofile(tmp_path / "images")
    for variant in bundle.manifest.variants:
        words = ["run.js", str(bundle.file(variant)), "images", "logits"]
        environment = {**os.environ, "NODE_PATH": str(find_package().parent)}
        subprocess.run(["node", *words], cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=100)
        found = np.fromfile(tmp_path / "logits", np.float32).reshape(-1, 10)
        expected = mnist_edge.load(two_variant_bundle, variant.name).predict(bundle.golden.images)
        assert len(found) == len(bundle.golden.images)
        np.testing.assert_allclose(found, expected.logits, atol=1e-4)
