"""`mnist-edge export`: a bundle appears whole and proven, or the one before stays as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from faults import FITTING, Fault, Golden
from test_cli import in_process, one_line

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError
from mnist_edge.exporting import graph, pipeline
from mnist_edge.exporting.pipeline import ExportRequest, export_bundle
from mnist_edge.records.data import Dataset
from mnist_edge.training.state_dict import read_model

pytestmark = pytest.mark.xdist_group("exporting")


@pytest.fixture
def order(workplace: Path, bundle_folder: Path, digits: Dataset, tmp_path: Path) -> ExportRequest:
    """An export over a bundle that is already there."""
    shutil.copytree(bundle_folder, tmp_path / "exported" / "digits")
    model = read_model(workplace / "runs" / "digits").network
    return ExportRequest(model=model, dataset=digits, output=tmp_path / "exported" / "digits", input="uint8", opset=20)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def exporting(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Let the exporter make these bytes, whatever the weights."""
    monkeypatch.setattr(graph, "export_graph", lambda *_: data)


def test_export_publishes_and_tells(workplace: Path, bundle_folder: Path, tmp_path: Path) -> None:
    """The keys that scripts read, a bundle that loads, equal bytes, and nothing else left in the folder."""
    run = workplace / "runs" / "digits"
    for _ in range(2):  # the second time over the first
        done = in_process("export", "--run", run, "--json", cwd=tmp_path)
        assert done.code == 0, done.err
    report = done.json
    assert set(report) == {"schema", "bundle", "dataset", "input", "variants", "parity", "accuracy"}
    assert (report["schema"], report["bundle"], report["input"]) == ("mnist-edge/export/1", "exported/digits", "uint8")
    assert report["parity"]["passed"]
    (variant,) = report["variants"]
    assert set(variant) == {"name", "precision", "file", "bytes", "sha256"}
    folder = tmp_path / "exported" / "digits"
    assert variant["bytes"] == (folder / variant["file"]).stat().st_size
    assert content(folder) == content(bundle_folder) | {"manifest.json": (folder / "manifest.json").read_bytes()}
    assert load_bundle(folder).manifest.accuracy == report["accuracy"] > 0.8
    assert {path.name for path in folder.parent.iterdir()} == {"digits"}


@pytest.mark.parametrize("fault", FITTING, ids=lambda fault: fault.name)
def test_a_graph_that_answers_otherwise_is_not_published(
    fault: Fault, order: ExportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong export fails with 1, and the bundle before stays byte for byte."""
    golden = load_bundle(order.output).golden
    proto = fault.plant(onnx.load(order.output / "model.onnx"), Golden(golden.images, golden.logits))
    exporting(monkeypatch, proto.SerializeToString())
    before = content(order.output)
    with pytest.raises(CheckFailedError, match="nothing was published"):
        export_bundle(order)
    assert content(order.output) == before
    assert {path.name for path in order.output.parent.iterdir()} == {"digits"}


def test_the_fault_tests_would_publish_a_right_graph(order: ExportRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: the same way, with the right bytes, publishes."""
    proto = onnx.load(order.output / "model.onnx")
    exporting(monkeypatch, proto.SerializeToString())
    (order.output / "golden.npz").unlink()
    assert export_bundle(order).parity.passed
    load_bundle(order.output)


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x0a"])
def test_bytes_that_are_no_model_are_not_published(
    data: bytes, order: ExportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an exporter returns, the bundle before stays."""
    exporting(monkeypatch, data)
    before = content(order.output)
    with pytest.raises((BadFileError, CheckFailedError)):
        export_bundle(order)
    assert content(order.output) == before


@pytest.mark.parametrize("step", ["publish_folder", "load_bundle"])
def test_a_failure_while_publishing_leaves_the_bundle_before(
    step: str, order: ExportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails at the last step costs nothing that was there, and leaves no temporary folder."""
    exporting(monkeypatch, (order.output / "model.onnx").read_bytes())

    def fail(*_: Any) -> None:
        raise UnavailableError("disk full")

    monkeypatch.setattr(pipeline, step, fail)
    before = content(order.output)
    with pytest.raises(UnavailableError):
        export_bundle(order)
    assert content(order.output) == before
    assert {path.name for path in order.output.parent.iterdir()} == {"digits"}


def stranger_beside(output: Path) -> None:
    (output / "notes.txt").write_text("mine")


def no_manifest(output: Path) -> None:
    (output / "manifest.json").unlink()


def a_file(output: Path) -> None:
    shutil.rmtree(output)
    output.write_text("mine")


def a_link(output: Path) -> None:
    output.rename(output.with_name("elsewhere"))
    output.symlink_to("elsewhere")


@pytest.mark.parametrize("arrange", [stranger_beside, no_manifest, a_file, a_link])
def test_a_folder_with_what_no_export_put_there_is_refused(
    arrange: Callable[[Path], None], workplace: Path, order: ExportRequest, tmp_path: Path
) -> None:
    """A wrong --output never deletes a user's files; exit 2 before any work."""
    arrange(order.output)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = in_process("export", "--run", workplace / "runs" / "digits", "--output", order.output, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert str(order.output) in done.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_bare_state_dict_is_exported(order: ExportRequest, tmp_path: Path) -> None:
    """The seed's own form of a file gives the same model; its dataset must be named."""
    torch.save(order.model.state_dict(), tmp_path / "mnist.pth")
    target = tmp_path / "from-pth"
    done = in_process(
        "export", "--run", "mnist.pth", "--normalize", "seed", "--dataset", "digits", "--output", target, cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert (target / "model.onnx").read_bytes() == (order.output / "model.onnx").read_bytes()


@pytest.mark.parametrize("options", [(), ("--run", "nowhere"), ("--run", "nowhere.pth")], ids=str)
def test_no_run_is_4(options: tuple[str, ...], tmp_path: Path) -> None:
    """Nothing to export: the line names what was looked for and how to make one."""
    done = in_process("export", *options, "--json", cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (4, "environment")
    assert "mnist-edge train" in one_line(done.err)
    assert not (tmp_path / "exported").exists()


def test_a_damaged_checkpoint_is_3(workplace: Path, tmp_path: Path) -> None:
    """Nothing is exported from weights that are not those that were saved."""
    run = shutil.copytree(workplace / "runs" / "digits", tmp_path / "runs" / "digits")
    data = bytearray((run / "last.safetensors").read_bytes())
    data[-100] ^= 1
    (run / "last.safetensors").write_bytes(data)
    done = in_process("export", cwd=tmp_path)
    assert done.code == 3
    assert "last.safetensors" in one_line(done.err)
    assert not (tmp_path / "exported").exists()
