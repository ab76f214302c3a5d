"""Timing: complete rows with their surroundings, and no figure where something is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from test_bundle import rewrite_bundle
from test_cli import in_process, one_line

from mnist_edge.benchmarking import rounds
from mnist_edge.benchmarking.rounds import ENGINES, Plan, bench
from mnist_edge.bundle import golden_bytes, load_bundle
from mnist_edge.errors import BadFileError, CheckFailedError, SurroundingsError, UsageError
from mnist_edge.records import BenchReport

ROW = {
    "engine", "variant", "provider", "batch", "threads", "processes", "samples", "p50_us", "p90_us", "p99_us",
    "throughput_per_s", "cold_start_ms", "session_ms", "first_run_ms", "peak_rss_mb", "bytes", "ratio_to_torch",
    "placement", "outputs",
}  # fmt: skip
ENVIRONMENT = {
    "date", "cpu", "cpu_features", "machine", "system", "cores", "affinity", "governor", "load_1min", "python",
    "versions", "providers",
}  # fmt: skip


def plan(model: Path, **changes: Any) -> Plan:
    """One short round."""
    options = {"provider": "cpu", "batches": None, "threads": (1,), "rounds": 1, "seconds": 0.05}
    return Plan(model=model, **(options | changes))


@pytest.fixture(scope="module")
def report(bundle_folder: Path) -> BenchReport:
    """A bundle timed once, with PyTorch beside it."""
    return bench(plan(bundle_folder))


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device: PyTorch is not installed, so that it is not timed."""
    monkeypatch.setattr(rounds, "find_spec", lambda name: None if name == "torch" else find_spec(name))


def test_every_row_is_complete(report: BenchReport, bundle_folder: Path) -> None:
    """Each engine once, with every figure that the README and scripts read."""
    content = report.to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert set(content) == {"schema", "model", "environment", "results", "notes"}
    assert content["schema"] == "mnist-edge/bench/1"
    assert [row["engine"] for row in content["results"]] == ["onnxruntime", "torch"]
    for row in content["results"]:
        assert set(row) == ROW
        assert (row["variant"], row["provider"], row["batch"], row["threads"]) == ("fp32", "cpu", 1, 1)
        assert (row["processes"], row["samples"] >= 30) == (1, True)
        assert row["bytes"] == (bundle_folder / "model.onnx").stat().st_size
        assert 0 < row["p50_us"] <= row["p90_us"]
        assert (row["p99_us"] is None) == (row["samples"] < 299)
        assert row["cold_start_ms"] == pytest.approx(row["session_ms"] + row["first_run_ms"])
        assert row["peak_rss_mb"] > 10
        assert "checked against golden" in row["outputs"]
        # The mean of a run lies at or above half the median: throughput is of the same runs.
        assert 0 < row["throughput_per_s"] <= 2e6 / row["p50_us"]


def test_ratios_are_to_pytorch_at_the_same_batch_and_threads(report: BenchReport) -> None:
    """PyTorch's own ratio is 1, the other is the quotient of the medians."""
    ours, torch = report.results
    assert torch.ratio_to_torch == 1
    assert ours.ratio_to_torch == pytest.approx(ours.p50_us / torch.p50_us)
    assert ours.placement.keys() == {"CPUExecutionProvider"}


def test_a_timing_travels_with_its_surroundings(report: BenchReport) -> None:
    """Figures from elsewhere can be told apart."""
    found = report.environment
    assert found.keys() >= ENVIRONMENT
    assert found["cores"] == os.cpu_count()
    assert found["versions"]["onnxruntime"] == onnxruntime.__version__
    assert "CPUExecutionProvider" in found["providers"]
    assert not math.isnan(found["load_1min"])


def test_output_writes_what_is_printed(
    report: BenchReport, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and standard output are the same document; the table shows the same rows."""
    monkeypatch.setattr(rounds, "bench", lambda *_: report)
    done = in_process("bench", bundle_folder, "--output", "out/b.json", "--json", cwd=tmp_path)
    assert done.code == 0
    assert done.json == json.loads((tmp_path / "out" / "b.json").read_text()) == report.to_json()
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
    with pytest.raises(UsageError, match="cores"):
        bench(plan(bundle_folder, threads=(1, rounds.free_cores() + 1)))


def test_cuda_without_cuda_gives_no_figure(bundle_folder: Path, tmp_path: Path) -> None:
    """Exit 4, the remedy, and not one digit of a time."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    done = in_process("bench", bundle_folder, "--provider", "cuda", "--output", "b.json", cwd=tmp_path)
    assert (done.code, done.out) == (4, "")
    assert 'pip install "mnist-edge[cuda]"' in one_line(done.err)
    assert not (tmp_path / "b.json").exists()


@pytest.mark.usefixtures("without_torch")
def test_wrong_decisions_in_timed_runs_are_no_timing(bundle_folder: Path, tmp_path: Path) -> None:
    """A fast wrong model has no figure: the outputs of the timed runs themselves are judged."""
    golden = load_bundle(bundle_folder).golden
    golden = dataclasses.replace(golden, logits=np.roll(golden.logits, 1, axis=1))
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", golden=golden_bytes(golden))
    with pytest.raises(CheckFailedError, match="timed decisions differ"):
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
    with pytest.raises(SurroundingsError, match=r"timing model\.onnx at batch 1"):
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
