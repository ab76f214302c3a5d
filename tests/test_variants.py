"""Variants of a bundle: each is proven before it is published, and one that fails costs the others nothing."""

from __future__ import annotations

import dataclasses
import io
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console
from test_cli import in_process, one_line
from test_export_cli import content

from mnist_edge.bundle import choice as bundle_choice
from mnist_edge.bundle.choice import write_choice
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes
from mnist_edge.bundle.publish import staging
from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError, UsageError
from mnist_edge.exporting.pipeline import ExportRequest, add_variant, export_bundle
from mnist_edge.exporting.variants import fp16, int8, int8_dynamic, registry
from mnist_edge.exporting.variants.add import add_kind, add_kinds
from mnist_edge.exporting.variants.kind import Built, VariantContext
from mnist_edge.exporting.variants.registry import KINDS, select_kinds
from mnist_edge.files import sha256_bytes
from mnist_edge.records.bundle import VariantSpec
from mnist_edge.records.data import Dataset
from mnist_edge.records.settings import SessionSettings
from mnist_edge.reporting.tables.variants import variants_table
from mnist_edge.verification.reference import recorded_reference
from mnist_edge.verification.verify import VerifyOptions, verify_bundle
from mnist_edge.workflow.variants import list_variants

pytestmark = pytest.mark.xdist_group("exporting")

TWO = SessionSettings(threads=2)


@pytest.fixture
def folder(bundle_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle_folder, tmp_path / "digits")


@pytest.fixture(scope="session")
def with_variants(
    bundle_folder: Path, variant_context: VariantContext, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle with fp16 and int8. Copy it before changing it."""
    folder = shutil.copytree(bundle_folder, tmp_path_factory.mktemp("variants") / "digits")
    for kind in (fp16.KIND, int8.KIND):
        add_kind(folder, kind, variant_context)
    return folder


@pytest.fixture
def tuned(with_variants: Path, tmp_path: Path) -> Path:
    """The same, with a choice and settings of two variants."""
    folder = shutil.copytree(with_variants, tmp_path / "digits")
    write_choice(folder, "int8", {"int8": TWO, "fp32": SessionSettings(optimization="basic")})
    return folder


def request_of(context: VariantContext, output: Path, **changes: Any) -> ExportRequest:
    request = ExportRequest(model=context.network, dataset=context.dataset, output=output, input="uint8", opset=20)
    return dataclasses.replace(request, **changes)


def broken(_context: VariantContext) -> NoReturn:
    raise CheckFailedError("its training diverged", hint="try another seed")


def wrong(context: VariantContext) -> Built:
    """A model whose first weights are those of another network."""
    proto = onnx.load_model_from_string(fp16.build(context).model)
    stored = next(value for value in proto.graph.initializer if value.name.endswith(".half"))
    stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored) * np.float16(0.5), stored.name))
    return Built(model=proto.SerializeToString(), spec=dataclasses.replace(fp16.KIND.spec(context), name="wrong"))


def test_export_makes_variants_and_reports_each(workplace: Path, tmp_path: Path) -> None:
    """The keys that scripts read; quantisers are quiet; each variant has the layers of its parent."""
    kinds = ("int8-dynamic", "fp16", "int8", "fp16")
    options = [option for kind in kinds for option in ("--variant", kind)]
    done = in_process(
        "export", "--run", workplace / "runs" / "digits", *options, "--max-accuracy-drop", "5", "--json", cwd=tmp_path
    )
    assert done.code == 0, done.err
    report = done.json  # one document, and nothing of a quantiser's own
    assert (report["choice"], report["failed"], report["parity"]["passed"]) == (None, [], True)
    rows = {row["name"]: row for row in report["variants"]}
    assert list(rows) == ["fp32", "fp16", "int8", "int8-dynamic"]
    assert [row["name"] for row in report["parity"]["variants"]] == list(rows)
    assert [(row["precision"], row["requirement"], row["reference"]) for row in rows.values()] == [
        ("fp32", "exact", "pytorch"), ("fp16", "lossy", "pytorch"), ("int8", "lossy", "pytorch"), ("int8", "lossy", "pytorch"),
    ]  # fmt: skip
    for row in rows.values():
        assert row["passed"]
        assert row["settings"] == SessionSettings().__dict__
        assert abs(row["accuracy"] - report["accuracy"]) <= row["flips"] / 360 < 0.05
        assert row["selection_accuracy"] > 0.9
    assert rows["fp16"]["bytes"] < 0.55 * rows["fp32"]["bytes"]
    assert rows["int8"]["bytes"] < 0.35 * rows["fp32"]["bytes"]
    assert load_bundle(tmp_path / "exported" / "digits").manifest.variants[2].made == rows["int8"]["made"]
    done = in_process("verify", "exported/digits", "--layers", "--max-accuracy-drop", "5", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    for row in done.json["variants"]:
        assert (row["layers"]["first"], row["layers"]["symptom"]) == (None, "")
        assert {tensor["layer"] for tensor in row["layers"]["tensors"]} == {1, 2, 3}


@pytest.mark.slow
def test_the_next_command_allows_what_export_allowed(workplace: Path, tmp_path: Path) -> None:
    """`verify` with its own default would fail on a set that is too small to show it."""
    run = workplace / "runs" / "digits"
    done = in_process("export", "--run", run, "--variant", "fp16", "--max-accuracy-drop", "5", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.err.splitlines()[-1].endswith("verify exported/digits --max-accuracy-drop 5")


@pytest.mark.slow
def test_a_failed_variant_is_reported_and_the_others_are_published(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 1 for one that cannot be made and for one that predicts otherwise; what passed is kept, also of a float bundle."""
    kind = dataclasses.replace(fp16.KIND, name="broken", build=broken)
    other = dataclasses.replace(fp16.KIND, name="wrong", build=wrong)
    monkeypatch.setattr(registry, "KINDS", (kind, other, fp16.KIND, int8.KIND, int8_dynamic.KIND))
    done = in_process(
        "export", "--run", workplace / "runs" / "digits", "--variant", "all", "--max-accuracy-drop", "5",
        "--input", "float", "--opset", "18", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 1
    published = ["fp32", "fp16", "int8", "int8-dynamic"]
    assert [row["name"] for row in done.json["variants"]] == published
    first, second = done.json["failed"]
    assert first == {
        "name": "broken", "kind": "check-failed", "message": "its training diverged", "hint": "try another seed",
    }  # fmt: skip
    assert (second["name"], second["kind"]) == ("wrong", "check-failed")
    assert "layer 1 is the first to drift, scale: its weights are scaled by 0.5" in second["message"]
    assert "mnist-edge: broken is not in exported/digits: its training diverged (try another seed)" in done.err
    found = load_bundle(tmp_path / "exported" / "digits").manifest.variants
    assert [variant.name for variant in found] == published


def test_an_unknown_name_is_2_before_any_work(workplace: Path, tmp_path: Path) -> None:
    """The line lists the names that there are."""
    done = in_process("export", "--run", workplace / "runs" / "digits", "--variant", "int3", cwd=tmp_path)
    assert done.code == 2
    assert "no kind of variant is called 'int3'" in one_line(done.err)
    assert "fp16, int8, int8-dynamic" in done.err
    assert not (tmp_path / "exported").exists()


def test_kinds_are_built_in_one_order_and_once() -> None:
    """Whatever the order of the options; `all` is every kind."""
    assert [kind.name for kind in select_kinds(["int8", "fp16", "int8"])] == ["fp16", "int8"]
    assert select_kinds(["int8", "all"]) == KINDS
    assert select_kinds([]) == ()


def test_the_list_of_variants_fits_80_columns(tmp_path: Path) -> None:
    """Name, precision, requirement and a line of advice each; fp16 does not promise time."""
    console = Console(width=80, file=io.StringIO(), highlight=False, markup=False)
    console.print(variants_table(list_variants()))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.split()[:1] == [kind.name] for line in lines for kind in KINDS) == len(KINDS)
    assert "not time" in fp16.KIND.advice
    done = in_process("variants", "--json", cwd=tmp_path)
    rows = done.json
    assert (done.code, rows["schema"]) == (0, "mnist-edge/variants/1")
    assert [row["name"] for row in rows["variants"]] == [kind.name for kind in KINDS]
    assert all(set(row) == {"name", "precision", "requirement", "advice"} for row in rows["variants"])


def test_fp16_keeps_every_weight_to_half_precision(variant_context: VariantContext) -> None:
    """The first layer's weights contain 1 / 127.5, and the smallest would lose bits as float16 themselves."""
    proto = onnx.load_model_from_string(fp16.build(variant_context).model)
    stored = {value.name: numpy_helper.to_array(value) for value in proto.graph.initializer}
    fp32 = {
        value.name: numpy_helper.to_array(value)
        for value in onnx.load_model_from_string(variant_context.fp32).graph.initializer
    }
    matrices = [name for name, value in fp32.items() if value.ndim == 2]
    assert len(matrices) == 3
    for name in matrices:
        half = stored[f"{name}.half"]
        assert half.dtype == np.float16
        restored = half.astype(np.float32) * stored[f"{name}.factor"]
        # Half a unit in the last of 11 bits, down to 2 ** -29 of the largest weight.
        error = np.abs(restored - fp32[name])
        assert (error <= 2.0**-11 * np.maximum(np.abs(fp32[name]), 2.0**-29 * np.abs(fp32[name]).max())).all()


@pytest.mark.slow
def test_settings_and_choice_are_written_and_survive_other_changes(
    tuned: Path, variant_context: VariantContext
) -> None:
    """Adding, replacing by the same bytes and exporting again keep what tune chose."""
    before = load_bundle(tuned).manifest
    assert (before.choice, [variant.settings.threads for variant in before.variants]) == ("int8", [1, 1, 2])
    again = add_variant(
        tuned, VariantSpec(name="more", precision="fp16", requirement="lossy", max_accuracy_drop=0.05),
        (tuned / "fp16.onnx").read_bytes(), variant_context.dataset,
    )  # fmt: skip
    assert (again.choice, [variant.settings.threads for variant in again.variants]) == ("int8", [1, 1, 2, 1])
    again = add_kind(tuned, int8.KIND, variant_context)
    assert (again.choice, again.variants[2].settings, again.variants[2]) == ("int8", TWO, before.variants[2])
    again = export_bundle(request_of(variant_context, tuned))
    assert (again.choice, again.variants[0], again.variants[2]) == ("int8", before.variants[0], before.variants[2])
    again = add_kinds(again, [int8.KIND], variant_context)
    assert [entry.name for entry in again.parity.variants] == [
        "fp32",
        "fp16",
        "more",
        "int8",
    ]  # each once, the newest last


def test_another_file_of_the_chosen_variant_is_no_longer_chosen(tuned: Path, variant_context: VariantContext) -> None:
    """Settings were measured with the file that is gone."""
    proto = onnx.load(tuned / "int8.onnx")
    proto.doc_string = "another file"
    spec = load_bundle(tuned).variant("int8")
    spec = VariantSpec(name="int8", precision="int8", requirement="lossy", max_accuracy_drop=spec.max_accuracy_drop)
    report = add_variant(tuned, spec, proto.SerializeToString(), variant_context.dataset)
    assert (report.choice, report.variants[2].settings) == (None, SessionSettings())
    assert report.variants[0].settings.optimization == "basic"


def test_a_choice_is_checked_and_atomic(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not there is 2, settings out of range are 3, a bundle in use is 4; each leaves the bundle."""
    before = content(tuned)
    with pytest.raises(UsageError, match="no variant 'int4'"):
        write_choice(tuned, "int4", {})
    with pytest.raises(UsageError, match="no variant 'int4'"):
        write_choice(tuned, None, {"int4": TWO})
    with pytest.raises(BadFileError, match="threads: 0 is not 1 to"):
        write_choice(tuned, None, {"int8": SessionSettings(threads=0)})
    with staging(tuned), pytest.raises(UnavailableError, match="is being exported by another mnist-edge"):
        write_choice(tuned, None, {})

    def killed(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bundle_choice, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            write_choice(tuned, None, {})
    assert content(tuned) == before
    assert {path.name for path in tuned.parent.iterdir()} == {"digits"}
    assert write_choice(tuned, None, {}).choice is None
    assert [variant.settings.threads for variant in load_bundle(tuned).manifest.variants] == [1, 1, 2]


def test_a_bundle_in_use_is_4_and_a_killed_build_leaves_it(folder: Path, variant_context: VariantContext) -> None:
    """Whatever happens while a variant is made, the folder holds the bundle of before."""
    before = content(folder)

    def killed(_context: VariantContext) -> NoReturn:
        raise KeyboardInterrupt

    with staging(folder), pytest.raises(UnavailableError, match="is being exported"):
        add_kind(folder, fp16.KIND, variant_context)
    with pytest.raises(KeyboardInterrupt):
        add_kind(folder, dataclasses.replace(fp16.KIND, build=killed), variant_context)
    with pytest.raises(CheckFailedError, match="wrong does not predict as its reference does"):
        add_kind(folder, dataclasses.replace(fp16.KIND, build=wrong), variant_context)
    assert content(folder) == before


@pytest.mark.slow
def test_an_old_variant_that_contradicts_its_manifest_is_dropped(folder: Path, variant_context: VariantContext) -> None:
    """A damaged neighbour does not keep the network from being exported again."""
    proto = onnx.load(folder / "model.onnx")
    proto.graph.output[0].name = "scores"
    proto.graph.node[-1].output[0] = "scores"
    manifest = load_bundle(folder).manifest
    (first,) = manifest.variants
    data = proto.SerializeToString()
    odd = dataclasses.replace(first, name="odd", file="odd.onnx", bytes=len(data), sha256=sha256_bytes(data))
    (folder / "odd.onnx").write_bytes(data)
    (folder / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, variants=(first, odd))))
    report = export_bundle(request_of(variant_context, folder))
    assert "its graph has image uint8 (batch, 28, 28) to scores" in report.dropped["odd"]
    assert [variant.name for variant in report.variants] == ["fp32"]


def test_a_manifest_that_praises_a_variant_is_caught(with_variants: Path, digits: Dataset, tmp_path: Path) -> None:
    """Every hash is right: the stated accuracy is compared with what the test set shows; one image is rounding."""
    manifest = load_bundle(with_variants).manifest
    for images, passed in ((1, True), (3, False), (-3, False)):
        changed = tuple(
            dataclasses.replace(variant, accuracy=variant.accuracy + images / 360)
            if variant.name == "int8" and variant.accuracy is not None
            else variant
            for variant in manifest.variants
        )
        folder = shutil.copytree(with_variants, tmp_path / str(images))
        (folder / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, variants=changed)))
        bundle = load_bundle(folder)
        report = verify_bundle(bundle, recorded_reference(bundle, digits), VerifyOptions(max_drop=0.05))
        assert [variant.passed for variant in report.variants] == [True, True, passed]
        assert passed or "manifest.json states an accuracy of" in report.variants[2].reason


ADDING = """
import sys
from pathlib import Path
from mnist_edge.bundle.choice import write_choice
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.data.digits import load_digits
from mnist_edge.exporting.pipeline import add_variant
from mnist_edge.records.bundle import VariantSpec
from mnist_edge.records.settings import SessionSettings

folder, digits = Path(sys.argv[1]), load_digits()
models = [(folder / file).read_bytes() for file in ("int8.onnx", "fp16.onnx")]
while True:
    for name, precision, model in (("more", "int8", models[0]), ("other", "fp16", models[1])):
        spec = VariantSpec(name=name, precision=precision, requirement="lossy", max_accuracy_drop=0.05)
        print("adding", flush=True)
        add_variant(folder, spec, model, digits)
        print("choosing", flush=True)
        write_choice(folder, name, {name: SessionSettings(optimization="basic")})
        write_choice(folder, None, {})
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_bundle(with_variants: Path, tmp_path: Path) -> None:
    """No half-written variant, choice or manifest is ever read; the next run removes what the killed one left."""
    folder = shutil.copytree(with_variants, tmp_path / "place" / "digits")
    generator = random.Random(0)
    for steps in (1, 2, 3, 4, 6):
        process = subprocess.Popen([sys.executable, "-c", ADDING, folder], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(steps)]
        assert lines[-1] in {"adding\n", "choosing\n"}
        time.sleep(generator.uniform(0, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
        names = [variant.name for variant in load_bundle(folder).manifest.variants]
        assert names[:3] == ["fp32", "fp16", "int8"]
    assert names == ["fp32", "fp16", "int8", "more", "other"]
    write_choice(folder, "int8", {})
    assert [path.name for path in folder.parent.iterdir()] == ["digits"]
