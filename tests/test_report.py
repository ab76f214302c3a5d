"""Results beside a bundle, and the report and model card that are written from them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import mnist_edge
from huggingface_hub import ModelCard
from test_cli import in_process
from test_compare import result, row
from test_web_page import needs_browser
from typer.main import get_command

from benchmarks.web_drawing import set_window
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes
from mnist_edge.bundle.results import results_folder, state_of, write_result
from mnist_edge.cli.app import app
from mnist_edge.cli.recording import result_name
from mnist_edge.contract import LABELS
from mnist_edge.data import sources
from mnist_edge.errors import UnavailableError
from mnist_edge.records.benchmark import BenchReport
from mnist_edge.records.bundle import FailedVariant
from mnist_edge.records.settings import SessionSettings
from mnist_edge.records.tuning import Limits, TuneChoice, TunedCandidate, TuneReport
from mnist_edge.reporting.page import html
from mnist_edge.targets.web.chromium import Browser, open_browser
from mnist_edge.workflow import report as workflow_report

HOSTILE = "</code><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>\x1b[31m`|\u202e"
SETTINGS = SessionSettings()


def timing(**changes: Any) -> BenchReport:
    quantiles = tuple(100.0 + 0.37 * percent for percent in range(1, 100))
    rows = [row(quantiles_us=quantiles, ratio_to_torch=0.4321), row(engine="torch", quantiles_us=quantiles)]
    return dataclasses.replace(result(*rows), **changes)


def tuning(variant: str = "fp32", reason: str = "chosen") -> TuneReport:
    candidate = TunedCandidate(
        variant=variant, settings=SETTINGS, p50_us=123.4, interval=(120.1, 130.2), processes=5, images_per_s=8123.0,
        start_ms=321.0, bytes=170_000, accuracy=0.9444, selection_accuracy=0.9321, meets_limits=True, reason=reason,
    )  # fmt: skip
    choice = TuneChoice(
        variant=variant, settings=SETTINGS, p50_us=123.4, bytes=170_000, accuracy=0.9444, selection_accuracy=0.9321,
        confirmed_images=360, test_set=True, ratio=1.0,
    )  # fmt: skip
    return TuneReport(
        bundle=Path("digits"), objective="latency", provider="cpu", batch=1, limits=Limits(max_accuracy_drop=0.001),
        environment={"cpu": "a CPU"}, choice=choice, candidates=(candidate,),
        not_built=(FailedVariant(name="int8", kind="check-failed", message="it drifts", hint=""),),
        profiles={}, processes=10, seconds=12.5, resumed=False, notes=(),
    )  # fmt: skip


def keep(bundle: Path, name: str, report: Any, command: tuple[str, ...] = (), **state: Any) -> Path:
    """Write a result as a command does; `state` replaces fields of the bundle's state."""
    words = command or ("mnist-edge", name)
    return write_result(bundle, name, dataclasses.replace(state_of(bundle), **state), words, report.to_json())


@pytest.fixture(scope="module")
def measured(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle `digits`, evaluated and verified by the commands. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("measured")
    shutil.copytree(bundle_folder, folder / "digits")
    for command in ("eval", "verify"):
        done = in_process(command, "digits", "--json", cwd=folder)
        assert done.code == 0, done.err
        (folder / f"{command}.json").write_text(done.out)
    return folder


@pytest.fixture
def bundle(measured: Path, tmp_path: Path) -> Path:
    shutil.copytree(measured, tmp_path, dirs_exist_ok=True)
    return tmp_path / "digits"


@pytest.fixture
def complete(bundle: Path, workplace: Path) -> Path:
    """Every kind of result: an export's too, a timing and a choice."""
    exported = json.loads((workplace / "exported" / "digits.results" / "export.json").read_text())
    write_result(bundle, "export", state_of(bundle), exported["command"], exported["document"])
    manifest = load_bundle(bundle).manifest
    (bundle / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, choice="fp32")))
    keep(bundle, "bench", timing())
    keep(bundle, "tune", tuning())
    return bundle


@pytest.fixture(autouse=True)
def _without_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a quarter of a second each; tests of a page as a whole ask for `figures`."""
    if "figures" not in request.fixturenames:
        for name in ("loss_figure", "reliability_figure", "latency_figure", "pareto_figure"):
            monkeypatch.setattr(html.figures, name, lambda *_: None)


@pytest.fixture
def figures() -> None:
    """Draw the figures."""


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} is closed in another order"

    def handle_data(self, data: str) -> None:
        if not {"style", "svg", "title"} & set(self._open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def page_of(bundle: Path, *options: str) -> Page:
    done = in_process("report", bundle.name, *options, cwd=bundle.parent)
    assert done.code == 0, done.err
    return Page((bundle.parent / "report.html").read_text(encoding="utf-8"))


def test_a_command_leaves_its_document_beside_the_bundle(measured: Path) -> None:
    """The record holds what --json printed, the words that were typed, and what the bundle was; nothing else appears."""
    assert {path.name for path in measured.iterdir()} == {"digits", "digits.results", "eval.json", "verify.json"}
    folder = measured / "digits.results"
    assert {path.name for path in folder.iterdir()} == {"eval-fp32.json", "verify.json"}
    manifest = (measured / "digits" / MANIFEST).read_bytes()
    for name, command in (("eval-fp32", "eval"), ("verify", "verify")):
        stored = json.loads((folder / f"{name}.json").read_text())
        assert stored["schema"] == "mnist-edge/result/1"
        assert stored["bundle_sha256"] == hashlib.sha256(manifest).hexdigest()
        assert stored["command"] == ["mnist-edge", command, "digits", "--json"]
        assert stored["document"] == json.loads((measured / f"{command}.json").read_text())
        assert str(measured) not in json.dumps(stored)
    load_bundle(measured / "digits")


def test_mistakes_are_those_of_the_outputs(measured: Path) -> None:
    """Wrong predictions of the recorded logits, the largest gap first: what the page shows is a fact of the test set."""
    document = json.loads((measured / "eval.json").read_text())
    golden = load_bundle(measured / "digits").golden
    assert document["test_sha256"] == golden.test_sha256.tobytes().hex()
    labels = sources.load_test_set("digits").test_labels
    logits = golden.test_logits
    gaps = logits.max(axis=1) - logits[np.arange(len(labels)), labels]
    expected = [int(i) for i in np.argsort(-gaps, kind="stable") if gaps[i] > 0][:24]
    assert [one["image"] for one in document["mistakes"]] == expected
    assert all(one["label"] == labels[one["image"]] != one["predicted"] for one in document["mistakes"])
    assert len(expected) == min(24, round(360 * (1 - document["accuracy"])))


def test_a_folder_that_cannot_be_written_is_a_note(bundle: Path) -> None:
    """A read-only device still verifies: exit 0 and the whole report."""
    shutil.rmtree(results_folder(bundle))
    results_folder(bundle).write_text("in the way")
    done = in_process("eval", "digits", "--json", cwd=bundle.parent)
    assert (done.code, done.json["images"]) == (0, 360)
    assert "the result is not kept in digits.results" in done.err


def test_a_failed_check_is_kept_and_shown_as_failed(bundle: Path) -> None:
    """A report cannot look better than the last check."""
    golden = load_bundle(bundle).golden
    digest = np.frombuffer(hashlib.sha256(golden.images.tobytes()).digest(), np.uint8)
    np.savez(bundle.parent / "other.npz", images_sha256=digest, logits=-golden.logits)
    done = in_process("verify", "digits", "--outputs", "other.npz", cwd=bundle.parent)
    assert done.code == 1, done.err
    assert (results_folder(bundle) / "verify-outputs-other.json").is_file()
    page = page_of(bundle)
    assert re.search(r"Summary failed fp32 on recorded outputs other\.npz:", page.text)
    assert in_process("report", "digits", "--json", cwd=bundle.parent).json["verdict"] == "failed"


def test_a_check_that_ends_in_an_error_is_kept_as_failed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that never returns leaves no report, and yet the page may not show the older success alone."""
    from mnist_edge.errors import CheckFailedError
    from mnist_edge.workflow import verify as stage

    def fails(*_arguments: Any, **_options: Any) -> None:
        raise CheckFailedError("fp32 did not return within 60 s")

    monkeypatch.setattr(stage, "verify_folder", fails)
    assert in_process("verify", "digits", cwd=bundle.parent).code == 1
    assert "Summary failed fp32 did not return within 60 s" in page_of(bundle).text


@pytest.mark.parametrize("options", [("--against", "digits/model.onnx"), ("--max-accuracy-drop", "50")])
def test_a_weaker_comparison_does_not_replace_one_that_failed(options: tuple[str, str], bundle: Path) -> None:
    """A model is as good as itself, and any model is good enough for a large enough loss."""
    path = results_folder(bundle) / "verify.json"
    stored = json.loads(path.read_text())
    stored["document"]["passed"] = stored["document"]["variants"][0]["passed"] = False
    stored["document"]["variants"][0]["reason"] = "its logits drift"
    path.write_text(json.dumps(stored))
    done = in_process("verify", "digits", *options, cwd=bundle.parent)
    assert done.code == 0, done.err
    assert re.search("Summary failed fp32 on onnxruntime[^:]*: its logits drift", page_of(bundle).text)


def test_fewer_images_do_not_replace_a_comparison_that_failed(bundle: Path) -> None:
    """`--target c --images 10` may miss what all images have shown."""
    path = results_folder(bundle) / "verify.json"
    fewer = json.loads(path.read_text())
    stored = json.loads(path.read_text())
    stored["document"]["variants"][0] |= {"passed": False, "reason": "its logits drift"}
    path.write_text(json.dumps(stored))
    fewer["document"]["variants"][0]["images"] = 10
    fewer["time"] = "2999-01-01T00:00:00+00:00"
    (path.parent / "verify-images-10.json").write_text(json.dumps(fewer))
    assert in_process("report", "digits", "--json", cwd=bundle.parent).json["verdict"] == "failed"


def test_a_comparison_with_a_variant_that_changed_is_stale(two_variant_bundle: Path, tmp_path: Path) -> None:
    """int8 was compared with fp32, which is another model now."""
    folder = shutil.copytree(two_variant_bundle, tmp_path / "digits")
    manifest = load_bundle(folder).manifest
    variants = tuple(
        dataclasses.replace(one, reference="fp32") if one.name == "int8" else one for one in manifest.variants
    )
    (folder / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, variants=variants)))
    assert in_process("verify", "digits", "--max-accuracy-drop", "5", cwd=tmp_path).code == 0
    (path,) = results_folder(folder).glob("verify*.json")
    stored = json.loads(path.read_text())
    stored["state"]["variants"]["fp32"] = "0" * 64
    path.write_text(json.dumps(stored))
    document = in_process("report", "digits", "--json", cwd=tmp_path).json
    assert (document["verdict"], document["included"]) == ("incomplete", [])


@pytest.mark.usefixtures("figures")
def test_the_page_is_one_file_that_reaches_nothing(complete: Path) -> None:
    """Opens from disk, without a network: no script, no address, no id twice, every reference within the page."""
    page = page_of(complete)
    content = (complete.parent / "report.html").read_bytes()
    page_of(complete)
    assert (complete.parent / "report.html").read_bytes() == content, "equal results give equal pages"
    assert len(content) <= 1_000_000
    assert not {"script", "link", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    ids = [values["id"] for _, values in page.tags if "id" in values]
    assert len(ids) == len(set(ids))
    for tag, values in page.tags:
        assert "style" not in values, f"{tag}: the policy refuses it"
        assert not [name for name in values if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            if (link := values.get(name)) is not None:
                assert link.startswith("data:image/png;base64,") or link.removeprefix("#") in ids, link
    (policy,) = [values["content"] for _, values in page.tags if values.get("http-equiv")]
    assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert not re.search(rb"https?:|@import", content.replace(b"http://www.w3.org/2000/svg", b""))
    assert sum(tag == "svg" for tag, _ in page.tags) == 4
    assert sum(tag == "img" for tag, _ in page.tags) == len(
        json.loads((complete.parent / "eval.json").read_text())["mistakes"]
    )


def formatted(value: Any) -> set[str]:
    """Each way in which the page may write a number of a record."""
    if isinstance(value, bool) or value is None:
        return set()
    if isinstance(value, str):
        return set(re.findall(r"\d[\d,.]*", value))
    forms = {str(value), f"{value:,}", f"{value:g}"}
    if isinstance(value, float):
        forms |= {
            f"{value:.2%}",
            f"{value:.3%}",
            f"{value:.1e}",
            f"{value:.3g}",
            f"{value:,.0f}",
            f"{value:,.1f}",
            f"{100 * value:.1f}",
            f"{100 * value:g}",
        }
        forms |= {f"{ratio:,.2f}" for ratio in (value, 1 / value if value else 0)}
    return {number for form in forms for number in re.findall(r"\d[\d,.]*", form)}


def numbers_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*(numbers_of(one) | formatted(key) for key, one in value.items()))
    if isinstance(value, list):
        return formatted(len(value)).union(*(numbers_of(one) for one in value))
    return formatted(value)


def test_every_number_of_the_page_is_in_a_record(complete: Path) -> None:
    """No figure without a measurement: each number comes from the manifest or a result, formatted."""
    page = page_of(complete)
    records = [json.loads(path.read_text()) for path in [complete / MANIFEST, *results_folder(complete).glob("*.json")]]
    known = numbers_of(records) | {"28", "95", "90", "50", "99", "10", "9", "256", "1", "2"}  # p50, SHA-256, 95 % ...
    text = re.sub(r"\b[0-9a-f]{64}\b", "", page.text)
    shown = {number.strip(",.") for number in re.findall(r"\d[\d,.]*", text)}
    unknown = {one for one in shown if one not in known and one.rstrip("0").rstrip(".") not in known}
    assert len(shown) > 100
    assert not {number.strip(",.") for number in unknown} - {number.strip(",.") for number in known}


def test_what_was_not_measured_is_named_with_its_command(bundle_folder: Path, tmp_path: Path) -> None:
    """A bundle without results gives a page without invented figures."""
    shutil.copytree(bundle_folder, tmp_path / "digits")
    page = page_of(tmp_path / "digits")
    for words in ("eval digits --variant fp32", "verify digits", "bench digits", "tune digits"):
        assert f"mnist-edge {words}" in page.text
    assert "Summary incomplete no current comparison of fp32" in page.text
    assert "latency, p50 not measured" in page.text
    assert not [tag for tag, _ in page.tags if tag in {"svg", "img"}]
    document = in_process("report", "digits", "--json", cwd=tmp_path).json
    assert (document["schema"], document["verdict"], document["included"]) == ("mnist-edge/report/1", "incomplete", [])
    assert {one["why"] for one in document["unshown"]} == {"not measured"}


def test_the_command_for_a_lossy_variant_allows_what_export_allowed(two_variant_bundle: Path, tmp_path: Path) -> None:
    """With the default of 0.1 points, few images cannot show the variant to be as accurate, and the command would fail."""
    bundle = shutil.copytree(two_variant_bundle, tmp_path / "digits")
    assert "mnist-edge verify digits --max-accuracy-drop 5" in page_of(bundle).text
    done = in_process("verify", "digits", "--variant", "fp32", cwd=tmp_path)
    assert done.code == 0, done.err
    command = "verify digits --variant int8 --max-accuracy-drop 5"
    assert f"mnist-edge {command}" in page_of(bundle).text
    assert in_process(*command.split(), cwd=tmp_path).code == 0


@pytest.mark.parametrize(
    ("run", "end"), [("runs/small", "--run runs/small"), ("runs/small/last.safetensors", "--widths 48,32")]
)
def test_train_writes_where_export_reads(complete: Path, run: str, end: str) -> None:
    """The commands of the page work in their order; a checkpoint's file is no folder to train into."""
    kept = json.loads((results_folder(complete) / "export.json").read_text())
    words = ("mnist-edge", "export", "--run", run, "--output", "digits")
    write_result(complete, "export", state_of(complete), words, kept["document"])
    (trained,) = re.findall(r"mnist-edge train .*?(?= mnist-edge)", page_of(complete).text)
    assert trained.endswith(end)


@pytest.mark.parametrize(
    ("state", "gone", "kept"),
    [
        ({"variants": {"fp32": "0" * 64}}, ("verify.json", "eval-fp32.json", "bench.json", "tune.json"), ("export.json",)),
        ({"golden_sha256": "0" * 64}, ("verify.json", "eval-fp32.json"), ("bench.json", "tune.json", "export.json")),
        ({"weights_sha256": "0" * 64}, ("export.json",), ("verify.json", "bench.json")),
        ({"bundle_sha256": "0" * 64}, (), ("verify.json", "eval-fp32.json", "bench.json", "tune.json", "export.json")),
    ],
    ids=["model", "golden", "weights", "settings"],
)  # fmt: skip
def test_a_stale_result_gives_no_figure(
    complete: Path, state: dict[str, Any], gone: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    """A result of another model, or of other reference outputs, is named as stale; what it measured is not shown."""
    for path in results_folder(complete).glob("*.json"):
        stored = json.loads(path.read_text())
        stored["state"] |= state
        path.write_text(json.dumps(stored))
    page = page_of(complete)
    document = in_process("report", "digits", "--json", cwd=complete.parent).json
    assert set(document["included"]).isdisjoint(gone)
    assert set(kept) <= set(document["included"])
    assert page.text.count("measured before the bundle changed") == len(gone)
    if "bench.json" in gone:
        assert "latency, p50 not measured" in page.text
        assert "123.4" not in page.text
    if "verify.json" in gone:
        assert document["verdict"] == "incomplete"


def test_a_choice_that_was_changed_is_stale(complete: Path) -> None:
    """The reasons of one choice are not those of another."""
    manifest = load_bundle(complete).manifest
    (complete / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, choice=None)))
    assert "the choice: measured before the bundle changed" in page_of(complete).text


def test_calibration_with_another_temperature_is_stale(complete: Path) -> None:
    """Probabilities depend on it, so that reliability and calibration error are no longer those of the bundle."""
    manifest = load_bundle(complete).manifest
    variants = tuple(dataclasses.replace(one, temperature=3.21) for one in manifest.variants)
    (complete / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, variants=variants)))
    assert "stale fp32: measured before the bundle changed ( eval-fp32.json" in page_of(complete).text


def test_results_of_another_version_are_stale(complete: Path) -> None:
    """After an update the page says so, and does not guess what older fields meant."""
    path = results_folder(complete) / "bench.json"
    stored = json.loads(path.read_text())
    stored["document"]["schema"] = "mnist-edge/bench/1"
    path.write_text(json.dumps(stored))
    assert "written by another version of mnist-edge" in page_of(complete).text


def test_text_from_files_stays_text(complete: Path) -> None:
    """Names, labels, commands and versions come from files that others wrote: none becomes markup or a control character."""
    manifest = load_bundle(complete).manifest
    labels = (HOSTILE, *LABELS["digits"][1:])
    hostile = dataclasses.replace(manifest, labels=labels, versions={HOSTILE: HOSTILE}, normalization=HOSTILE)
    (complete / MANIFEST).write_bytes(manifest_bytes(hostile))
    keep(
        complete,
        "bench",
        timing(
            environment={"cpu": HOSTILE, "versions": {"x": HOSTILE}, "gpu": {"name": HOSTILE}},
            notes=(HOSTILE,),
            host=HOSTILE,
        ),
        (HOSTILE,),
    )
    keep(complete, "tune", tuning(reason=HOSTILE), (HOSTILE,))
    clean = len(page_of(complete).tags)
    page = page_of(complete)
    assert len(page.tags) == clean
    assert not {"script", "object"} & {tag for tag, _ in page.tags}
    assert page.text.count("<script>alert(1)</script>") >= 8
    content = (complete.parent / "report.html").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", content)
    card = in_process("report", "digits", "--format", "markdown", "--output", "card.md", cwd=complete.parent)
    assert card.code == 0, card.err
    text = (complete.parent / "card.md").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    outside = re.sub(r"(`+).*?\1", "", re.sub(r"\\.", "", text), flags=re.DOTALL)
    assert "<" not in outside


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"), ("[]", "has schema"), ('{"schema": "mnist-edge/bench/7"}', "has schema"), ("[" * 100_000, "is not JSON"),
        ('{"schema": "mnist-edge/result/1", "x": NaN}', "is not JSON"), ('{"schema": "mnist-edge/result/1", "x": 1e999}', "is not JSON"),
        ('{"schema": "mnist-edge/result/1"}', "Field required"),
    ],
)  # fmt: skip
def test_a_damaged_result_is_a_bad_file(bundle: Path, content: str, message: str) -> None:
    """Named with what to do; never half a page."""
    (results_folder(bundle) / "bench.json").write_text(content)
    done = in_process("report", "digits", cwd=bundle.parent)
    assert (done.code, done.err.count("\n")) == (3, 1), done.err
    assert "digits.results/bench.json" in done.err
    assert message in done.err
    assert not (bundle.parent / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("bench", ("results", 0, "p50_us"), -1.0), ("bench", ("results", 0, "quantiles_us", 3), 0.0), ("tune", ("candidates", 0, "p50_us"), 0.0),
        ("eval-fp32", ("confusion", 3), [1]), ("eval-fp32", ("mistakes", 0, "label"), 77), ("eval-fp32", ("accuracy",), "high"),
        ("verify", ("variants", 0, "flips"), None), ("verify", ("schema",), "mnist-edge/train/1"), ("bench", ("environment",), 5),
    ],
)  # fmt: skip
def test_a_document_that_no_command_writes_is_a_bad_file(
    complete: Path, name: str, path: tuple[Any, ...], value: Any
) -> None:
    """Neither a traceback nor a figure from what cannot be."""
    file = results_folder(complete) / f"{name}.json"
    stored = json.loads(file.read_text())
    place = stored["document"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(stored))
    done = in_process("report", "digits", cwd=complete.parent)
    assert (done.code, done.err.count("\n")) == (3, 1), done.err
    assert file.name in done.err


def test_a_fifo_among_the_results_is_a_bad_file(bundle: Path) -> None:
    """Nothing waits for a writer that never comes."""
    os.mkfifo(results_folder(bundle) / "bench.json")
    done = in_process("report", "digits", cwd=bundle.parent)
    assert (done.code, "is a FIFO" in done.err) == (3, True)


def test_a_page_that_is_too_large_to_send_is_refused(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One megabyte at most; the error names what to delete."""
    monkeypatch.setattr(html, "MAX_BYTES", 10_000)
    done = in_process("report", "digits", cwd=complete.parent)
    assert (done.code, "at most 10,000" in done.err, "digits.results" in done.err) == (1, True, True)


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
def test_many_rows_fit_into_a_megabyte(complete: Path) -> None:
    """Whoever times at many batch sizes still gets a page; the result holds what it leaves out."""
    rows = [row(batch=batch, quantiles_us=tuple(float(value) for value in range(1, 100))) for batch in range(1, 420)]
    keep(complete, "bench", result(*rows, cpu="x" * 5000))
    page_of(complete)
    assert (complete.parent / "report.html").stat().st_size < 1_000_000


def test_without_the_test_set_mistakes_are_listed_without_images(
    complete: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device has the results and not the images."""

    def absent(*_arguments: Any, **_options: Any) -> None:
        raise UnavailableError("no images here")

    monkeypatch.setattr(sources, "load_test_set", absent)
    page = page_of(complete)
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "The test set is not on this machine" in page.text


def test_images_of_another_test_set_are_not_shown(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture beside a mistake is the image that was predicted."""
    real = sources.load_test_set("digits")
    monkeypatch.setattr(
        sources, "load_test_set", lambda *_, **__: dataclasses.replace(real, test_images=255 - real.test_images)
    )
    assert not [tag for tag, _ in page_of(complete).tags if tag == "img"]


def test_without_matplotlib_the_command_says_how_to_get_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4, with the command for this machine; the card needs no figures."""
    from mnist_edge.cli import report as command

    monkeypatch.setattr(command, "find_spec", lambda _name: None)
    done = in_process("report", "digits", cwd=bundle.parent)
    assert (done.code, "report needs matplotlib" in done.err, "install" in done.err) == (4, True, True)
    assert in_process("report", "digits", "--format", "markdown", cwd=bundle.parent).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nothing",), 4, "does not exist: no bundle"), (("digits", "--output", "digits/report.html"), 2, "digits is a bundle"),
        (("digits", "--output", "digits"), 4, "Is a directory"), (("digits", "--dataset", "mnist"), 2, "the bundle is of digits"),
        ((), 4, "exported/ holds no folder"), (("eval.json",), 4, "holds no bundle"),
    ],
)  # fmt: skip
def test_what_cannot_be_reported_is_named(bundle: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    """One line, the code of its kind, and no file."""
    done = in_process("report", *arguments, cwd=bundle.parent)
    assert (done.code, done.err.count("\n")) == (code, 1), done.err
    assert message in done.err
    assert not (bundle.parent / "report.html").exists()


def test_a_changed_bundle_is_not_reported(bundle: Path) -> None:
    """A page about a damaged model would vouch for it."""
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes() + b"\0")
    assert in_process("report", "digits", cwd=bundle.parent).code == 3


def card_of(bundle: Path) -> ModelCard:
    done = in_process("report", bundle.name, "--format", "markdown", cwd=bundle.parent)
    assert done.code == 0, done.err
    return ModelCard.load(results_folder(bundle) / "README.md")


def test_the_card_is_one_for_the_hub(complete: Path) -> None:
    """Hugging Face's own library reads it, offline, and finds the accuracy that eval measured."""
    card = card_of(complete)
    accuracy = json.loads((complete.parent / "eval.json").read_text())["accuracy"]
    results = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert results["accuracy"] == accuracy
    assert (card.data.library_name, card.data.pipeline_tag) == ("onnx", "image-classification")
    assert "mnist-edge" in card.data.tags
    for heading in ("Intended use", "Training", "Metrics", "The same predictions", "Limits", "How to use"):
        assert f"\n## {heading}\n" in card.text
    assert card.validate is not None
    (program,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    os.chdir(complete)
    exec(compile(program, "card", "exec"), {})


def test_the_card_has_no_result_that_no_record_has(bundle: Path) -> None:
    """Without an evaluation there is no model-index, and the card says what was not measured."""
    (results_folder(bundle) / "eval-fp32.json").unlink()
    card = card_of(bundle)
    assert not card.data.eval_results
    assert "Calibration: not measured." in card.text
    assert "Latency: not measured." in card.text


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("verify digits", "verify"), ("verify digits --json --plot x.png --timeout 9", "verify"), ("verify digits --variant int8", "verify-int8"),
        ("verify digits --target c --device cortex-m3", "verify-c-cortex-m3"), ("verify digits --on user@host --tf32", "verify-tf32-user-host"),
        ("bench digits --batch 1,64 --threads 2", "bench-batch-1-64-threads-2"), ("bench digits --threads 1,64 --batch 2", "bench-batch-2-threads-1-64"),
        ("verify digits --outputs ../a/Other.npz", "verify-outputs-other"), ("bench digits --scenario server --rate 500", "bench-server-rate-500.0"),
        ("verify digits --variant " + 90 * "ab", "verify-" + 56 * "ab" + "a-f3f09404"),
    ],
)  # fmt: skip
def test_a_result_is_named_by_the_options_that_change_it(words: str, name: str) -> None:
    """A comparison in another place does not replace this one; another plot of the same does."""
    command, *rest = words.split()
    context = get_command(app).commands[command].make_context(command, rest)
    assert result_name(command, context) == name


def test_a_bundle_that_changes_meanwhile_keeps_no_result(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured of the old files is not filed under the new ones."""
    from mnist_edge.workflow import evaluate as stage

    real: Callable[..., Any] = stage.evaluate

    def changes(*arguments: Any, **options: Any) -> Any:
        report = real(*arguments, **options)
        manifest = load_bundle(bundle).manifest
        (bundle / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, choice="fp32")))
        return report

    monkeypatch.setattr(stage, "evaluate", changes)
    shutil.rmtree(results_folder(bundle))
    done = in_process("eval", "digits", cwd=bundle.parent)
    assert (done.code, "was changed meanwhile" in done.err, results_folder(bundle).exists()) == (0, True, False)


def test_gathering_measures_nothing(complete: Path) -> None:
    """The stage function reads, and changes neither the bundle nor its results."""
    before = {path: path.read_bytes() for path in complete.parent.rglob("*") if path.is_file()}
    content = workflow_report.gather_report(complete)
    assert not content.absent
    assert {path: path.read_bytes() for path in complete.parent.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_run_ends_with_its_page(tmp_path: Path) -> None:
    """The first thing that a new user opens: every stage is in it, and the command that opens it is printed last but one."""
    done = mnist_edge("run", "--dataset", "digits", "--epochs", "20", cwd=tmp_path)
    assert done.code == 0, done.err
    opener, following = done.err.splitlines()[-2:]
    assert re.fullmatch(r"wrote report\.html, .*; open it: (xdg-open|open|start) report\.html", opener)
    assert following.startswith("next: ")
    results = {path.name for path in (tmp_path / "exported" / "digits.results").iterdir()}
    assert results == {"export.json", "verify.json", "eval-fp32.json", "bench.json"}
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Summary passed every variant met its requirement in 1 comparison" in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 3
    assert page.text.count("not measured") == 1, "the choice of tune"


def test_a_page_that_cannot_be_written_does_not_undo_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After minutes of training, a full disk costs the page, and not the exit code."""
    from mnist_edge.cli import run as command

    said: list[str] = []
    monkeypatch.setattr("mnist_edge.reporting.console.say", said.append)
    command._write_page(tmp_path / "nothing", None, None)
    assert said[-1].startswith("report.html was not written: ")


AXE = next(
    (
        path
        for path in (Path(os.environ.get("NODE_PATH", "node_modules")) / "axe-core" / "axe.min.js",)
        if path.is_file()
    ),
    None,
)
LIGHT_INK, DARK_INK = "rgb(27, 36, 48)", "rgb(230, 234, 240)"


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
@needs_browser
@pytest.mark.skipif(AXE is None, reason="needs axe-core: npm install axe-core, and $NODE_PATH")
def test_the_page_works_in_a_browser(complete: Path) -> None:
    """On a phone and a desk, light, dark and printed: nothing is asked for, nothing goes wrong, and all of it can be read."""
    assert AXE is not None
    stale = json.loads((results_folder(complete) / "bench.json").read_text())
    stale["state"]["variants"]["fp32"] = "0" * 64
    (results_folder(complete) / "bench-old.json").write_text(json.dumps(stale))
    page_of(complete)
    url = (complete.parent / "report.html").as_uri()
    with open_browser() as browser:
        for width, height, phone in ((390, 844, True), (1280, 800, False)):
            for dark in (False, True):
                set_window(browser, width, height, phone=phone, dark=dark)
                browser.open(url)
                seen = f"{width}x{height}, {'dark' if dark else 'light'}"
                assert browser.evaluate("document.documentElement.scrollWidth") <= width, (
                    f"{seen}: wider than the window"
                )
                assert_readable(browser, DARK_INK if dark else LIGHT_INK, seen)
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        browser.send("Emulation.setEmulatedMedia", media="print", features=features)
        assert_readable(browser, LIGHT_INK, "print")
        assert base64.b64decode(browser.send("Page.printToPDF", timeout=60.0)["data"]).startswith(b"%PDF")
        noisy = [
            one
            for one in browser.events
            if one[0] in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}
        ]
        assert noisy == []
        asked = {
            parameters["request"]["url"]
            for method, parameters in browser.events
            if method == "Network.requestWillBeSent"
        }
        assert {one for one in asked if not one.startswith("data:image/png;base64,")} == {url}


def assert_readable(browser: Browser, ink: str, seen: str) -> None:
    """Text and figures have the colour of the scheme, images are there, and axe finds nothing serious."""
    for part in ("body", "svg text"):
        name = "color" if part == "body" else "fill"
        assert browser.evaluate(f"getComputedStyle(document.querySelector({part!r})).{name}") == ink, f"{seen}: {part}"
    assert browser.evaluate("[...document.images].every(one => one.complete && one.naturalWidth == 28)"), seen
    assert browser.evaluate("getComputedStyle(document.querySelector('h1')).fontFamily").startswith("system-ui"), seen
    browser.evaluate(f"{AXE.read_text(encoding='utf-8')};undefined")  # type: ignore[union-attr]
    found = browser.evaluate(
        "axe.run().then(done => done.violations.filter(one => ['serious', 'critical'].includes(one.impact))"
        ".map(one => [one.id, one.nodes.map(node => node.html.slice(0, 200))]))",
        timeout=60.0,
    )
    assert found == [], seen
