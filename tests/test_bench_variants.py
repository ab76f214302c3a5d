"""A bundle of several variants: each is timed, PyTorch once beside all of them."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import onnx
import pytest
from test_bench import plan, speeds
from test_cli import in_process, one_line

from mnist_edge.benchmarking import plan as plans
from mnist_edge.benchmarking.plan import resolve_plan
from mnist_edge.benchmarking.rounds import bench
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes
from mnist_edge.errors import CheckFailedError
from mnist_edge.files import sha256_bytes
from mnist_edge.records.benchmark import OutputRequirement, Scenario


def file_of(folder: Path, name: str) -> str:
    """The file of a variant."""
    return load_bundle(folder).variant(name).file


def without_fp32(source: Path, target: Path) -> Path:
    """Copy a bundle of fp32 and int8 without the former."""
    manifest = load_bundle(source).manifest
    shutil.copytree(source, target)
    fp32, int8 = manifest.variants
    (target / fp32.file).unlink()
    int8 = dataclasses.replace(int8, reference="pytorch")
    (target / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, variants=(int8,))))
    return target


def test_pytorch_is_timed_once_beside_all_variants(two_variant_bundle: Path) -> None:
    """Once per batch, thread count and scenario, with the weights of the fp32 variant."""
    found = resolve_plan(plan(two_variant_bundle, batches=(1, 64), threads=(1, 2))).candidates
    assert len(set(found)) == len(found) == 12
    counts = Counter((one.engine, one.variant, one.requirement.kind, one.file.name) for one in found)
    assert counts == {
        ("onnxruntime", "fp32", "exact", "model.onnx"): 4,
        ("onnxruntime", "int8", "lossy", file_of(two_variant_bundle, "int8")): 4,
        ("torch", "fp32", "exact", "model.onnx"): 4,
    }


def test_every_variant_has_a_ratio_to_the_one_baseline(
    two_variant_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are compared with the same PyTorch row."""
    tasks = speeds(monkeypatch, lambda turn: {0: 100.0}.get(turn, 100.0))
    rows = bench(plan(two_variant_bundle, rounds=2)).results
    assert [(row.engine, row.variant, row.ratio_to_torch) for row in rows] == [
        ("onnxruntime", "fp32", 1), ("onnxruntime", "int8", 1), ("torch", "fp32", 1),
    ]  # fmt: skip
    assert {task.requirement for task in tasks if task.model.endswith(file_of(two_variant_bundle, "int8"))} == {
        OutputRequirement(kind="lossy", precision="int8", max_accuracy_drop=0.05)
    }


@pytest.mark.parametrize(
    ("asked", "timed"),
    [(("int8",), {"int8"}), (("fp32", "int8"), {"fp32", "int8"}), (("int8", "int8"), {"int8"}), ((), {"fp32", "int8"})],
    ids=["one", "both", "one twice", "none named"],
)
def test_variant_selects_and_the_baseline_stays(
    asked: tuple[str, ...], timed: set[str], two_variant_bundle: Path
) -> None:
    """int8 alone still stands beside PyTorch in fp32: that is what a user would run instead."""
    found = resolve_plan(plan(two_variant_bundle, variants=asked))
    assert {one.variant for one in found.candidates if one.engine == "onnxruntime"} == timed
    assert [one.variant for one in found.candidates if one.engine == "torch"] == ["fp32"]
    assert found.notes == ()


def test_a_bundle_without_weights_that_pytorch_can_read_has_no_baseline(
    two_variant_bundle: Path, tmp_path: Path
) -> None:
    """int8 alone is timed, and a note says why there is no ratio."""
    found = resolve_plan(plan(without_fp32(two_variant_bundle, tmp_path / "b")))
    assert [(one.engine, one.variant) for one in found.candidates] == [("onnxruntime", "int8")]
    assert "no fp32 variant whose weights PyTorch can read" in found.notes[0]


@pytest.mark.parametrize("model", ["bundle", "file"])
def test_an_unknown_variant_is_wrong_usage(model: str, two_variant_bundle: Path, tmp_path: Path) -> None:
    """Exit 2 names those that there are; a single file has none."""
    target = two_variant_bundle if model == "bundle" else two_variant_bundle / "model.onnx"
    done = in_process("bench", target, "--variant", "int4", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert ("fp32, int8" if model == "bundle" else "leave --variant out") in one_line(done.err)


def test_both_variants_are_timed_for_real(two_variant_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each passes its own check of outputs; without PyTorch there is no ratio."""
    monkeypatch.setattr(plans, "find_spec", lambda _name: None)
    rows = bench(plan(two_variant_bundle, batches=(64,), scenario=Scenario(seconds=0.02))).results
    assert [(row.engine, row.variant, row.ratio_to_torch) for row in rows] == [
        ("onnxruntime", "fp32", None), ("onnxruntime", "int8", None),
    ]  # fmt: skip
    assert all("predictions checked against golden.npz" in row.outputs for row in rows)


def test_a_lossy_variant_that_is_wrong_has_no_timing(two_variant_bundle: Path, tmp_path: Path) -> None:
    """The fp32 model with its classes moved by one, under the name int8: exit 1, whatever its precision allows."""
    folder = shutil.copytree(two_variant_bundle, tmp_path / "b")
    proto = onnx.load(folder / "model.onnx")
    bias = next(value for value in proto.graph.initializer if value.name == "layers.4.bias")
    array = onnx.numpy_helper.to_array(bias).copy()
    array[3] += 100
    bias.CopyFrom(onnx.numpy_helper.from_array(array, bias.name))
    data = proto.SerializeToString()
    (folder / file_of(two_variant_bundle, "int8")).write_bytes(data)
    manifest = load_bundle(two_variant_bundle).manifest
    fp32, int8 = manifest.variants
    int8 = dataclasses.replace(int8, bytes=len(data), sha256=sha256_bytes(data))
    (folder / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, variants=(fp32, int8))))
    with pytest.raises(CheckFailedError, match="int8 on onnxruntime: logits of timed runs drift by"):
        bench(plan(folder, variants=("int8",), scenario=Scenario(name="idle", seconds=0.01, gap_ms=1)))
