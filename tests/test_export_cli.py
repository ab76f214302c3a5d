"""`mnist-edge export`: a bundle appears whole and proven, or the one before stays as it was."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from faults import BY_NAME, FITTING, Fault, Golden
from test_cli import in_process, one_line

from mnist_edge.bundle import publish
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError, UsageError
from mnist_edge.exporting import graph, pipeline
from mnist_edge.exporting.pipeline import ExportRequest, add_variant, export_bundle
from mnist_edge.records.bundle import VariantSpec
from mnist_edge.records.data import Dataset
from mnist_edge.training.state_dict import read_model
from mnist_edge.workflow.export import export

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
    assert set(report) == {
        "schema", "bundle", "dataset", "input", "variants", "choice", "parity", "accuracy", "dropped", "failed", "training",
    }  # fmt: skip
    assert (report["schema"], report["bundle"], report["input"]) == ("mnist-edge/export/5", "exported/digits", "uint8")
    assert report["parity"]["passed"]
    (variant,) = report["variants"]
    assert set(variant) == {
        "name", "format", "precision", "requirement", "reference", "max_accuracy_drop", "file", "bytes", "sha256",
        "accuracy", "flips", "passed", "settings", "selection_accuracy", "temperature", "made",
        "outputs_sha256",
    }  # fmt: skip
    folder = tmp_path / "exported" / "digits"
    assert variant["bytes"] == (folder / variant["file"]).stat().st_size
    assert content(folder) == content(bundle_folder) | {"manifest.json": (folder / "manifest.json").read_bytes()}
    assert load_bundle(folder).manifest.accuracy == report["accuracy"] > 0.8
    assert {path.name for path in folder.parent.iterdir()} == {"digits", "digits.results"}
    training = report["training"]
    assert (training["network"], len(training["history"])) == ("784-48-32-10", 20)
    assert training["command"] == ["mnist-edge", "train", "--dataset", "digits", "--recipe", "fast", "--seed", "0", "--epochs", "20", "--widths", "48,32"]  # fmt: skip


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


@pytest.fixture
def two(two_variant_bundle: Path, order: ExportRequest) -> ExportRequest:
    """An export over a bundle with two variants."""
    shutil.rmtree(order.output)
    shutil.copytree(two_variant_bundle, order.output)
    return order


def test_a_variant_that_still_passes_is_kept(two: ExportRequest) -> None:
    """The same weights again: the added variant stays, byte for byte, and it was compared once more."""
    before = content(two.output)
    report = export_bundle(two)
    assert content(two.output) == before
    assert [variant.name for variant in report.variants] == ["fp32", "int8"]
    assert [(variant.name, variant.passed) for variant in report.parity.variants] == [("fp32", True), ("int8", True)]
    assert report.dropped == {}


def test_a_variant_made_from_other_weights_is_dropped(two: ExportRequest, tmp_path: Path) -> None:
    """What owes the outputs of other weights is not published beside these; the command reports it."""
    with torch.no_grad():
        two.model[-1].bias += 1e-3
    torch.save(two.model.state_dict(), tmp_path / "other.pth")
    done = in_process(
        "export",
        "--run",
        "other.pth",
        "--normalize",
        "seed",
        "--dataset",
        "digits",
        "--output",
        two.output,
        "--json",
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    assert done.json["dropped"] == {"int8": "it was made from other weights"}
    assert "dropped the variant int8: it was made from other weights" in done.err
    assert set(content(two.output)) == {"model.onnx", "golden.npz", "manifest.json"}
    assert [variant.name for variant in load_bundle(two.output).manifest.variants] == ["fp32"]


@pytest.mark.slow
def test_a_variant_that_no_longer_passes_is_dropped_with_those_that_refer_to_it(two: ExportRequest) -> None:
    """An input of another form breaks the contract of the bundle, and so for each that is compared with it."""
    child = VariantSpec(name="child", precision="int8", requirement="lossy", reference="int8", max_accuracy_drop=0.05)
    add_variant(two.output, child, (two.output / "int8.onnx").read_bytes(), two.dataset)
    report = export_bundle(dataclasses.replace(two, input="float"))
    assert report.dropped == {"int8": "it was made for another input", "child": "it was made for another input"}


def test_a_variant_is_added_only_if_it_passes(two: ExportRequest) -> None:
    """A model that fails leaves the bundle as it was; a good one of the same name replaces it."""
    golden = load_bundle(two.output).golden
    fault = BY_NAME["wrong quantisation scale"]
    rows = golden.labels != 255
    wrong = fault.plant(onnx.load(two.output / "model.onnx"), Golden(golden.images[rows], golden.logits[rows]))
    spec = VariantSpec(name="int8", precision="int8", requirement="lossy", max_accuracy_drop=0.05)
    before = content(two.output)
    with pytest.raises(CheckFailedError, match=r"int8 does not predict as its reference does.*nothing was published"):
        add_variant(two.output, spec, wrong.SerializeToString(), two.dataset)
    with pytest.raises(UsageError, match="fp32 is made by mnist-edge export"):
        add_variant(two.output, dataclasses.replace(spec, name="fp32"), b"", two.dataset)
    with pytest.raises(UsageError, match="'Int8' is no name"):
        add_variant(two.output, dataclasses.replace(spec, name="Int8"), b"", two.dataset)
    with pytest.raises(UsageError, match="the reference 'int4' of int8 is not in"):
        add_variant(two.output, dataclasses.replace(spec, reference="int4"), before["int8.onnx"], two.dataset)
    assert content(two.output) == before
    assert add_variant(two.output, spec, before["int8.onnx"], two.dataset).parity.passed
    assert content(two.output) == before


@pytest.mark.slow
def test_two_exports_to_one_folder_do_not_mix(order: ExportRequest) -> None:
    """The second ends with 4 while the first works; another folder is free."""
    with publish.staging(order.output):
        with pytest.raises(UnavailableError, match="is being exported by another mnist-edge"):
            export_bundle(order)
        with publish.staging(order.output.with_name("other")):
            pass
    assert export_bundle(order).parity.passed


@pytest.mark.slow
def test_leftovers_of_killed_exports_are_removed_by_the_next(order: ExportRequest) -> None:
    """Of an export to the same folder and to others, but never of one that still works."""
    parent = order.output.parent
    with publish.staging(order.output) as staged:
        own = staged.parent.name
    for name in (own, ".exporting-of-another"):
        (parent / name / "bundle").mkdir(parents=True)
        (parent / name / "bundle" / "model.onnx").write_text("half")
    with publish.staging(parent / "running") as running:
        assert export_bundle(order).parity.passed
        assert {path.name for path in parent.iterdir()} == {"digits", running.parent.name}
    assert {path.name for path in parent.iterdir()} == {"digits"}


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

    monkeypatch.setattr(publish, step, fail)
    before = content(order.output)
    with pytest.raises(UnavailableError):
        export_bundle(order)
    assert content(order.output) == before
    assert {path.name for path in order.output.parent.iterdir()} == {"digits"}


def unexpected_file(output: Path) -> None:
    (output / "notes.txt").write_text("mine")


def no_manifest(output: Path) -> None:
    (output / "manifest.json").unlink()


def a_file(output: Path) -> None:
    shutil.rmtree(output)
    output.write_text("mine")


def a_link(output: Path) -> None:
    output.rename(output.with_name("elsewhere"))
    output.symlink_to("elsewhere")


@pytest.mark.parametrize("arrange", [unexpected_file, no_manifest, a_file, a_link])
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


@pytest.mark.slow
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


def test_the_newest_run_is_named(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --run, the output says which run was taken."""
    lines: list[str] = []
    published = dataclasses.make_dataclass("Published", ["dropped", "training"])({}, None)
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(pipeline, "export_bundle", lambda *_: published)
    export(notify=lines.append)
    assert "runs/digits, the newest run," in lines[0]
    lines.clear()
    export(run=Path("runs/digits"), notify=lines.append)
    assert "newest" not in lines[0]


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
