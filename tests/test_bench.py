"""Timing: complete rows with their surroundings, and no figure where something is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image
from test_bundle import rewrite_bundle
from test_cli import in_process, one_line

from mnist_edge.benchmarking import plan as plans
from mnist_edge.benchmarking import rounds
from mnist_edge.benchmarking.outputs import OutputCheck
from mnist_edge.benchmarking.plan import SECONDS, Plan, resolve_plan
from mnist_edge.benchmarking.process import ProcessResult, Task, run_process
from mnist_edge.benchmarking.profile import sum_by_operator
from mnist_edge.benchmarking.results import read_result
from mnist_edge.benchmarking.rounds import ENGINES, bench
from mnist_edge.benchmarking.self_check import COMPARISONS, FALSE_POSITIVES, self_check
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.golden import golden_bytes
from mnist_edge.cpus import available_cpus
from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError, UsageError
from mnist_edge.extras import install_hint
from mnist_edge.records.benchmark import BenchReport, Scenario
from mnist_edge.records.settings import DEFAULT_SETTINGS

ROW = {
    "engine", "variant", "batch", "scenario", "settings", "processes", "samples", "outliers",
    "p50_us", "p90_us", "p99_us", "p999_us", "intervals", "throughput_per_s", "cold_start_ms", "process_ms",
    "session_ms", "first_run_ms", "peak_rss_mb", "bytes", "ratio_to_torch", "server", "gpu_calls", "placement",
    "outputs", "quantiles_us",
}  # fmt: skip
ENVIRONMENT = {
    "date", "cpu", "cpu_features", "machine", "system", "cores", "affinity", "governor", "load_1min", "python",
    "versions", "providers", "available_cpus", "gpu",
}  # fmt: skip


def plan(model: Path, **changes: Any) -> Plan:
    """One short round."""
    options = {"provider": "cpu", "batches": None, "threads": (1,), "rounds": 1, "scenario": Scenario(seconds=0.05)}
    return Plan(model=model, **(options | changes))


@pytest.fixture(scope="module")
def report(bundle_folder: Path) -> BenchReport:
    """A bundle timed in two rounds, with PyTorch beside it."""
    return bench(plan(bundle_folder, rounds=2))


@pytest.fixture
def nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test that starts a timing process."""
    monkeypatch.setattr(rounds, "run_process", lambda *_: pytest.fail("a process was started"))


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device: PyTorch is not installed, so that it is not timed."""
    monkeypatch.setattr(plans, "find_spec", lambda name: None if name == "torch" else find_spec(name))


@pytest.mark.xdist_group("bench-report")
def test_every_row_is_complete(report: BenchReport, bundle_folder: Path) -> None:
    """Each engine once, with every figure that the README and scripts read."""
    content = report.to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert set(content) == {
        "schema", "model", "weights_sha256", "environment", "order_seed", "reference_work_ms", "results", "gpu_from_batch",
        "profile", "notes", "thread_advice", "host",
    }  # fmt: skip
    assert content["schema"] == "mnist-edge/bench/7"
    assert content["weights_sha256"] == load_bundle(bundle_folder).manifest.weights_sha256
    assert (len(content["reference_work_ms"]), content["gpu_from_batch"], content["profile"]) == (2, None, [])
    assert min(content["reference_work_ms"]) > 0
    assert [row["engine"] for row in content["results"]] == ["onnxruntime", "torch"]
    for row in content["results"]:
        assert set(row) == ROW
        assert (row["variant"], row["batch"], row["settings"]["provider"], row["settings"]["threads"]) == (
            "fp32",
            1,
            "cpu",
            1,
        )
        assert row["scenario"] == {"name": "single-stream", "seconds": 0.05, "rate_per_s": None, "gap_ms": None}
        assert (row["settings"]["cuda_graph"], row["server"], row["gpu_calls"]) == (False, None, None)
        assert [process["runs"] >= 30 for process in row["processes"]] == [True, True]
        assert sum(process["runs"] for process in row["processes"]) == row["samples"] >= 60
        assert 0 <= row["outliers"] < row["samples"] / 2
        assert row["bytes"] == (bundle_folder / "model.onnx").stat().st_size
        assert 0 < row["p50_us"] <= row["p90_us"]
        assert (row["p99_us"] is None) == (row["samples"] < 299)
        assert len(row["quantiles_us"]) == (99 if row["samples"] >= 100 else 0)
        assert row["quantiles_us"] == sorted(row["quantiles_us"])
        assert not row["quantiles_us"] or row["quantiles_us"][49] <= row["p50_us"] <= row["quantiles_us"][50]
        assert (row["p999_us"] is None) == (row["samples"] < 2995)
        timed = {name for name in ("p50_us", "p90_us", "p99_us", "p999_us") if row[name] is not None}
        assert row["intervals"].keys() == timed | {"ratio_to_torch"}
        assert all(low <= row[name] <= high for name, (low, high) in row["intervals"].items())
        # The median of two is their mean, and the mean of a sum is the sum of the means.
        parts = row["process_ms"] + row["session_ms"] + row["first_run_ms"]
        assert row["cold_start_ms"] == pytest.approx(parts)
        assert min(row["process_ms"], row["session_ms"], row["first_run_ms"]) > 0
        assert row["peak_rss_mb"] > 10
        assert "checked against golden" in row["outputs"]
        # The mean of a run lies at or above half the median: throughput is of the same runs.
        assert 0 < row["throughput_per_s"] <= 2e6 / row["p50_us"]


@pytest.mark.xdist_group("bench-report")
def test_ratios_are_to_pytorch_at_the_same_batch_and_threads(report: BenchReport) -> None:
    """PyTorch's own ratio is 1, the other is the quotient of the medians."""
    ours, torch = report.results
    assert torch.ratio_to_torch == 1
    assert torch.intervals["ratio_to_torch"] == (1, 1)
    assert ours.ratio_to_torch == pytest.approx(ours.p50_us / torch.p50_us)
    assert ours.placement.keys() == {"CPUExecutionProvider"}


@pytest.mark.xdist_group("bench-report")
def test_a_timing_travels_with_its_surroundings(report: BenchReport) -> None:
    """Figures from elsewhere can be told apart."""
    found = report.environment
    assert found.keys() >= ENVIRONMENT
    assert found["cores"] == os.cpu_count()
    assert found["versions"]["onnxruntime"] == onnxruntime.__version__
    assert "CPUExecutionProvider" in found["providers"]
    assert not math.isnan(found["load_1min"])


@pytest.mark.xdist_group("bench-report")
def test_output_writes_what_is_printed(
    report: BenchReport, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and standard output are the same document; the table shows the same rows."""
    monkeypatch.setattr(rounds, "bench", lambda *_: report)
    done = in_process("bench", bundle_folder, "--output", "out/b.json", "--json", cwd=tmp_path)
    assert done.code == 0
    assert done.json == json.loads((tmp_path / "out" / "b.json").read_text()) == report.to_json()
    assert read_result(tmp_path / "out" / "b.json").to_json() == report.to_json()
    table = in_process("bench", bundle_folder, cwd=tmp_path)
    assert table.code == 0
    assert "torch" in table.out
    assert f"{report.results[0].p50_us:,.1f}" in table.out


def test_a_foreign_file_is_timed_on_random_inputs_and_says_so(bundle_folder: Path, tmp_path: Path) -> None:
    """Without golden inputs there is no baseline, and no claim that the decisions were right."""
    path = tmp_path / "foreign.onnx"
    path.write_bytes((bundle_folder / "model.onnx").read_bytes())
    found = bench(plan(path, batches=(3,)))
    (row,) = found.results
    assert (row.engine, row.variant, row.batch, row.ratio_to_torch) == ("onnxruntime", "foreign", 3, None)
    assert any("inputs are random" in note for note in found.notes)
    assert "not checked" in row.outputs


def test_a_fixed_batch_model_takes_only_its_own(bundle_folder: Path, tmp_path: Path) -> None:
    """Its own batch is the default; another is wrong usage, told with the right one."""
    proto = onnx.load(bundle_folder / "model.onnx")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(proto, tmp_path / "four.onnx")
    (row,) = bench(plan(tmp_path / "four.onnx")).results
    assert row.batch == 4
    done = in_process("bench", "four.onnx", "--batch", "1", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "--batch 4" in one_line(done.err)


@pytest.mark.parametrize("batch", ["0", "-1", "x", "", "1,0", "1.5"])
def test_a_batch_that_is_no_batch_is_wrong_usage(batch: str, bundle_folder: Path, tmp_path: Path) -> None:
    """Refused before anything is timed, and the option is named."""
    for option in ("--batch", "--threads"):
        done = in_process("bench", bundle_folder, option, batch, cwd=tmp_path)
        assert (done.code, done.out) == (2, "")
        assert option in one_line(done.err)


def test_more_threads_than_cores_are_wrong_usage(bundle_folder: Path) -> None:
    """Such a figure would be of threads that wait for each other."""
    with pytest.raises(UsageError, match="may use"):
        bench(plan(bundle_folder, threads=(1, available_cpus() + 1)))


def test_cuda_without_cuda_gives_no_figure(bundle_folder: Path, tmp_path: Path) -> None:
    """Exit 4, the remedy, and not one digit of a time."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    done = in_process("bench", bundle_folder, "--provider", "cuda", "--output", "b.json", cwd=tmp_path)
    assert (done.code, done.out) == (4, "")
    assert install_hint("cuda") in one_line(done.err)
    assert not (tmp_path / "b.json").exists()


@pytest.mark.usefixtures("without_torch")
def test_wrong_decisions_in_timed_runs_are_no_timing(bundle_folder: Path, tmp_path: Path) -> None:
    """A fast wrong model has no figure: the outputs of the timed runs themselves are judged."""
    golden = load_bundle(bundle_folder).golden
    sums = golden.pre_activations.copy()
    sums[:, -10:] = np.roll(sums[:, -10:], 1, axis=1)
    rolled = {name: np.roll(getattr(golden, name), 1, axis=1) for name in ("logits", "exact_logits")}
    golden = dataclasses.replace(golden, **rolled, pre_activations=sums)
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", golden=golden_bytes(golden))
    with pytest.raises(CheckFailedError, match="predictions of timed runs differ"):
        bench(plan(folder))


@pytest.mark.usefixtures("without_torch")
def test_without_pytorch_there_is_no_ratio_and_a_note(bundle_folder: Path) -> None:
    """A device times its own engine, several batches, and says what is missing."""
    done: list[tuple[int, int]] = []
    found = bench(plan(bundle_folder, batches=(1, 500)), lambda part, whole: done.append((part, whole)))
    assert [(row.engine, row.batch, row.ratio_to_torch) for row in found.results] == [
        ("onnxruntime", 1, None),
        ("onnxruntime", 500, None),
    ]
    assert any("PyTorch is not installed" in note for note in found.notes)
    assert done == [(1, 2), (2, 2)]
    assert all(row.intervals == {} for row in found.results)


@pytest.mark.parametrize(
    "code",
    ["raise SystemExit(7)", "import os; os.kill(os.getpid(), 9)", "print('[1, 2')", "print('null')", "1 / 0"],
)
@pytest.mark.usefixtures("without_torch")
def test_a_timing_process_that_dies_is_told(
    code: str, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it ends, there is one error that says what it was timing, and no half report."""
    (tmp_path / "dies.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(ENGINES, "onnxruntime", "dies")
    with pytest.raises(UnavailableError, match=r"timing model\.onnx at batch 1"):
        bench(plan(bundle_folder))


@pytest.mark.usefixtures("without_torch")
def test_an_error_in_a_timing_process_keeps_its_kind(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad file stays 3, with the message of where it was found."""
    (tmp_path / "refuses.py").write_text(
        "from mnist_edge.benchmarking.process import serve\nfrom mnist_edge.errors import BadFileError\n"
        "def measure(task):\n    raise BadFileError('x.onnx is damaged', hint='export it again')\nserve(measure)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setitem(ENGINES, "onnxruntime", "refuses")
    with pytest.raises(BadFileError, match=r"x\.onnx is damaged") as caught:
        bench(plan(bundle_folder))
    assert caught.value.hint == "export it again"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rate", "100"), "--rate belongs to --scenario server"),
        (("--rate", "100", "--scenario", "offline"), "--rate belongs to --scenario server"),
        (("--scenario", "server"), "server needs --rate"),
        (("--gap", "100"), "--gap belongs to --scenario idle"),
        (("--gap", "100", "--scenario", "server", "--rate", "5"), "--gap belongs to --scenario idle"),
        (("--scenario", "idle"), "idle needs --gap"),
        (("--scenario", "offline", "--duration", "1"), "leave --duration out"),
        (("--scenario", "rush-hour"), "--scenario"),
        (("--scenario", "server", "--rate", "0"), "--rate"),
        (("--scenario", "server", "--rate", "nan"), "--rate"),
        (("--scenario", "idle", "--gap", "-1"), "--gap"),
        (("--duration", "0"), "--duration"),
        (("--rounds", "1"), "--rounds"),
        (("--rounds", "0"), "--rounds"),
        (("--plot", "x.txt"), "--plot x.txt"),
        (("--self-check", "--plot", "x.png"), "--self-check is a mode of its own"),
        (("--self-check", "--profile"), "--self-check is a mode of its own"),
        (("--self-check", "--compare", "b.json"), "--self-check is a mode of its own"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
@pytest.mark.usefixtures("nothing_is_timed")
def test_options_that_do_not_fit_are_refused_before_a_process_starts(
    arguments: tuple[str, ...], said: str, bundle_folder: Path, tmp_path: Path
) -> None:
    """An option that would be ignored is wrong usage, and so is one that is missing; nothing is timed or written."""
    done = in_process("bench", bundle_folder, *arguments, "--output", "b.json", "--json", cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (2, "usage")
    assert said in one_line(done.err)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--output", "--plot"])
@pytest.mark.parametrize("place", ["file/x.png", "file/deep/x.png", "/proc/x.png", "folder.png"])
@pytest.mark.usefixtures("nothing_is_timed")
def test_a_place_that_cannot_be_written_to_is_refused_before_timing(
    option: str, place: str, bundle_folder: Path, tmp_path: Path
) -> None:
    """Exit 4 names it at once, not after minutes; with --self-check too."""
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    done = in_process("bench", bundle_folder, option, place, "--json", cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (4, "environment")
    assert one_line(done.err).startswith(f"mnist-edge: {place}: ")
    if option == "--output":
        assert in_process("bench", bundle_folder, "--self-check", option, place, cwd=tmp_path).code == 4
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.png"]


@pytest.mark.parametrize(
    ("arguments", "scenario"),
    [
        ((), Scenario(seconds=SECONDS)),
        (("--duration", "0.7"), Scenario(seconds=0.7)),
        (("--scenario", "multi-stream"), Scenario(name="multi-stream", seconds=SECONDS)),
        (("--scenario", "offline"), Scenario(name="offline", seconds=SECONDS)),
        (("--scenario", "server", "--rate", "500"), Scenario(name="server", seconds=2, rate_per_s=500)),
        (("--scenario", "idle", "--gap", "50", "--duration", "3"), Scenario(name="idle", seconds=3, gap_ms=50)),
    ],
    ids=str,
)
def test_options_reach_the_plan(
    arguments: tuple[str, ...], scenario: Scenario, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for is what is timed."""
    plans: list[Plan] = []

    def stop(asked: Plan, _on_process: object) -> None:
        plans.append(asked)
        raise UsageError("enough")

    monkeypatch.setattr(rounds, "bench", stop)
    options = ("--rounds", "3", "--threads", "1,2", "--batch", "4,8", "--normalize", "unit")
    assert in_process("bench", bundle_folder, *arguments, *options, cwd=tmp_path).code == 2
    assert plans == [
        Plan(model=bundle_folder, batches=(4, 8), threads=(1, 2), rounds=3, scenario=scenario, normalization="unit"),
    ]


@pytest.mark.slow
def test_a_rate_that_was_asked_for_is_sent(bundle_folder: Path, tmp_path: Path) -> None:
    """The real thing: 100 requests in half a second by each of two processes, with waits and load told."""
    done = in_process(
        "bench", bundle_folder, "--scenario", "server", "--rate", "200", "--duration", "0.5", "--rounds", "2", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0
    (row,) = done.json["results"]
    assert row["scenario"] == {"name": "server", "seconds": 0.5, "rate_per_s": 200, "gap_ms": None}
    assert (row["engine"], row["samples"], [process["runs"] for process in row["processes"]]) == (
        "onnxruntime", 200, [100, 100],
    )  # fmt: skip
    assert row["server"]["asked_per_s"] == 200
    assert row["server"]["achieved_per_s"] == pytest.approx(200, rel=0.02)
    assert 0 < row["server"]["utilization"] < 1
    assert 0 < row["server"]["service_p50_us"] <= row["p50_us"]
    assert "checked against golden" in row["outputs"]
    assert any("PyTorch is not timed in scenario server" in note for note in done.json["notes"])


def test_a_rate_out_of_reach_is_wrong_usage_through_the_process(bundle_folder: Path, tmp_path: Path) -> None:
    """Only the process knows what the model can serve; its refusal keeps its kind, its words and its hint."""
    asked = ("--scenario", "server", "--rate", "50000000", "--rounds", "2", "--output", "b.json", "--json")
    done = in_process("bench", bundle_folder, *asked, cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (2, "usage")
    assert "--rate 5e+07 is over 5 times what the model can serve" in done.json["error"]["message"]
    assert done.json["error"]["hint"].startswith("--rate ")
    assert not (tmp_path / "b.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize(
    ("scenario", "samples"),
    [
        (Scenario(name="multi-stream", seconds=0.05), None),
        (Scenario(name="offline", seconds=1), 96),
        (Scenario(name="idle", seconds=0.02, gap_ms=1), 20),
    ],
    ids=lambda value: value.name if isinstance(value, Scenario) else "",
)
def test_each_scenario_is_timed_for_real(scenario: Scenario, samples: int | None, bundle_folder: Path) -> None:
    """It goes into the process and comes out as a row; beside `idle` stands the same model kept busy."""
    found = bench(plan(bundle_folder, batches=(256,), scenario=scenario))
    first = found.results[0]
    assert first.scenario == scenario
    assert first.samples == samples or (samples is None and first.samples >= 30)
    assert "checked against golden" in first.outputs
    if scenario.name == "idle":
        assert found.results[1].scenario == Scenario(seconds=scenario.seconds)
    assert len(found.results) == 1 + (scenario.name == "idle")


def made(us: float) -> ProcessResult:
    """The result of a process whose every run took so long."""
    return ProcessResult(
        process_ns=1, session_ns=1, first_run_ns=1, warmup_runs=1, run_ns=[round(1000 * us)] * 40, wait_ns=[],
        elapsed_ns=round(40_000 * us), peak_rss_bytes=1, placement={}, check=OutputCheck(images=64, flips=0),
    )  # fmt: skip


def speeds(monkeypatch: pytest.MonkeyPatch, us: Callable[[int], float]) -> list[Task]:
    """Replace timing processes by ones of a given speed, by number; return the tasks that they are sent."""
    tasks: list[Task] = []

    def run(_module: str, task: Task) -> ProcessResult:
        tasks.append(task)
        return made(us(len(tasks) - 1))

    monkeypatch.setattr(rounds, "run_process", run)
    monkeypatch.setattr(rounds, "reference_work_ms", lambda: 10.0)
    return tasks


def test_a_setting_named_twice_is_timed_once(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows of one name could not be told apart in a comparison."""
    tasks = speeds(monkeypatch, lambda _: 100)
    asked = ("--batch", "1,1,2,1", "--threads", "1,1", "--rounds", "2", "--output", "b.json", "--json")
    done = in_process("bench", bundle_folder, *asked, cwd=tmp_path)
    assert [(row["batch"], len(row["processes"])) for row in done.json["results"]] == [(1, 2), (1, 2), (2, 2), (2, 2)]
    assert len(tasks) == 8
    assert len(read_result(tmp_path / "b.json").results) == 4


def test_rounds_are_interleaved_and_seeded(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate once a round, in an order drawn anew; requests differ by round, not by candidate."""
    tasks = speeds(monkeypatch, lambda _: 100)
    bench(plan(bundle_folder, batches=(1, 2, 3), rounds=6))
    rounds_of = [tasks[start : start + 6] for start in range(0, 36, 6)]
    assert all(sorted(task.batch for task in turn) == [1, 1, 2, 2, 3, 3] for turn in rounds_of)
    assert [len({task.seed for task in turn}) for turn in rounds_of] == [1] * 6
    assert len({turn[0].seed for turn in rounds_of}) == 6
    assert len({tuple(task.batch for task in turn) for turn in rounds_of}) > 3
    again = speeds(monkeypatch, lambda _: 100)
    bench(plan(bundle_folder, batches=(1, 2, 3), rounds=6))
    assert again == tasks


def test_a_machine_that_slows_down_is_told(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed piece of work is timed once a round, and what it took is in the report."""
    pace = iter([10.0, 10.0, 13.0])
    speeds(monkeypatch, lambda _: 100)
    monkeypatch.setattr(rounds, "reference_work_ms", lambda: next(pace))
    found = bench(plan(bundle_folder, rounds=3))
    assert found.reference_work_ms == (10, 10, 13)
    (note,) = [note for note in found.notes if "slowed down" in note]
    assert "1.30 times" in note
    assert "round 3" in note


def test_self_check_passes_where_there_is_no_noise(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 comparisons of the model with itself, both sides in turn, no alarm: exit 0 and the report's own schema."""
    tasks = speeds(monkeypatch, lambda _: 100)
    done = in_process(
        "bench", bundle_folder, "--self-check", "--rounds", "5", "--output", "s.json", "--json", cwd=tmp_path
    )
    assert (done.code, done.json) == (0, json.loads((tmp_path / "s.json").read_text()))
    assert (done.json["schema"], done.json["passed"], done.json["false_positives"]) == (
        "mnist-edge/self-check/2",
        True,
        0,
    )
    assert (done.json["comparisons"], done.json["rounds"], len(done.json["effects"])) == (COMPARISONS, 5, COMPARISONS)
    assert {effect["verdict"] for effect in done.json["effects"]} == {"undecided"}
    assert done.json["upper95"] == pytest.approx(1 - 0.05 ** (1 / COMPARISONS))
    assert len(tasks) == COMPARISONS * 5 * 2
    table = in_process("bench", bundle_folder, "--self-check", "--rounds", "5", cwd=tmp_path)
    assert table.code == 0
    assert "passed" in table.out


def side_of(bundle_folder: Path, comparisons: int, count: int) -> list[bool]:
    """Of each process in a self-check, whether it is of the second side."""
    sides: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        tasks = speeds(patch, lambda _: 100)
        order = rounds.random.Random.sample

        def watched(self: Any, population: Any, k: int) -> Any:
            drawn = order(self, population, k)
            sides.extend(one.variant.endswith("again") for one in drawn)
            return drawn

        patch.setattr(rounds.random.Random, "sample", watched)
        self_check(plan(bundle_folder, rounds=count), comparisons)
        assert len(tasks) == len(sides)
    return sides


def test_self_check_fails_where_the_sides_differ(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that favours one side is not fit to compare on: exit 1, every comparison an alarm."""
    sides = side_of(bundle_folder, COMPARISONS, 5)
    assert sum(sides) == len(sides) // 2 == COMPARISONS * 5
    assert 70 < sum(sides[::2]) < 130  # each side is the first about as often
    noise = np.random.default_rng(1).uniform(0.99, 1.01, len(sides))
    speeds(monkeypatch, lambda turn: noise[turn % len(sides)] * (120 if sides[turn % len(sides)] else 100))
    done = in_process("bench", bundle_folder, "--self-check", "--rounds", "5", "--json", cwd=tmp_path)
    assert (done.code, done.json["passed"], done.json["false_positives"]) == (1, False, COMPARISONS)
    assert {effect["verdict"] for effect in done.json["effects"]} == {"slower"}
    assert done.json["upper95"] == 1
    table = in_process("bench", bundle_folder, "--self-check", "--rounds", "5", cwd=tmp_path)
    assert table.code == 1
    assert "FAILED" in table.out


def test_self_check_tells_how_far_it_is(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bar over all comparisons, that never goes back; ordinary noise passes."""
    noise = np.random.default_rng(0).lognormal(0, 0.05, 10_000)
    speeds(monkeypatch, lambda turn: 100 * noise[turn])
    told: list[tuple[int, int]] = []
    found = self_check(plan(bundle_folder, rounds=5), 20, lambda done, whole: told.append((done, whole)))
    assert told == [(done, 200) for done in range(1, 201)]
    assert found.passed == (found.false_positives <= FALSE_POSITIVES * 20)
    assert found.passed


@pytest.mark.xdist_group("bench-report")
def test_profile_shows_where_the_time_goes(
    report: BenchReport, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operators of the real model, costliest first, whose shares are the whole."""
    monkeypatch.setattr(rounds, "bench", lambda *_: report)
    done = in_process("bench", bundle_folder, "--profile", "--json", cwd=tmp_path)
    assert done.code == 0
    found = done.json["profile"]
    assert {"operator", "provider", "calls", "us_per_run", "share"} == set(found[0])
    assert sum(line["share"] for line in found) == pytest.approx(1)
    assert [line["us_per_run"] for line in found] == sorted((line["us_per_run"] for line in found), reverse=True)
    assert {line["provider"] for line in found} == {"CPUExecutionProvider"}
    assert any("Gemm" in line["operator"] for line in found)
    assert not any(tmp_path.iterdir())
    table = in_process("bench", bundle_folder, "--profile", cwd=tmp_path)
    assert "time by operator" in table.out


def test_operators_are_summed_without_the_first_tenth() -> None:
    """By operator and provider; what is no node's own time is left out."""

    def node(operator: str, us: int, provider: str = "CPU") -> dict[str, Any]:
        return {"cat": "Node", "dur": us, "args": {"op_name": operator, "provider": provider}}

    one = [node("Gemm", 30), node("Relu", 4), node("Gemm", 10), node("Cast", 6, "CUDA")]
    slow = [node("Gemm", 9999), node("Relu", 9999), node("Gemm", 9999), node("Cast", 9999, "CUDA")]
    others = [{"cat": "Session", "dur": 10**6, "args": {}}, {"cat": "Node", "dur": 10**6, "args": {}}, {"dur": 1}]
    found = sum_by_operator([*others, *slow, *one * 9, *others], runs=10)
    assert [(line.operator, line.provider, line.calls) for line in found] == [
        ("Gemm", "CPU", 18), ("Cast", "CUDA", 9), ("Relu", "CPU", 9),
    ]  # fmt: skip
    assert [line.us_per_run for line in found] == pytest.approx([40, 6, 4])
    assert [line.share for line in found] == pytest.approx([0.8, 0.12, 0.08])
    assert sum_by_operator([], runs=10) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["p.png", "deep/p.svg", "p.pdf"])
def test_plot_draws_the_distributions(
    name: str, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of the kind that its name says, also where a candidate has too few samples for a p90."""
    speeds(monkeypatch, lambda turn: 100 + 30 * turn)
    done = in_process(
        "bench", bundle_folder, "--batch", "1,64", "--plot", name, "--rounds", "2", "--json", cwd=tmp_path
    )
    assert done.code == 0
    assert f"wrote {name}" in done.err
    written = (tmp_path / name).read_bytes()
    if name.endswith("png"):
        with Image.open(tmp_path / name) as image:
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    else:
        assert written.startswith(b"%PDF") or (b"<svg" in written and b"</svg>" in written)


def network(
    path: Path,
    *,
    batch: int | str = 4,
    shape: tuple[int, ...] = (1, 28, 28),
    classes: int = 10,
    op: str = "Relu",
    scale: float = 0.01,
) -> Path:
    """A float network, Conv and Gemm, that another exporter could have written."""  # fmt: skip
    pixels = math.prod(shape)
    random = np.random.default_rng(0)
    tensors = {
        "kernel": random.normal(0, 0.3, (2, 1, 3, 3)),
        "weight": scale * random.normal(0, 1, (classes, 2 * 784 if shape == (1, 28, 28) else pixels)),
    }
    convolved = shape == (1, 28, 28)
    nodes = [
        *([helper.make_node("Conv", ["x", "kernel"], ["conv"], pads=[1, 1, 1, 1])] if convolved else []),
        helper.make_node(op, ["conv" if convolved else "x"], ["relu"]),
        helper.make_node("Flatten", ["relu"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items() if convolved or name == "weight"],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.slow
def test_a_foreign_cnn_of_a_fixed_batch_is_timed(tmp_path: Path) -> None:
    """Pictures 1 x 28 x 28 in floats, four at a time: its own batch, its own normalisation, no golden answers."""
    network(tmp_path / "cnn.onnx")
    asked = ("--normalize", "mnist", "--rounds", "2", "--duration", "0.02", "--json", "--output", "b.json")
    done = in_process("bench", "cnn.onnx", *asked, cwd=tmp_path)
    assert done.code == 0
    (row,) = done.json["results"]
    assert (row["variant"], row["batch"], row["outputs"]) == ("cnn", 4, "random inputs, not checked")
    assert row["samples"] >= 60
    assert (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"op": "Levitate"}, 3, "Levitate"),
        ({"shape": (101,)}, 3, "x tensor(float) [4, 101]"),
        ({"scale": math.nan}, 1, "NaN or infinite"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("nothing_is_timed")
def test_what_is_no_image_classifier_is_not_timed(
    changes: dict[str, Any], code: int, said: str, tmp_path: Path
) -> None:
    """No timing of a model that cannot run, takes no images, or outputs NaN."""
    network(tmp_path / "cnn.onnx", **changes)
    done = in_process("bench", "cnn.onnx", "--output", "b.json", "--json", cwd=tmp_path)
    assert (done.code, set(done.json)) == (code, {"schema", "error"})
    assert said in one_line(done.err)
    assert "cnn.onnx" in one_line(done.err)
    assert not (tmp_path / "b.json").exists()


def test_pytorch_stands_beside_the_scenarios_that_keep_it_busy(bundle_folder: Path) -> None:
    """Single-stream, multi-stream and offline have their baseline; a note says where there is none."""
    for name, settings in (("server", {"rate_per_s": 5}), ("idle", {"gap_ms": 5})):
        subject = resolve_plan(plan(bundle_folder, scenario=Scenario(name=name, seconds=1, **settings)))
        assert {one.engine for one in subject.candidates} == {"onnxruntime"}
        assert subject.notes == (f"PyTorch is not timed in scenario {name}",)
    for name in ("single-stream", "multi-stream", "offline"):
        subject = resolve_plan(plan(bundle_folder, scenario=Scenario(name=name, seconds=1)))
        assert {one.engine for one in subject.candidates} == {"onnxruntime", "torch"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_an_interrupted_timing_leaves_no_result_and_no_process(
    number: signal.Signals, bundle_folder: Path, tmp_path: Path
) -> None:
    """130 or 143 while a process is timing: no file that looks like a result, and nothing left running."""
    started = tmp_path / "started"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if {'mnist_edge.benchmarking.worker', 'mnist_edge.baseline.eager'} & set(sys.orig_argv):\n"
        f"    open({str(started)!r} + '.part', 'w').write(str(os.getpid()))\n"
        f"    os.replace({str(started)!r} + '.part', {str(started)!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "mnist_edge", "bench", bundle_folder, "--duration", "60", "--output", "b.json"]
    with subprocess.Popen(
        [*command, "--json"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            while not started.exists():
                assert running.poll() is None
                time.sleep(0.02)
            running.send_signal(number)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 128 + number
    assert one_line(err).startswith("mnist-edge: interrupted")
    assert json.loads(out)["error"]["kind"] == "stopped"
    assert not (tmp_path / "b.json").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_the_start_of_a_process_is_part_of_a_cold_start(bundle_folder: Path) -> None:
    """From the wish for a process to the end of its imports: what a user waits for, and no clock of another machine."""
    task = Task(
        model=str(bundle_folder / "model.onnx"), settings=DEFAULT_SETTINGS, batch=1, golden=None,
        scenario=Scenario(seconds=0.01),
    )  # fmt: skip
    before = time.monotonic_ns()
    found = run_process(ENGINES["onnxruntime"], task)
    assert 0 < found.process_ns + found.session_ns + found.first_run_ns < time.monotonic_ns() - before


@pytest.mark.parametrize("model", ["b", "b/model.onnx"])
def test_a_batch_that_memory_cannot_hold_is_refused_before_timing(
    model: str, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 4 with the size asked for; no process is started for it."""
    shutil.copytree(bundle_folder, tmp_path / "b")
    monkeypatch.setattr(rounds, "run_process", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(UnavailableError, match=r"batch 2000000000 needs .* GB"):
        bench(plan(tmp_path / model, batches=(2_000_000_000,)))
