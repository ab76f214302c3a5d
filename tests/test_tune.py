"""`tune`: the choice within limits, its reasons, what it writes, and that a killed call repeats nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from test_cli import in_process, one_line

from mnist_edge.benchmarking import profile
from mnist_edge.benchmarking.outputs import OutputCheck
from mnist_edge.benchmarking.plan import Plan, recorded_provider, resolve_plan
from mnist_edge.benchmarking.process import ProcessResult, Task
from mnist_edge.benchmarking.worker import measure
from mnist_edge.bundle.choice import write_choice
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes
from mnist_edge.bundle.publish import staging
from mnist_edge.data import sources
from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError, UsageError
from mnist_edge.files import locked, sha256_bytes
from mnist_edge.records.benchmark import Scenario
from mnist_edge.records.bundle import Variant, VariantSpec
from mnist_edge.records.settings import SessionSettings
from mnist_edge.records.tuning import Limits, TuneReport
from mnist_edge.tuning import search, timing
from mnist_edge.verification.verify import VerifyOptions
from mnist_edge.workflow import build
from mnist_edge.workflow import tune as stage
from mnist_edge.workflow import verify as verify_stage
from mnist_edge.workflow.tune import TuneRequest, study_folder, tune

REPORT = {
    "schema", "bundle", "objective", "provider", "batch", "limits", "environment", "choice", "candidates", "not_built",
    "profiles", "processes", "seconds", "resumed", "notes",
}  # fmt: skip
CANDIDATE = {
    "variant", "settings", "p50_us", "interval", "processes", "images_per_s", "start_ms", "bytes", "accuracy",
    "selection_accuracy", "meets_limits", "reason",
}  # fmt: skip
CHOICE = {
    "variant", "settings", "p50_us", "bytes", "accuracy", "selection_accuracy", "confirmed_images", "test_set", "ratio",
}  # fmt: skip
Speed = Callable[[Task], float]


def with_accuracies(source: Path, target: Path, **accuracies: float | None) -> Path:
    """A bundle whose variants have these accuracies on the selection split."""
    shutil.copytree(source, target)
    manifest = load_bundle(source).manifest
    variants = tuple(
        dataclasses.replace(variant, selection_accuracy=accuracies.get(variant.name, variant.selection_accuracy))
        for variant in manifest.variants
    )
    (target / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, variants=variants)))
    return target


VERIFIED: dict[tuple[object, ...], Any] = {}
really_verify = verify_stage.verify_folder


def verified_once(folder: Path, against: None, options: VerifyOptions, *rest: Any, variants: list[str]) -> Any:
    """What verify finds, for real, but for equal files and settings only once."""
    key = (load_bundle(folder).variant(variants[0]).sha256, options.session, options.max_drop)
    if key not in VERIFIED:
        VERIFIED[key] = really_verify(folder, against, options, *rest, variants=variants)
    return VERIFIED[key]


@pytest.fixture
def bundle(two_variant_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """fp32 and int8, equally accurate, in a folder where no run is found and nothing can be built."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "_can_build", lambda: False)
    monkeypatch.setattr(profile, "RUNS", 20)
    monkeypatch.setattr(verify_stage, "verify_folder", verified_once)
    return with_accuracies(two_variant_bundle, tmp_path / "small", fp32=0.95, int8=0.95)


def int8_is_faster(task: Task) -> float:
    """20 us against 50; a second thread and IO binding help a little."""
    us = 50.0 if task.model.endswith("model.onnx") else 20.0
    us *= 0.9 if task.settings.io_binding else 1.0
    us *= 1.3 if not task.settings.spinning else 1.0
    return us * (1.5 if task.settings.optimization != "all" else 1.0)


def result(us: float, problem: str = "") -> ProcessResult:
    """Of a process whose runs took so long; loading takes the number of microseconds in milliseconds."""
    return ProcessResult(
        process_ns=1, session_ns=round(1e6 * us), first_run_ns=1000, warmup_runs=1, run_ns=[round(1000 * us)] * 40,
        wait_ns=[], elapsed_ns=round(40_000 * us), peak_rss_bytes=1, placement={},
        check=OutputCheck(images=64, flips=0, problem=problem),
    )  # fmt: skip


def with_variant(bundle: Path, spec: VariantSpec, model: bytes, accuracy: float = 0.95) -> None:
    """Put a model into a bundle, or in place of the one of that name, without any proof."""
    manifest = load_bundle(bundle).manifest
    file = f"{spec.name}.onnx"
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(VariantSpec)}
    variant = Variant(
        **fields, file=file, bytes=len(model), sha256=sha256_bytes(model), passed=True, selection_accuracy=accuracy
    )
    others = tuple(other for other in manifest.variants if other.name != spec.name)
    (bundle / file).write_bytes(model)
    (bundle / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, variants=(*others, variant))))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Speed], list[Task]]:
    """Replace timing processes by ones of a given speed; returns the tasks that are sent."""

    def replace(speed: Speed) -> list[Task]:
        tasks: list[Task] = []

        def run(_module: str, task: Task) -> ProcessResult:
            tasks.append(task)
            noise = 0.002 * np.random.default_rng([len(tasks), 7]).normal()
            return result(speed(task) * float(np.exp(noise)))

        monkeypatch.setattr(timing, "run_process", run)
        return tasks

    return replace


def ask(bundle: Path, *, drop: float = 0.001, **changes: Any) -> TuneReport:
    """Tune with few options."""
    limits = {name: changes.pop(name) for name in ("max_latency_us", "max_bytes") if name in changes}
    return tune(TuneRequest(bundle=bundle, limits=Limits(max_accuracy_drop=drop, **limits), **changes))


def test_the_fastest_candidate_is_chosen_and_recorded(bundle: Path, timed: Callable[[Speed], list[Task]]) -> None:
    """With IO binding, which is measurably better; the manifest has both, and nothing else of it changed."""
    before = load_bundle(bundle).manifest
    timed(int8_is_faster)
    report = ask(bundle)
    assert report.choice is not None
    bound = SessionSettings(io_binding=True)
    assert (report.choice.variant, report.choice.settings) == ("int8", bound)
    assert report.choice.p50_us == pytest.approx(18.0, rel=0.01)
    assert report.choice.ratio == pytest.approx(0.36, rel=0.01)
    assert (report.choice.confirmed_images, report.choice.test_set) == (360, True)
    after = load_bundle(bundle).manifest
    assert (after.choice, after.variants[1].settings) == ("int8", bound)
    recorded = dataclasses.replace(after.variants[1], settings=SessionSettings())
    assert dataclasses.replace(after, choice=None, variants=(after.variants[0], recorded)) == before
    assert not report.resumed
    assert "only the variants of the bundle are timed: PyTorch is not installed" in report.notes[0]


def test_the_json_and_the_table(bundle: Path, timed: Callable[[Speed], list[Task]], tmp_path: Path) -> None:
    """Every key that scripts read; the table fits 80 columns, marks the choice and has a reason for each variant."""
    timed(int8_is_faster)
    done = in_process("tune", bundle, "--json", cwd=tmp_path)
    assert (done.code, set(done.json)) == (0, REPORT)
    assert done.json["schema"] == "mnist-edge/tune/1"
    assert set(done.json["choice"]) == CHOICE
    assert all(set(one) == CANDIDATE for one in done.json["candidates"])
    assert all(one["reason"] for one in done.json["candidates"])
    assert done.json["limits"] == {"max_accuracy_drop": 0.001, "max_latency_us": None, "max_bytes": None}
    first, *others = done.json["candidates"]
    assert first["variant"] == done.json["choice"]["variant"]
    assert first["interval"][0] < first["p50_us"] < first["interval"][1]
    assert [one["p50_us"] for one in others] == sorted(one["p50_us"] for one in others)
    table = in_process("tune", bundle, cwd=tmp_path, COLUMNS="80")
    lines = table.out.splitlines()
    rows = [line for line in lines if line.endswith(("default", "IO binding"))]
    assert [(line.split()[0], len(line) <= 80) for line in rows] == [("*", True), ("fp32", True)]
    assert any(line.startswith("fp32: 2.50 times the time of int8; ") for line in lines)
    assert (study_folder(bundle) / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_call_that_was_killed_repeats_nothing(bundle: Path, timed: Callable[[Speed], list[Task]]) -> None:
    """Ended in the middle of any process, the same command asks for the others only, and chooses the same."""
    tasks = timed(int8_is_faster)
    whole = ask(bundle)
    settled = [(task.model, task.settings, task.seed) for task in tasks]
    for end in (1, len(settled) // 2, len(settled) - 1):
        shutil.rmtree(study_folder(bundle))
        write_choice(bundle, None, {"int8": SessionSettings()})
        tasks = timed(killed_after(int8_is_faster, end))
        with pytest.raises(KeyboardInterrupt):
            ask(bundle)
        assert load_bundle(bundle).manifest.choice is None
        tasks += timed(int8_is_faster)
        again = timed(int8_is_faster)
        report = ask(bundle)
        assert report.resumed
        done = [(task.model, task.settings, task.seed) for task in tasks[:end]]
        assert not set(done) & {(task.model, task.settings, task.seed) for task in again}
        assert len(done) + len(again) == len(set(settled))
        assert report.choice is not None
        assert whole.choice is not None
        assert (report.choice.variant, report.choice.settings) == (whole.choice.variant, whole.choice.settings)
    assert ask(bundle).processes == 0


def killed_after(speed: Speed, count: int) -> Speed:
    """End the call in the process after `count` others."""
    started = 0

    def run(task: Task) -> float:
        nonlocal started
        started += 1
        if started > count:
            raise KeyboardInterrupt
        return speed(task)

    return run


@pytest.mark.slow
def test_overwrite_starts_anew(bundle: Path, timed: Callable[[Speed], list[Task]]) -> None:
    """And another objective, batch or bundle never finds the timings of this one."""
    timed(int8_is_faster)
    first = ask(bundle)
    assert ask(bundle).processes == 0
    assert ask(bundle, overwrite=True).processes == first.processes > 0
    for changes in ({"objective": "throughput"}, {"objective": "cold-start"}, {"batch": 2}):
        report = ask(bundle, **changes)
        assert (report.processes > 0, report.resumed) == (True, False)
    assert ask(bundle, objective="throughput", batch=64).processes == 0  # its default


def test_nothing_is_chosen_where_no_candidate_meets_the_limits(
    bundle: Path, timed: Callable[[Speed], list[Task]], tmp_path: Path
) -> None:
    """Exit 1: the nearest is named with what it misses, the bundle keeps its variants and has no choice."""
    timed(int8_is_faster)
    before = load_bundle(bundle).manifest
    done = in_process("tune", bundle, "--max-latency-us", "10", "--max-bytes", "100000", "--json", cwd=tmp_path)
    assert (done.code, done.json["choice"]) == (1, None)
    nearest = done.json["candidates"][0]
    assert (nearest["variant"], nearest["settings"]["io_binding"]) == ("int8", True)
    assert nearest["reason"].startswith("p50 18.")
    assert nearest["reason"].endswith("us, 10 allowed")
    assert not any(one["meets_limits"] for one in done.json["candidates"])
    fp32 = next(one for one in done.json["candidates"] if one["variant"] == "fp32")
    assert "bytes, 100,000 allowed" in fp32["reason"]
    assert "no candidate meets the limits" in done.err
    assert "the nearest, int8" in done.err
    assert load_bundle(bundle).manifest == before
    table = in_process("tune", bundle, "--max-latency-us", "10", cwd=tmp_path)
    assert (table.code, table.out.startswith("NO candidate meets the limits")) == (1, True)


@pytest.mark.usefixtures("bundle")
def test_a_variant_that_breaks_a_limit_is_timed_but_not_chosen(
    two_variant_bundle: Path, timed: Callable[[Speed], list[Task]], tmp_path: Path
) -> None:
    """It is judged by the images held out of training, whatever its accuracy on the test set, with default settings."""
    worse = with_accuracies(two_variant_bundle, tmp_path / "worse", fp32=0.95, int8=0.94)
    tasks = timed(int8_is_faster)
    report = ask(worse)
    assert report.choice is not None
    assert report.choice.variant == "fp32"
    assert {task.settings for task in tasks if not task.model.endswith("model.onnx")} == {SessionSettings()}
    int8 = next(one for one in report.candidates if one.variant == "int8")
    assert (int8.meets_limits, int8.reason) == (False, "1.00 points less accurate than fp32, 0.1 allowed")
    assert int8.p50_us == pytest.approx(20, rel=0.01)
    assert ask(worse, drop=0.01).choice is not None
    assert load_bundle(worse).manifest.choice == "int8"


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "expected"), [("size", "int8"), ("throughput", "int8"), ("cold-start", "int8")])
def test_every_objective_has_its_own_measure(
    objective: Any, expected: str, bundle: Path, timed: Callable[[Speed], list[Task]]
) -> None:
    """Bytes, mean time of a run, or loading and first run; losers are compared in that."""
    tasks = timed(int8_is_faster)
    report = ask(bundle, objective=objective)
    assert report.choice is not None
    assert report.choice.variant == expected
    assert {task.batch for task in tasks} == {64 if objective == "throughput" else 1}
    reason = next(one.reason for one in report.candidates if one.variant == "fp32")
    words = {
        "size": "times the bytes of int8",
        "throughput": "times the time of int8",
        "cold-start": "ms and the first",
    }
    assert words[objective] in reason
    if objective == "cold-start":
        assert not any(task.settings.io_binding or not task.settings.spinning for task in tasks)


@pytest.mark.slow
def test_size_prefers_the_smallest_variant_that_is_fast_enough(
    bundle: Path, timed: Callable[[Speed], list[Task]]
) -> None:
    """Where the smallest is too slow with every setting, the next one is tried."""
    timed(lambda task: 10.0 if task.model.endswith("model.onnx") else 90.0)
    assert chosen(ask(bundle, objective="size")) == "int8"
    assert chosen(ask(bundle, objective="size", max_latency_us=50)) == "fp32"
    assert ask(bundle, objective="size", max_latency_us=5).choice is None


def chosen(report: TuneReport) -> str | None:
    """The name of the choice."""
    return None if report.choice is None else report.choice.variant


def test_outputs_that_are_wrong_rule_a_candidate_out(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest model is no candidate if its timed runs predict wrongly, or onnxruntime cannot run it."""

    def run(_module: str, task: Task) -> ProcessResult:
        if task.model.endswith("model.onnx"):
            return result(50.0)
        if task.settings.io_binding:
            raise BadFileError("onnxruntime cannot run int8")
        return result(1.0, problem="60 of 64 predictions of timed runs differ")

    monkeypatch.setattr(timing, "run_process", run)
    report = ask(bundle)
    assert chosen(report) == "fp32"
    reasons = {one.settings.io_binding: one.reason for one in report.candidates if one.variant == "int8"}
    assert reasons[True] == "not timed: onnxruntime cannot run int8"
    assert "60 of 64 predictions" in reasons[False]
    assert all(one.p50_us is None for one in report.candidates if one.variant == "int8")


def slowed(model: Path, nodes: int) -> bytes:
    """A model with a chain of negations before its logits, which no optimiser removes, an even number of them."""
    proto = onnx.load(model)
    last = next(node for node in proto.graph.node if "logits" in node.output)
    last.output[0] = "n0"
    for number in range(nodes):
        output = "logits" if number == nodes - 1 else f"n{number + 1}"
        proto.graph.node.append(helper.make_node("Neg", [f"n{number}"], [output]))
    return proto.SerializeToString()


@pytest.mark.slow
def test_the_reason_of_a_made_up_slow_variant_is_the_operator_that_was_put_in(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real sessions and a real profile: negations between the last layer and the logits, named with their share."""
    monkeypatch.setattr(timing, "SCENARIO", Scenario(seconds=0.01))
    monkeypatch.setattr(timing, "run_process", lambda _module, task: measure(task))
    monkeypatch.setattr(search, "single_changes", lambda *_: [])
    monkeypatch.setattr(search, "ROUNDS", 2)
    spec = VariantSpec(name="slowed", precision="fp32", requirement="exact")
    with_variant(bundle, spec, slowed(bundle / "model.onnx", 60))
    report = ask(bundle, variants=("fp32", "slowed"))
    assert chosen(report) == "fp32"
    (neg, *_) = report.profiles["slowed"]
    assert neg.operator == "Neg"
    assert neg.share > 0.5
    default = next(one for one in report.candidates if one.variant == "slowed")
    assert f"; {neg.share:.0%} of its time is Neg (" in default.reason
    assert "fp32 takes" in default.reason
    assert all("Neg" not in one.reason for one in report.candidates if one.variant == "fp32")


def test_a_choice_that_does_not_pass_is_not_recorded(bundle: Path, timed: Callable[[Speed], list[Task]]) -> None:
    """The images that chose it may be kind to it: the test set has the last word, exit 1, and the manifest stays."""
    timed(int8_is_faster)
    proto = onnx.load(bundle / "model.onnx")
    bias = next(value for value in proto.graph.initializer if value.name == "layers.4.bias")
    array = onnx.numpy_helper.to_array(bias).copy()
    array[3] += 100
    bias.CopyFrom(onnx.numpy_helper.from_array(array, bias.name))
    spec = VariantSpec(name="int8", precision="int8", requirement="lossy", max_accuracy_drop=0.05)
    with_variant(bundle, spec, proto.SerializeToString())
    manifest = load_bundle(bundle).manifest
    with pytest.raises(CheckFailedError, match="int8 was chosen and does not pass"):
        ask(bundle)
    assert load_bundle(bundle).manifest == manifest


def test_a_choice_that_loses_more_on_the_test_set_is_not_recorded(
    bundle: Path, timed: Callable[[Speed], list[Task]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may pass verify, which asks what the images can show; the limit holds for the accuracy itself as well."""
    timed(int8_is_faster)
    truth = load_bundle(bundle).manifest.accuracy

    def verify(*arguments: Any, **more: Any) -> Any:
        report, reference = verified_once(*arguments, **more)
        (found,) = report.variants
        accuracy = dataclasses.replace(found.accuracy, variant=truth - lost)
        return dataclasses.replace(report, variants=(dataclasses.replace(found, accuracy=accuracy),)), reference

    monkeypatch.setattr(verify_stage, "verify_folder", verify)
    lost = 0.002
    with pytest.raises(CheckFailedError, match=r"loses 0\.20 points on the test set; 0\.1 are allowed"):
        ask(bundle)
    assert load_bundle(bundle).manifest.choice is None
    lost = 0.001
    assert chosen(ask(bundle)) == "int8"


@pytest.mark.slow
def test_without_the_test_set_the_choice_rests_on_what_export_recorded(
    bundle: Path, timed: Callable[[Speed], list[Task]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device without the dataset: the golden inputs are run, and the recorded accuracy must meet the limit."""
    timed(int8_is_faster)

    def unavailable(*_: Any, **__: Any) -> None:
        raise UnavailableError("no dataset here")

    monkeypatch.setattr(verify_stage, "verify_folder", really_verify)
    monkeypatch.setattr(sources, "load_test_set", unavailable)
    manifest = load_bundle(bundle).manifest

    def with_int8(**changes: Any) -> None:
        """360 golden images cannot show that int8 loses at most 0.1 points."""
        int8 = dataclasses.replace(manifest.variants[1], max_accuracy_drop=0.001, **changes)
        changed = dataclasses.replace(manifest, variants=(manifest.variants[0], int8))
        (bundle / MANIFEST).write_bytes(manifest_bytes(changed))

    with_int8()
    report = ask(bundle)
    assert report.choice is not None
    assert (report.choice.variant, report.choice.test_set) == ("int8", False)
    assert report.choice.accuracy == manifest.variants[1].accuracy
    assert report.choice.confirmed_images == len(load_bundle(bundle).golden.images)
    with_int8(accuracy=manifest.accuracy - 0.002)
    with pytest.raises(CheckFailedError, match=r"loses 0\.20 points on the test set"):
        ask(bundle)
    with_int8(accuracy=None)
    with pytest.raises(CheckFailedError, match="does not pass: 360 images cannot show"):
        ask(bundle)


@pytest.mark.slow
def test_a_race_that_ran_out_of_time_is_reported(
    bundle: Path, timed: Callable[[Speed], list[Task]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine leaves more candidates undecided than an idle one."""
    random = np.random.default_rng(1)
    tasks = timed(lambda task: int8_is_faster(task) * float(random.uniform(1, 2)))
    monkeypatch.setattr(search, "RACE_SECONDS", 0.0)
    report = ask(bundle)
    assert len(tasks) == 2 * len(report.candidates)
    assert "ended early" in report.notes[-1]


def test_a_bundle_or_study_in_use_is_refused_before_anything_is_timed(
    bundle: Path, timed: Callable[[Speed], list[Task]]
) -> None:
    """Exit 4: another export, or another tune."""
    tasks = timed(int8_is_faster)
    with staging(bundle), pytest.raises(UnavailableError, match="another mnist-edge"):
        ask(bundle)
    study_folder(bundle).mkdir(parents=True)
    with locked(study_folder(bundle)), pytest.raises(UnavailableError, match="in use"):
        ask(bundle)
    assert tasks == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--max-bytes", "1000", "--variant", "fp32"), 2, "--max-bytes 1000 contradicts --variant"),
        (("--max-accuracy-drop", "nan"), 2, "--max-accuracy-drop"),
        (("--max-accuracy-drop", "-1"), 2, "--max-accuracy-drop"),
        (("--max-latency-us", "0"), 2, "--max-latency-us"),
        (("--variant", "int3"), 4, "PyTorch is not installed"),
        (("--provider", "cuda"), 4, "cuda"),
    ],
    ids=str,
)
def test_bad_input_is_refused(
    words: tuple[str, ...], code: int, message: str, bundle: Path, tmp_path: Path, timed: Callable[[Speed], list[Task]]
) -> None:
    """In one line, before anything is timed."""
    tasks = timed(int8_is_faster)
    done = in_process("tune", bundle, *words, cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert message in one_line(done.err)
    assert tasks == []


def test_a_variant_that_nothing_makes_is_wrong_usage(
    bundle: Path, timed: Callable[[Speed], list[Task]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint lists what there is, in the bundle and to be built."""
    timed(int8_is_faster)
    monkeypatch.setattr(build, "_can_build", lambda: True)
    with pytest.raises(UsageError, match="int3") as caught:
        ask(bundle, variants=("int3",))
    assert "fp32, int8" in caught.value.hint
    assert "fp16" in caught.value.hint


def test_named_variants_alone_are_candidates(bundle: Path, timed: Callable[[Speed], list[Task]]) -> None:
    """fp32 is then the reference of the accuracy only."""
    tasks = timed(int8_is_faster)
    report = ask(bundle, variants=("int8",))
    assert {Path(task.model).name for task in tasks} == {"int8.onnx"}
    assert report.choice is not None
    assert report.choice.ratio is None


@pytest.mark.slow
def test_what_is_missing_is_built_once(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: Callable[[Speed], list[Task]]
) -> None:
    """From the run in runs/ with the weights of the bundle; a kind that failed is not tried again."""
    shutil.copytree(workplace / "runs", tmp_path / "runs")
    folder = shutil.copytree(workplace / "exported" / "digits", tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    timed(int8_is_faster)
    tried: list[str] = []
    real = build.Builder.build

    def record(self: build.Builder, name: str) -> Any:
        tried.append(name)
        if name == "int8":
            from mnist_edge.records.bundle import FailedVariant

            return FailedVariant(name=name, kind="check-failed", message="it is worse", hint="")
        return real(self, name)

    monkeypatch.setattr(build.Builder, "build", record)
    report = ask(folder, variants=("fp32", "fp16", "int8"), drop=0.01)
    assert tried == ["fp16", "int8"]
    assert [variant.name for variant in load_bundle(folder).manifest.variants] == ["fp32", "fp16"]
    assert [(one.name, one.message) for one in report.not_built] == [("int8", "it is worse")]
    again = ask(folder, variants=("fp32", "fp16", "int8"), drop=0.01)
    assert tried == ["fp16", "int8"]
    assert (again.not_built, again.processes) == (report.not_built, 0)


STUDENTS = ("student-fast", "student-3k", "student-6k", "student-12k", "student-40k")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "present", "expected"),
    [
        ({}, (), ["fp16", "student-fast", "student-6k"]),
        ({}, ("fp16", "student-6k"), ["student-fast"]),
        ({}, ("fp16", "student-fast"), ["student-6k"]),
        ({"objective": "size"}, (), ["fp16", "student-3k", "student-6k"]),
        ({"objective": "size"}, ("student-6k",), ["fp16", "student-3k"]),
        ({"variants": ("student-40k", "student-6k", "fp32")}, (), ["student-6k", "student-40k"]),
        ({"variants": ("student-40k", "student-6k")}, ("student-6k",), ["student-40k"]),
        ({"variants": ("int4-exact", "student-6k-exact")}, (), ["int4-exact", "student-6k-exact"]),
    ],
    ids=str,
)
def test_students_are_built_until_one_meets_the_limits(
    changes: dict[str, Any],
    present: tuple[str, ...],
    expected: list[str],
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """6k does: the larger ones would take minutes to train, to be slower and larger. Named ones are all built.

    An exact student is as large as its parent and slower, and int4-exact is never best: only where they are named.
    """
    monkeypatch.setattr(build, "known_kinds", lambda: ("fp16", "int8", "int4-exact", *STUDENTS, "student-6k-exact"))
    model = (bundle / "model.onnx").read_bytes()

    def make(name: str) -> None:
        spec = VariantSpec(name=name, precision="int4", requirement="accuracy", max_accuracy_drop=0.05)
        with_variant(bundle, spec, model, 0.95 if name in {"student-6k", "student-12k", "student-40k"} else 0.94)

    for name in present:
        make(name)
    built = []
    for name in stage._to_build(TuneRequest(bundle=bundle, limits=Limits(max_accuracy_drop=0.001), **changes)):
        built.append(name)
        make(name)
    assert built == expected


@pytest.fixture
def tuned(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose choice is int8 on two threads without spinning."""
    monkeypatch.setattr(verify_stage, "verify_folder", really_verify)
    write_choice(bundle, "int8", {"int8": SessionSettings(threads=2, spinning=False, io_binding=True)})
    return bundle


def test_bench_times_each_variant_with_its_recorded_settings(tuned: Path) -> None:
    """The baseline once for each thread count; an option that is named replaces what was recorded, and no more."""
    found = resolve_plan(Plan(model=tuned)).candidates
    settings = {(one.engine, one.variant, one.settings) for one in found}
    recorded = SessionSettings(threads=2, spinning=False, io_binding=True)
    assert settings == {
        ("onnxruntime", "fp32", SessionSettings()), ("onnxruntime", "int8", recorded),
        ("torch", "fp32", SessionSettings()), ("torch", "fp32", SessionSettings(threads=2)),
    }  # fmt: skip
    (int8,) = [one for one in resolve_plan(Plan(model=tuned, threads=(1,))).candidates if one.variant == "int8"]
    assert int8.settings == dataclasses.replace(recorded, threads=1)
    assert recorded_provider(tuned) == recorded_provider(tuned / "model.onnx") == "cpu"
    write_choice(tuned, "int8", {"int8": SessionSettings(provider="cuda", cuda_graph=True)})
    assert recorded_provider(tuned) == "cuda"
    assert {one.settings for one in resolve_plan(Plan(model=tuned)).candidates} == {SessionSettings()}


@pytest.mark.slow
def test_verify_opens_each_variant_with_its_recorded_settings(tuned: Path, tmp_path: Path) -> None:
    """And reports them; a named option holds for all."""
    done = in_process("verify", tuned, "--max-accuracy-drop", "5", "--json", cwd=tmp_path)
    assert (done.code, done.json["settings"]) == (0, None)
    fp32, int8 = (variant["settings"] for variant in done.json["variants"])
    assert (fp32["threads"], int8["threads"], int8["spinning"], int8["io_binding"]) == (1, 2, False, True)
    done = in_process(
        "verify", tuned, "--max-accuracy-drop", "5", "--threads", "1", "--variant", "int8", "--json", cwd=tmp_path
    )
    assert (done.json["settings"]["threads"], done.json["settings"]["spinning"]) == (1, False)
    table = in_process("verify", tuned, "--max-accuracy-drop", "5", cwd=tmp_path)
    assert "each variant with its settings" in table.out
    assert "int8: on cpu, 2 threads, no spinning, IO binding" in table.out


@pytest.mark.slow
def test_eval_takes_the_choice(tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its settings; without a choice the first variant, and a named one in any case."""
    from mnist_edge.runtime import classifier

    opened: list[SessionSettings] = []
    real = classifier.open_session
    monkeypatch.setattr(
        classifier,
        "open_session",
        lambda model, settings, *rest, **more: opened.append(settings) or real(model, settings, *rest, **more),
    )
    done = in_process("eval", tuned, "--json", cwd=tmp_path)
    assert (done.json["variant"], opened[-1].threads) == ("int8", 2)
    assert "int8, which tune chose" in done.err
    assert in_process("eval", tuned, "--variant", "fp32", "--json", cwd=tmp_path).json["variant"] == "fp32"
    assert opened[-1] == SessionSettings()
    write_choice(tuned, None, {})
    assert in_process("eval", tuned, "--json", cwd=tmp_path).json["variant"] == "fp32"


def test_recorded_settings_of_another_provider_do_not_apply() -> None:
    """Eight threads of a CPU say nothing about a GPU."""
    recorded = SessionSettings(threads=8, prepacking=False)
    assert recorded.with_named({}) == recorded
    assert recorded.with_named({"threads": 2}) == SessionSettings(threads=2, prepacking=False)
    assert recorded.with_named({"provider": "cuda"}) == SessionSettings(provider="cuda")
    assert recorded.with_named({"provider": "cpu", "optimization": "basic"}) == dataclasses.replace(
        recorded, optimization="basic"
    )


def test_a_damaged_journal_is_named(bundle: Path, timed: Callable[[Speed], list[Task]], tmp_path: Path) -> None:
    """Exit 3, and --overwrite is the way out; an impossible time in it is refused too."""
    timed(int8_is_faster)
    ask(bundle)
    path = study_folder(bundle) / "journal.jsonl"
    lines = path.read_text().splitlines()
    negative = json.loads(lines[0])
    negative["result"]["p50_us"] = -1.0
    path.write_text("\n".join([json.dumps(negative), *lines[1:]]) + "\n")
    done = in_process("tune", bundle, cwd=tmp_path)
    assert (done.code, "impossible time" in done.err.splitlines()[-1]) == (3, True)
    path.write_text("{}\n")
    done = in_process("tune", bundle, cwd=tmp_path)
    assert (done.code, "journal.jsonl" in one_line(done.err)) == (3, True)
    assert in_process("tune", bundle, "--overwrite", cwd=tmp_path).code == 0
