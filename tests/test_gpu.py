"""GPU candidates, the calls of a run with bound buffers (for real on the CPU), and the batch from which a GPU pays."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from test_cli import in_process, one_line
from test_compare import row

from mnist_edge.benchmarking import rounds, worker
from mnist_edge.benchmarking.bound import HostBoundRun
from mnist_edge.benchmarking.environment import environment, gpu_state
from mnist_edge.benchmarking.feeds import random_feeds
from mnist_edge.benchmarking.gpu import ROUNDS, BoundRun, gpu_from_batch, time_calls
from mnist_edge.benchmarking.outputs import OutputCheck
from mnist_edge.benchmarking.plan import Plan, resolve_plan
from mnist_edge.benchmarking.process import ProcessResult, Task
from mnist_edge.benchmarking.rounds import bench
from mnist_edge.records.benchmark import BenchRow, GpuCalls, Scenario
from mnist_edge.records.settings import SessionSettings
from mnist_edge.runtime.classifier import Classifier, open_classifier


class FakeGpu:
    """Parts that take a set time on a clock of their own, and a whole with its own price."""

    def __init__(self, copy_in: int, compute: int, copy_out: int, whole: int) -> None:
        self.costs = {"copy_in": copy_in, "compute": compute, "copy_out": copy_out, "whole": whole}
        self.time = 1_000
        self.calls: list[tuple[str, Any]] = []

    def clock(self) -> int:
        return self.time

    def did(self, part: str, feed: Any = None) -> Any:
        self.time += self.costs[part]
        self.calls.append((part, feed))
        return feed

    def copy_in(self, feed: Any) -> None:
        self.did("copy_in", feed)

    def compute(self) -> None:
        self.did("compute")

    def copy_out(self) -> Any:
        return self.did("copy_out")

    def whole(self, feed: Any) -> Any:
        return self.did("whole", feed)


FEEDS = [np.zeros(1), np.ones(1), np.full(1, 2.0)]


def test_the_parts_of_a_run_are_told_apart() -> None:
    """Upload, compute and download in microseconds; where they add up, they explain the whole."""
    gpu = FakeGpu(5_000, 20_000, 3_000, 28_000)
    assert time_calls(gpu, FEEDS, gpu.clock) == GpuCalls(
        copy_in_us=5, compute_us=20, copy_out_us=3, whole_us=28, sum_over_whole=1
    )
    assert [part for part, _ in gpu.calls] == ["copy_in", "compute", "copy_out", "whole"] * ROUNDS
    for part in ("copy_in", "whole"):
        assert [feed for name, feed in gpu.calls if name == part][:4] == [*FEEDS, FEEDS[0]]


@pytest.mark.parametrize(("whole", "explained"), [(56_000, 0.5), (35_000, 0.8), (14_000, 2.0)])
def test_a_whole_that_costs_more_than_its_parts_is_not_explained(whole: int, explained: float) -> None:
    """Below 1 something is missing from the parts, above 1 they overlap in the whole."""
    gpu = FakeGpu(5_000, 20_000, 3_000, whole)
    found = time_calls(gpu, FEEDS[:1], gpu.clock)
    assert (found.whole_us, found.sum_over_whole) == (whole / 1000, pytest.approx(explained))


def test_one_disturbed_run_is_not_the_figure() -> None:
    """Medians: a hundredth that took a second changes nothing."""
    gpu = FakeGpu(5_000, 20_000, 3_000, 28_000)
    usual = gpu.compute

    def compute() -> None:
        usual()
        if len(gpu.calls) == 42:
            gpu.time += 1_000_000_000

    gpu.compute = compute  # type: ignore[method-assign]
    assert time_calls(gpu, FEEDS, gpu.clock).compute_us == 20


def pair(batch: int, cpu: float | None, cuda: float | None, **changes: Any) -> list[BenchRow]:
    """Rows of one batch, on each provider that has a time."""
    times = {"cpu": cpu, "cuda": cuda}
    return [row((us,), batch=batch, provider=name, **changes) for name, us in times.items() if us is not None]


NEVER = [*pair(1, 10, 50), *pair(64, 100, 101), *pair(1024, 1000, 1000)]
ALWAYS = [*pair(1, 10, 9), *pair(64, 100, 20), *pair(1024, 1000, 50)]
FROM_64 = [*pair(1, 10, 50), *pair(64, 100, 60), *pair(1024, 1000, 100)]


@pytest.mark.parametrize(
    ("rows", "batch"),
    [
        ([], None),
        (pair(1, 10, None), None),
        (pair(1, None, 10), None),
        (NEVER, None),
        (ALWAYS, 1),
        (FROM_64, 64),
        (FROM_64[::-1], 64),
        ([*FROM_64, *pair(32, None, 1), *pair(4096, 1, None)], 64),
        ([*pair(1, 10, 9), *pair(64, 100, 110), *pair(1024, 1000, 100)], 1024),
        ([*pair(1, 10, 9), *pair(64, 100, 20), *pair(1024, 1000, 1100)], None),
    ],
    ids=[
        "nothing", "cpu only", "cuda only", "never", "always", "from 64", "any order", "batches of one side",
        "a gap", "not at the end",
    ],
)  # fmt: skip
def test_the_batch_from_which_the_gpu_wins(rows: list[BenchRow], batch: int | None) -> None:
    """From there on at every larger batch, too; a lucky small one does not count."""
    assert gpu_from_batch(rows) == batch


def test_the_best_of_each_side_is_compared() -> None:
    """A CUDA graph counts for the GPU, more threads for the CPU, PyTorch for neither."""
    rows = [*pair(1, 10, 12), *pair(1, None, 8, cuda_graph=True)]
    assert gpu_from_batch(rows) == 1
    assert gpu_from_batch([*rows, *pair(1, 7, None, threads=2)]) is None
    assert gpu_from_batch([*rows, *pair(1, 1, None, engine="torch")]) == 1
    assert gpu_from_batch([*pair(1, 10, 12), *pair(1, None, 1, engine="torch")]) is None


def plan(model: Path, **changes: Any) -> Plan:
    return Plan(model=model, **{"provider": "cuda", "rounds": 2, "scenario": Scenario(seconds=0.05), **changes})


def test_a_gpu_stands_beside_its_graph_and_the_cpu(bundle_folder: Path) -> None:
    """CUDA once per batch, plain, as a graph and in PyTorch; beside it the CPU once per batch and thread count."""
    found = resolve_plan(plan(bundle_folder, batches=(1, 64), threads=(1, 2))).candidates
    what = sorted(
        (one.batch, one.settings.threads, one.engine, one.settings.provider, one.settings.cuda_graph) for one in found
    )
    assert what == sorted(
        (batch, *kind)
        for batch in (1, 64)
        for kind in (
            (1, "onnxruntime", "cuda", False), (1, "onnxruntime", "cuda", True), (1, "torch", "cuda", False),
            (1, "onnxruntime", "cpu", False), (2, "onnxruntime", "cpu", False),
        )
    )  # fmt: skip
    assert len(set(found)) == len(found)


def test_on_the_cpu_there_is_no_graph_and_nothing_twice(bundle_folder: Path) -> None:
    """The plain case: one candidate an engine."""
    found = resolve_plan(plan(bundle_folder, provider="cpu", batches=(1, 64))).candidates
    assert len(found) == len(set(found)) == 4
    assert {(one.settings.provider, one.settings.cuda_graph) for one in found} == {("cpu", False)}


def timed_on_a_gpu(monkeypatch: pytest.MonkeyPatch, explained: float) -> list[Task]:
    """A GPU that takes 60 us whatever the batch, 50 as a graph; the CPU 10 us an image."""
    tasks: list[Task] = []

    def run(_module: str, task: Task) -> ProcessResult:
        tasks.append(task)
        us = (50.0 if task.settings.cuda_graph else 60.0) if task.settings.provider == "cuda" else 10.0 * task.batch
        parts = GpuCalls(
            copy_in_us=10, compute_us=30, copy_out_us=10, whole_us=50 / explained, sum_over_whole=explained
        )
        return ProcessResult(
            process_ns=1, session_ns=1, first_run_ns=1, warmup_runs=1, run_ns=[round(1000 * us)] * 40, wait_ns=[],
            elapsed_ns=round(40_000 * us), peak_rss_bytes=1, placement={}, check=OutputCheck(images=64, flips=0),
            gpu_calls=parts if task.settings.provider == "cuda" and "worker" in _module else None,
        )  # fmt: skip

    monkeypatch.setattr(rounds, "run_process", run)
    monkeypatch.setattr(rounds, "require_provider", lambda _provider: None)
    monkeypatch.setattr(rounds, "reference_work_ms", lambda: 10.0)
    return tasks


@pytest.mark.parametrize(("explained", "told"), [(1.0, False), (0.96, False), (0.9, True), (1.2, True)])
def test_parts_that_do_not_add_up_are_told(
    explained: float, told: bool, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 5 % they account for the whole; beyond, a note says by how much they do not."""
    timed_on_a_gpu(monkeypatch, explained)
    notes = bench(plan(bundle_folder)).notes
    found = [note for note in notes if "the calls of a GPU run add up to" in note]
    assert len(found) == (2 if told else 0)  # plain, and as a graph
    assert all(f"{explained:.0%} of the whole" in note for note in found)


def test_a_timing_on_a_gpu_says_from_which_batch_it_pays(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task asks for the provider its row names; only the GPU has transfers; the crossover is the graph's."""
    tasks = timed_on_a_gpu(monkeypatch, 1.0)
    found = bench(plan(bundle_folder, batches=(1, 5, 6, 64)))
    assert found.gpu_from_batch == 6
    for one in found.results:
        assert (one.gpu_calls is not None) == (one.settings.provider == "cuda" and one.engine == "onnxruntime")
        asked = [
            task
            for task in tasks
            if (task.settings.provider, task.batch, task.settings.cuda_graph)
            == (one.settings.provider, one.batch, one.settings.cuda_graph)
        ]
        assert len(asked) == (4 if one.settings.provider == "cuda" and not one.settings.cuda_graph else 2)
        expected = (50 if one.settings.cuda_graph else 60) if one.settings.provider == "cuda" else 10 * one.batch
        assert one.p50_us == expected
    assert found.to_json()["results"][0]["gpu_calls"] == dataclasses.asdict(
        GpuCalls(copy_in_us=10, compute_us=30, copy_out_us=10, whole_us=50, sum_over_whole=1)
    )


@pytest.fixture(scope="module")
def opened(bundle_folder: Path) -> Classifier:
    """The exported model on the CPU."""
    return open_classifier(bundle_folder / "model.onnx")


def images(seed: int, count: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


BOUND = {
    "device": lambda classifier, example: BoundRun(classifier, example, "cpu"),
    "host": HostBoundRun,
}
"""The two ways to bind buffers, both with buffers on the CPU."""


@pytest.mark.parametrize("kind", BOUND)
def test_a_bound_run_is_a_run(kind: str, opened: Classifier) -> None:
    """For real: every input is copied in, and an output stays when the next run overwrites it."""
    bound = BOUND[kind](opened, images(0))
    feeds = [images(seed) for seed in (1, 2, 1)]
    expected = [opened.run(feed) for feed in feeds]
    assert not np.array_equal(expected[0], expected[1])
    found = [bound.whole(feed) for feed in feeds]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("kind", BOUND)
def test_the_three_calls_make_a_bound_run(kind: str, opened: Classifier) -> None:
    """Copy in, compute, copy out: without the second, the outputs are those of the input before."""
    bound = BOUND[kind](opened, images(0))
    before = bound.whole(images(1))
    bound.copy_in(images(2))
    assert np.array_equal(bound.copy_out(), before)
    bound.compute()
    assert np.array_equal(bound.copy_out(), opened.run(images(2)))
    calls = time_calls(bound, [images(1), images(2)])
    assert min(calls.copy_in_us, calls.compute_us, calls.copy_out_us, calls.whole_us) > 0


@pytest.mark.parametrize(
    ("dtype", "sides"), [("float16", (27,)), ("double", (2, 1, 1)), ("float", ("classes",)), ("int64", ())], ids=str
)
def test_any_output_is_bound(dtype: str, sides: tuple[int | str, ...], tmp_path: Path) -> None:
    """Other numbers of classes and types, an undeclared number, and labels alone: all are timed."""
    kinds = {"float16": onnx.TensorProto.FLOAT16, "double": onnx.TensorProto.DOUBLE, "int64": onnx.TensorProto.INT64}
    kind = kinds.get(dtype, onnx.TensorProto.FLOAT)
    count = next((side for side in sides if isinstance(side, int)), 5)
    shape = np.array([-1, count, *[1] * (len(sides) - 1)][: 1 + len(sides)], np.int64)
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "w"], ["scores"]),
        onnx.helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0)
        if not sides
        else onnx.helper.make_node("Reshape", ["scores", "shape"], ["label"]),
        onnx.helper.make_node("Cast", ["label"], ["y"], to=kind),
    ]
    weights = np.random.default_rng(0).normal(0, 1, (784, count)).astype(np.float32)
    tensors = [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(shape, "shape")]
    graph = onnx.helper.make_graph(
        nodes, "g", [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1, 28, 28])],
        [onnx.helper.make_tensor_value_info("y", kind, ["n", *sides])], tensors,
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    classifier = open_classifier(path)
    feeds = random_feeds(classifier.input, 4)
    for bound in (BoundRun(classifier, feeds[0], "cpu"), HostBoundRun(classifier, feeds[0])):
        for feed in feeds[:2]:
            assert np.array_equal(bound.whole(feed), classifier.run_for(["y"], feed)[0])


@pytest.mark.parametrize("broken", [False, True])
def test_the_outputs_of_bound_runs_on_the_cpu_are_checked(
    broken: bool, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that did not read the bound array would predict one image again and again: no timing then."""
    if broken:
        monkeypatch.setattr(HostBoundRun, "copy_in", lambda *_: None)
    task = Task(
        model=str(bundle_folder / "model.onnx"),
        batch=1,
        golden=str(bundle_folder / "golden.npz"),
        scenario=Scenario(seconds=0.05),
        settings=SessionSettings(io_binding=True),
    )
    check = worker.measure(task).check
    assert check is not None
    assert (check.images, bool(check.problem)) == (64, broken)


def test_tf32_is_lossy_on_cuda_and_of_no_effect_on_the_cpu(bundle_folder: Path) -> None:
    """It is in the settings of every CUDA row, whose outputs then owe what fp16 would; the CPU beside stays exact."""
    for one in resolve_plan(plan(bundle_folder, tf32=True)).candidates:
        cuda = one.settings.provider == "cuda"
        assert one.settings.tf32 == cuda
        assert (one.requirement.kind, one.requirement.precision) == (("lossy", "fp16") if cuda else ("exact", "fp32"))
    assert not any(one.settings.tf32 for one in resolve_plan(plan(bundle_folder)).candidates)


def test_tf32_on_the_cpu_is_wrong_usage(bundle_folder: Path, tmp_path: Path) -> None:
    """An option without effect is refused."""
    done = in_process("bench", bundle_folder, "--tf32", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "--tf32 is for --provider cuda" in one_line(done.err)


@pytest.mark.parametrize(
    ("visible", "printed", "expected"),
    [
        ("", "NVIDIA H100, 580.1, 81559, 345, 1980, 2619", {"name": "NVIDIA H100", "driver": "580.1", "memory_mib": 81559, "sm_clock_mhz": 345, "max_sm_clock_mhz": 1980, "memory_clock_mhz": 2619}),
        ("3,1", "NVIDIA T4, 535.9, 15360, 300, 1590, [N/A]", {"name": "NVIDIA T4", "driver": "535.9", "memory_mib": 15360, "sm_clock_mhz": 300, "max_sm_clock_mhz": 1590, "memory_clock_mhz": "[N/A]"}),
        ("", "No devices were found", None),
        ("", "", None),
    ],
    ids=["one", "the visible one", "none", "nothing"],
)  # fmt: skip
def test_the_environment_names_the_gpu(
    visible: str, printed: str, expected: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name, driver, memory and clocks, of the device that CUDA numbers 0."""
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\nprintf '{printed}\\n'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_state() == expected
    asked = (tmp_path / "asked").read_text()
    assert ("--id=3 " in asked) == bool(visible)


def test_without_nvidia_smi_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, and no error; so does one that fails."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_state() is None
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert gpu_state() is None
    assert environment()["gpu"] is None
