"""`mnist-edge verify --target`: what it takes and what it says, with a target that needs no compiler."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from test_cli import in_process, one_line
from test_outputs_sha256 import folder, published, resign, without_trials  # noqa: F401

from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes, read_manifest
from mnist_edge.data.idx import idx_bytes
from mnist_edge.records.data import Dataset
from mnist_edge.records.verification import VariantParity
from mnist_edge.reporting.plots.margins import SHOWN


def test_a_figure_is_of_the_images_that_were_run(
    bundle_folder: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few images the numbers in the report are of these, and so are the images of the figure."""
    drawn: list[Any] = []

    def sheet(_v: list[VariantParity], numbers: list[int], images: np.ndarray, logits: np.ndarray, path: Path) -> Path:
        drawn.append((numbers, images, len(logits)))
        return path

    monkeypatch.setattr("mnist_edge.reporting.plots.margins.margin_sheet", sheet)
    options = ("--target", "triton", "--images", "20", "--plot", "margins.png")
    done = in_process("verify", bundle_folder, *options, cwd=tmp_path)
    assert done.code == 0, done.err
    ((numbers, images, logits),) = drawn
    assert (images == digits.test_images[:20][numbers]).all()
    assert logits == len(set(numbers)) == SHOWN
    assert "within the bound of the portability certificate" in " ".join(done.out.split())
    assert "no certificate" not in " ".join(done.out.split())


def test_a_missing_variant_that_export_can_make_is_hinted_at(bundle_folder: Path, tmp_path: Path) -> None:
    for command in (("verify", bundle_folder), ("export", "--bundle", bundle_folder)):
        done = in_process(*command, "--target", "c", "--variant", "int8-exact", cwd=tmp_path)
        assert done.code == 2
        assert f"export --run RUN --output {bundle_folder} --variant int8-exact adds it" in one_line(done.err)
    done = in_process("verify", bundle_folder, "--target", "c", "--variant", "int9", cwd=tmp_path)
    assert (done.code, "adds it" in done.err) == (2, False)


def test_a_failure_names_what_was_compared(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    resign(folder, "int8-exact", lambda variant: dataclasses.replace(variant, outputs_sha256=None))
    options = ("--target", "triton", "--variant", "int8-exact", "--images", "20")
    done = in_process("verify", folder, *options, cwd=tmp_path)
    assert done.code == 1
    assert "does not predict as its integers, computed in numpy: int8-exact: the manifest" in one_line(done.err)


def test_the_test_set_of_ones_own_digits_is_compared(bundle_folder: Path, digits: Dataset, tmp_path: Path) -> None:
    """A folder is not looked for by its name: `--dataset` gives it, and no other test set."""
    bundle, data = shutil.copytree(bundle_folder, tmp_path / "own"), tmp_path / "data"
    proto = onnx.load(bundle / "model.onnx")
    next(entry for entry in proto.metadata_props if entry.key == "mnist_edge.dataset").value = "folder"
    onnx.save(proto, bundle / "model.onnx")
    manifest = dataclasses.replace(read_manifest(bundle / MANIFEST), dataset="folder")
    (bundle / MANIFEST).write_bytes(manifest_bytes(manifest))
    resign(bundle, "fp32", lambda variant: variant)
    data.mkdir()
    (data / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(digits.test_images))
    (data / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(digits.test_labels))
    command = ("verify", bundle, "--target", "triton", "--dataset", data)
    done = in_process(*command, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert (done.json["test_set"], done.json["variants"][0]["images"]) == (True, 360)
    (data / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(digits.test_images[::-1].copy()))
    done = in_process(*command, cwd=tmp_path)
    assert (done.code, "holds another test set" in one_line(done.err)) == (2, True)
