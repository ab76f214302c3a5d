"""Two results compared: significant differences are found, and results that are not comparable are refused."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_cli import in_process, one_line

from mnist_edge.benchmarking import process, rounds
from mnist_edge.benchmarking.compare import ALPHA, compare, effect, effects
from mnist_edge.benchmarking.environment import environment
from mnist_edge.benchmarking.results import MAX_BYTES, read_result
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.records.benchmark import BenchReport, BenchRow, ProcessTiming, Scenario
from mnist_edge.records.settings import SessionSettings
from mnist_edge.reporting.tables.comparison import compare_table

CALM = (100.0, 101.0, 99.5, 100.5, 100.2)
ENVIRONMENT: dict[str, Any] = {
    "date": "2026-01-01T00:00:00+00:00", "cpu": "A CPU", "cpu_features": ["avx2"], "machine": "x86_64",
    "system": "Linux", "cores": 2, "affinity": [0, 1], "governor": None, "load_1min": 0.1, "python": "3.11.7",
    "versions": {"numpy": "2.3", "onnxruntime": "1.30", "torch": "2.11"}, "providers": ["CPUExecutionProvider"],
}  # fmt: skip


def row(p50s: tuple[float, ...] = CALM, factor: float = 1.0, **changes: Any) -> BenchRow:
    """A candidate whose processes took so long in the median."""
    fields: dict[str, Any] = {
        "engine": "onnxruntime", "variant": "fp32", "batch": 1, "scenario": Scenario(seconds=0.4),
        "settings": SessionSettings(**{name: changes.pop(name) for name in ("provider", "threads", "cuda_graph", "spinning", "prepacking", "io_binding") if name in changes}),
        "processes": tuple(
            ProcessTiming(runs=500, p50_us=factor * p50, p90_us=factor * p50 * 1.1, p99_us=None) for p50 in p50s
        ),
        "samples": 500 * len(p50s), "outliers": 3, "p50_us": factor * sorted(p50s)[len(p50s) // 2],
        "p90_us": None, "p99_us": None, "p999_us": None, "intervals": {"p50_us": (90.0, 110.0)},
        "throughput_per_s": 1e4, "cold_start_ms": 330.0, "process_ms": 300.0, "session_ms": 20.0, "first_run_ms": 1.0,
        "peak_rss_mb": 60.0, "bytes": 2_000_000, "ratio_to_torch": None, "server": None, "gpu_calls": None,
        "placement": {"CPUExecutionProvider": 5}, "outputs": "64 predictions checked against golden.npz",
    }  # fmt: skip
    return BenchRow(**{**fields, **changes})


def result(*rows: BenchRow, weights: str = "a" * 64, **environment: Any) -> BenchReport:
    """What `bench` would have reported."""
    return BenchReport(
        model="exported/digits", weights_sha256=weights, environment={**ENVIRONMENT, **environment}, order_seed=11,
        reference_work_ms=(5.0, 5.1), results=rows or (row(),), gpu_from_batch=None, profile=(), notes=(),
    )  # fmt: skip


def write(path: Path, report: BenchReport) -> Path:
    """The file that `bench --output` would have left."""
    path.write_text(json.dumps(report.to_json(), allow_nan=False))
    return path


def here(bundle_folder: Path, *rows: BenchRow) -> BenchReport:
    """The same, had it been timed on this machine with this bundle."""
    return result(*rows, weights=load_bundle(bundle_folder).manifest.weights_sha256, **environment())


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A result on disk."""
    return write(tmp_path / "before.json", result())


@pytest.fixture
def nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test that starts a timing process."""
    monkeypatch.setattr(rounds, "run_process", lambda *_: pytest.fail("a process was started"))
    monkeypatch.setattr(process, "run_process", lambda *_: pytest.fail("a process was started"))


def test_a_written_result_is_read_as_it_was(before: Path) -> None:
    """Nothing that is compared is missing on the way through a file."""
    assert read_result(before) == result()
    assert read_result(before).to_json() == json.loads(before.read_text())


def test_a_result_of_the_previous_schema_is_read_with_the_settings_it_was_timed_with(before: Path) -> None:
    """bench/4 had no spinning, prepacking and IO binding: its sessions were onnxruntime's own defaults, unbound."""
    content = json.loads(before.read_text())
    content["schema"] = "mnist-edge/bench/4"
    for name in ("spinning", "prepacking", "io_binding"):
        del first(content)["settings"][name]
    before.write_text(json.dumps(content))
    assert read_result(before) == result()


@pytest.mark.parametrize("changes", [{"spinning": False}, {"prepacking": False}, {"io_binding": True}], ids=str)
def test_rows_that_differ_in_one_setting_are_different_rows(changes: dict[str, bool]) -> None:
    """A comparison of a bound run with an unbound one would call the binding a faster model."""
    with pytest.raises(UsageError, match="have no row in common: settings default and"):
        compare(result(), result(row(**changes)), ("a", "b"), tolerance=0.05)


def test_a_result_against_itself_is_undecided(before: Path, tmp_path: Path) -> None:
    """Exit 0, an effect of exactly nothing, and the report's own schema."""
    done = in_process("compare", before, before, "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert set(done.json) == {"schema", "baseline", "candidate", "tolerance", "rows", "missing", "added", "passed"}
    assert (done.json["schema"], done.json["tolerance"]) == ("mnist-edge/compare/3", 0.05)
    assert (done.json["passed"], done.json["missing"], done.json["added"]) == (True, [], [])
    assert (done.json["baseline"], done.json["candidate"]) == (str(before), str(before))
    (found,) = done.json["rows"]
    assert set(found) == {
        "what", "engine", "variant", "batch", "scenario", "settings", "baseline_p50_us", "candidate_p50_us", "baseline_p99_us", "candidate_p99_us", "effect",
        "beyond_tolerance", "not_ruled_out", "differences",
    }  # fmt: skip
    assert (found["effect"]["verdict"], found["effect"]["ratio"]) == ("undecided", 1)
    assert found["effect"]["low"] <= 1 <= found["effect"]["high"]
    assert (found["beyond_tolerance"], found["differences"]) == (False, [])
    table = in_process("compare", before, before, cwd=tmp_path)
    assert (table.code, table.err) == (0, "")
    assert "undecided" in table.out


def test_a_slowdown_beyond_the_tolerance_fails_and_is_named(before: Path, tmp_path: Path) -> None:
    """Exit 1, and the worst row in one line: a build can stop on it."""
    rows = (row(factor=1.1), row(factor=1.3, batch=64), row(factor=1.0, batch=8))
    old = write(tmp_path / "old.json", result(row(), row(batch=64), row(batch=8)))
    new = write(tmp_path / "new.json", result(*rows))
    done = in_process("compare", old, new, "--json", cwd=tmp_path)
    assert done.code == 1
    line = one_line(done.err)
    assert "batch 64" in line
    assert "is slower, estimated 30.0%, allowed 5 %" in line
    assert [found["beyond_tolerance"] for found in done.json["rows"]] == [True, True, False]
    assert [found["effect"]["verdict"] for found in done.json["rows"]] == ["slower", "slower", "undecided"]
    assert done.json["rows"][0]["effect"]["ratio"] == pytest.approx(1.1)
    assert done.json["passed"] is False
    table = in_process("compare", before, new, cwd=tmp_path)
    assert table.code == 1
    assert "1.10x slower" in table.out
    assert table.out.splitlines()[0] == "FAILED (exit 1): 1 of 1 slower, estimated over 5 %; 0 undecided, 0 missing"
    assert "estimated 10.0%" in one_line(table.err)


@pytest.mark.parametrize(
    ("factor", "tolerance", "verdict", "code"),
    [
        (1.1, "10.5", "slower", 0),
        (1.1, "9.5", "slower", 1),
        (0.9, "5", "faster", 0),
        (0.9, "0", "faster", 0),
        (1.04, "5", "slower", 0),
        (1.04, "0", "slower", 1),
    ],
)
def test_only_a_slowdown_beyond_the_tolerance_fails(
    factor: float, tolerance: str, verdict: str, code: int, before: Path, tmp_path: Path
) -> None:
    """Faster passes, and so does a slowdown within the tolerance, which is reported."""
    after = write(tmp_path / "after.json", result(row(factor=factor)))
    done = in_process("compare", before, after, "--tolerance", tolerance, "--json", cwd=tmp_path)
    assert done.code == code
    assert done.json["rows"][0]["effect"]["verdict"] == verdict
    assert done.json["tolerance"] == pytest.approx(float(tolerance) / 100)
    assert bool(done.err) == bool(code)


def test_noise_is_undecided_however_large_the_difference_looks(tmp_path: Path) -> None:
    """Processes that differ by half among themselves show no slowdown of 15 %, and the interval says how little."""
    noisy = (60.0, 140.0, 90.0, 120.0, 100.0)
    old, new = write(tmp_path / "old.json", result(row(noisy))), write(tmp_path / "new.json", result(row(noisy, 1.15)))
    done = in_process("compare", old, new, "--tolerance", "0", "--json", cwd=tmp_path)
    assert done.code == 0
    (found,) = done.json["rows"]
    assert (found["effect"]["verdict"], found["beyond_tolerance"]) == ("undecided", False)
    assert found["effect"]["low"] < 0.9
    assert found["effect"]["high"] > 1.4


def test_the_order_of_the_processes_does_not_matter() -> None:
    """The effect depends on the values only."""
    shuffled = list(CALM)
    random.Random(1).shuffle(shuffled)
    found = effect(CALM, [1.05 * value for value in shuffled])
    assert found.verdict == "slower"
    assert found.ratio == pytest.approx(1.05)


OTHERS = {
    "cpu": ({"cpu": "Another CPU"}, "cpu: A CPU and Another CPU"),
    "cpu features": ({"cpu_features": []}, "cpu_features: ['avx2'] and []"),
    "machine": ({"machine": "aarch64"}, "machine: x86_64 and aarch64"),
    "cores": ({"cores": 4}, "cores: 2 and 4"),
    "affinity": ({"affinity": [0]}, "affinity: [0, 1] and [0]"),
    "governor": ({"governor": "powersave"}, "governor: None and powersave"),
    "python": ({"python": "3.14.0"}, "python: 3.11.7 and 3.14.0"),
    "numpy": ({"versions": {**ENVIRONMENT["versions"], "numpy": "2.4"}}, "numpy 2.3 and 2.4"),
    "a wheel": ({"versions": {"numpy": "2.3", "onnxruntime-gpu": "1.30"}}, "onnxruntime-gpu None and 1.30"),
    "weights": ({"weights": "b" * 64}, "weights: sha256 aaaaaaaaaaaa and bbbbbbbbbbbb"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_environments_are_not_compared(what: str, before: Path, tmp_path: Path) -> None:
    """Exit 2 names what differs; with --anyway the figures come, and every row says what differs."""
    changes, phrase = OTHERS[what]
    after = write(tmp_path / "after.json", result(row(factor=1.3), row(batch=64), **changes))
    before = write(before, result(row(), row(batch=64)))
    done = in_process("compare", before, after, "--json", cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (2, "usage")
    assert phrase in done.json["error"]["message"]
    assert phrase in one_line(done.err)
    assert "--anyway" in one_line(done.err)
    reported = in_process("compare", before, after, "--anyway", "--json", cwd=tmp_path)
    assert reported.code == 1
    assert [phrase in found["differences"] for found in reported.json["rows"]] == [True, True]
    assert phrase in in_process("compare", before, after, "--anyway", cwd=tmp_path).out


def test_everything_that_differs_is_named(before: Path, tmp_path: Path) -> None:
    """All differences are named, not only the first: the user can fix them at once."""
    after = write(tmp_path / "after.json", result(cpu="Another CPU", python="3.14.0", weights="b" * 64))
    line = one_line(in_process("compare", before, after, cwd=tmp_path).err)
    assert all(part in line for part in ("Another CPU", "3.14.0", "weights: sha256"))


def test_what_says_nothing_about_speed_may_differ(before: Path, tmp_path: Path) -> None:
    """The date, the load and the path of the model are no reason to refuse."""
    after = dataclasses.replace(result(date="2027", load_1min=1.9), model="elsewhere")
    assert in_process("compare", before, write(tmp_path / "after.json", after), cwd=tmp_path).code == 0


def test_pytorchs_version_matters_only_where_pytorch_was_timed() -> None:
    """A device that has another PyTorch installed, or none, compares its own engine all the same."""
    other = {"versions": {"numpy": "2.3", "onnxruntime": "1.30"}}
    found = compare(result(), result(**other), ("a", "b"), tolerance=0.05)
    assert (found.passed, found.rows[0].differences) == (True, ())
    both = (row(), row(engine="torch"))
    with pytest.raises(UsageError, match=r"torch 2\.11 and None"):
        compare(result(*both), result(row(), **other), ("a", "b"), tolerance=0.05)


@pytest.mark.parametrize(
    ("changes", "refusal", "phrase"),
    [
        ({"threads": 2}, "have no row in common: threads 1 and 2", "2 threads"),
        ({"batch": 64}, "have no row in common: batch 1 and 64", "batch 64"),
        ({"provider": "cuda"}, "have no row in common: provider cpu and cuda", "on cuda"),
        ({"variant": "int8"}, "cannot be compared: variant: fp32 and int8", "int8"),
        ({"engine": "torch"}, "have no row in common: engine onnxruntime and torch", "torch fp32"),
        ({"cuda_graph": True}, "have no row in common: settings default and CUDA graph", "CUDA graph"),
        (
            {"scenario": Scenario(name="server", seconds=2, rate_per_s=500), "batch": 2},
            "have no row in common: batch 1 and 2; scenario single-stream and server at 500/s",
            "server at 500/s",
        ),
        (
            {"scenario": Scenario(name="idle", seconds=2, gap_ms=100)},
            "have no row in common: scenario single-stream and idle, gap 100 ms",
            "idle, gap 100 ms",
        ),
    ],
    ids=str,
)
def test_rows_of_other_settings_are_not_matched(
    changes: dict[str, Any], refusal: str, phrase: str, before: Path, tmp_path: Path
) -> None:
    """Nothing in common is wrong usage, and what differs is named; beside a row in common the others are listed."""
    after = write(tmp_path / "after.json", result(row(**changes)))
    done = in_process("compare", before, after, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert refusal in one_line(done.err)
    reported = in_process("compare", before, write(after, result(row(), row(**changes))), "--json", cwd=tmp_path)
    assert (reported.code, len(reported.json["rows"]), reported.json["passed"]) == (0, 1, True)
    (line,) = reported.json["added"]
    assert phrase in line
    table = in_process("compare", before, after, cwd=tmp_path)
    assert f"added, only in {after}: {line}" in " ".join(table.out.split())
    assert table.out.startswith("passed (exit 0)")


def test_a_missing_row_fails_and_is_listed(before: Path, tmp_path: Path) -> None:
    """A candidate without a row of the baseline shows nothing about it: exit 1, each missing row named."""
    wide = write(tmp_path / "wide.json", result(row(), row(batch=64), row(engine="torch"), row(factor=1.3, threads=2)))
    for anyway in ((), ("--anyway",)):
        done = in_process("compare", wide, before, "--json", *anyway, cwd=tmp_path)
        assert (done.code, done.json["passed"], done.json["added"]) == (1, False, [])
        missing = done.json["missing"]
        assert [any(phrase in what for phrase in ("batch 64", "torch", "2 thread")) for what in missing] == [True] * 3
        assert not any(found["beyond_tolerance"] for found in done.json["rows"])
        assert all(what in one_line(done.err) for what in missing)
    table = in_process("compare", wide, before, cwd=tmp_path)
    assert table.code == 1
    assert all(f"missing, only in {wide}: {what}" in " ".join(table.out.split()) for what in missing)
    assert table.out.splitlines()[0].endswith("3 missing")
    assert table.out.startswith("FAILED (exit 1)")
    slower = write(tmp_path / "slower.json", result(row(factor=1.3)))
    both = in_process("compare", wide, slower, cwd=tmp_path)
    assert both.code == 1
    assert "estimated 30.0%" in one_line(both.err)
    assert "batch 64" in one_line(both.err)


@pytest.mark.parametrize(
    ("p50s", "tolerance", "verdict", "reported"),
    [
        ((60.0, 140.0, 90.0, 120.0, 100.0), 0.05, "undecided", True),
        ((60.0, 140.0, 90.0, 120.0, 100.0), 5.0, "undecided", False),
        (CALM, 0.05, "undecided", False),
        (CALM, 0.001, "undecided", True),
        (tuple(1.04 * value for value in CALM), 0.045, "slower", True),
        (tuple(0.5 * value for value in CALM), 0.05, "faster", False),
    ],
    ids=str,
)
def test_a_slowdown_that_is_not_ruled_out_is_reported(
    p50s: tuple[float, ...], tolerance: float, verdict: str, reported: bool, before: Path, tmp_path: Path
) -> None:
    """A row that passes because its processes differ reports how much slower it may be, and what helps."""
    after = write(tmp_path / "after.json", result(row(p50s)))
    done = in_process("compare", before, after, "--tolerance", f"{100 * tolerance}", "--json", cwd=tmp_path)
    (found,) = done.json["rows"]
    assert (done.code, found["effect"]["verdict"]) == (0, verdict)
    assert found["not_ruled_out"] == (pytest.approx(found["effect"]["high"] - 1) if reported else None)
    table = in_process("compare", before, after, "--tolerance", f"{100 * tolerance}", cwd=tmp_path)
    assert table.code == 0
    line = f"slowdown of up to {found['effect']['high'] - 1:.1%} not ruled out; more --rounds narrows the interval"
    assert (line in table.out) == reported == ("ruled out" in table.out)
    first_line = table.out.splitlines()[0]
    assert first_line.startswith("passed (exit 0): 0 of 1 slower")
    assert first_line.endswith(f"{int(verdict == 'undecided')} undecided, 0 missing")


def test_only_the_median_is_judged_and_that_is_said(before: Path, tmp_path: Path) -> None:
    """A tail a hundred times worse is shown on both sides and fails nothing; table and help say so."""
    old, new = (
        write(tmp_path / f"{name}.json", result(row(p99_us=p99))) for name, p99 in (("old", 150.5), ("new", 15050.0))
    )
    done = in_process("compare", old, new, "--json", cwd=tmp_path)
    (found,) = done.json["rows"]
    assert (done.code, found["baseline_p99_us"], found["candidate_p99_us"]) == (0, 150.5, 15050)
    table = in_process("compare", old, new, cwd=tmp_path).out
    assert "only p50 is judged" in table
    assert "15,050" not in table
    assert re.search(r"150\.5 +15,050", in_process("compare", old, new, "--verbose", cwd=tmp_path).out)
    assert re.search(r"150\.5 +- ", in_process("compare", old, before, "--verbose", cwd=tmp_path).out)
    assert "Only p50 is judged" in in_process("compare", "--help", cwd=tmp_path).out
    assert "Only p50 is judged" in " ".join(in_process("bench", "--help", cwd=tmp_path).out.replace("│", " ").split())


WIDE = {
    "engines and batches": [{"engine": engine, "batch": batch} for engine in ("onnxruntime", "torch") for batch in (1, 65536)],
    "all settings": [
        {"engine": "onnxruntime", "variant": "fp32", "batch": 1, "threads": 16},
        {"engine": "torch", "variant": "int8-per-channel-static", "batch": 1024, "provider": "cuda", "cuda_graph": True},
        {"variant": "int4", "batch": 8, "scenario": Scenario(name="server", seconds=2, rate_per_s=123456)},
    ],
    "long name": [{"variant": "a-rather-long-name-of-a-file-that-somebody-once-exported", "batch": 1}],
}  # fmt: skip


@pytest.mark.parametrize("case", WIDE)
@pytest.mark.parametrize("verbose", [False, True])
def test_a_comparison_fits_eighty_columns_without_wrapping(case: str, verbose: bool) -> None:
    """Figures as large as they get; every row of the table is one line, and none of its cells is cut."""
    noisy = (700_000.0, 1_400_000.0, 900_000.0, 1_200_000.0, 1_000_000.0)
    old = [row(noisy, p50_us=1e6, p99_us=1.9e6, **changes) for changes in WIDE[case]]
    new = [row(CALM if number else noisy, **changes) for number, changes in enumerate(WIDE[case])]
    report = compare(result(*old), result(*new), ("a/long/path/before.json", "after.json"), tolerance=0.05)
    console = Console(width=80, highlight=False, markup=False, color_system=None, file=io.StringIO())
    console.print(compare_table(report, verbose=verbose))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    table = lines[lines.index(next(line for line in lines if line.strip().startswith("───"))) + 1 :]
    assert all(re.search(r"(undecided|faster) +\S+ to \S+ +[\d,]+ ", line) for line in table[: len(old)])
    assert table[len(old)] == ""


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [({"threads": 2}, "settings: cpu, 1 thread and cpu, 2 threads"), ({"provider": "cuda"}, "settings: cpu, 1 thread and cuda, 1 thread"), ({"cuda_graph": True}, "settings: cpu, 1 thread and cpu, 1 thread, CUDA graph")],
    ids=str,
)  # fmt: skip
def test_anyway_compares_other_threads_and_providers_and_says_so(changes: dict[str, Any], phrase: str) -> None:
    """The same batch of the same variant on the CPU and on the GPU can be compared on request."""
    found = compare(result(), result(row(**changes)), ("a", "b"), tolerance=0.05, anyway=True)
    assert found.rows[0].differences == (phrase,)
    assert (found.missing, found.added) == ((), ())
    with pytest.raises(UsageError, match="no row in common"):
        compare(result(), result(row(batch=2, **changes)), ("a", "b"), tolerance=0.05, anyway=True)


def test_an_exact_match_goes_before_a_loose_one() -> None:
    """With --anyway, too, one thread is compared with one thread where both were timed."""
    one, two = row(), row(factor=0.5, threads=2)
    found = compare(result(one, two), result(two, one), ("a", "b"), tolerance=0.05, anyway=True)
    assert [(line.effect.ratio, line.differences) for line in found.rows] == [(1, ()), (1, ())]


@pytest.mark.parametrize("rows", [[{}], [{}, {"batch": 64}]], ids=["one row", "two batches"])
def test_anyway_compares_models_of_other_names_and_lists_what_differs(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Two ONNX files timed alike: refused with the reason that their names and weights differ, else compared."""
    old = write(tmp_path / "model.json", result(*(row(variant="model", **changes) for changes in rows)))
    new = result(*(row(variant="model_quant", bytes=900, **changes) for changes in rows), weights="b" * 64)
    new_path = write(tmp_path / "model_quant.json", new)
    refused = in_process("compare", old, new_path, cwd=tmp_path)
    differs = ["variant: model and model_quant", "weights: sha256 aaaaaaaaaaaa and bbbbbbbbbbbb"]
    assert refused.code == 2
    assert f"cannot be compared: {'; '.join(differs)} (--anyway" in one_line(refused.err)
    done = in_process("compare", old, new_path, "--anyway", "--json", cwd=tmp_path)
    assert (done.code, done.json["missing"], done.json["added"]) == (0, [], [])
    assert [found["differences"] for found in done.json["rows"]] == [[*differs, "bytes: 2000000 and 900"]] * len(rows)
    table = in_process("compare", old, new_path, "--anyway", cwd=tmp_path).out
    assert all(f"differs: {line}" in table for line in differs)


def test_results_of_several_variants_match_by_name_only() -> None:
    """With two variants on a side, which is which would be a guess."""
    two = result(row(), row(variant="int8"))
    with pytest.raises(UsageError, match="no row in common: variant fp32, int8 and other"):
        compare(two, result(row(variant="other")), ("a", "b"), tolerance=0.05, anyway=True)


@pytest.mark.parametrize(
    ("gpus", "phrase"),
    [
        (({"name": "A", "driver": "570"}, {"name": "B", "driver": "570"}), "GPU name: A and B"),
        (({"name": "A", "driver": "570"}, {"name": "A", "driver": "580"}), "GPU driver: 570 and 580"),
        ((None, {"name": "A", "driver": "580"}), "GPU name: None and A; GPU driver: None and 580"),
        (({"name": "A", "driver": "1", "clocks": 1}, {"name": "A", "driver": "1", "clocks": 2}), ""),
    ],
    ids=str,
)
def test_another_gpu_or_driver_is_not_compared(gpus: tuple[Any, Any], phrase: str) -> None:
    """A row that ran on a GPU needs the same model and driver; one that ran on the CPU does not."""
    sides = [result(row(provider="cuda"), gpu=gpu) for gpu in gpus]
    if phrase:
        with pytest.raises(UsageError, match=phrase):
            compare(*sides, ("a", "b"), tolerance=0.05)
        assert set(phrase.split("; ")) <= set(
            compare(*sides, ("a", "b"), tolerance=0.05, anyway=True).rows[0].differences
        )
    else:
        assert compare(*sides, ("a", "b"), tolerance=0.05).rows[0].differences == ()
    assert compare(*(result(gpu=gpu) for gpu in gpus), ("a", "b"), tolerance=0.05).rows[0].differences == ()


def test_several_rows_share_one_error_rate() -> None:
    """A difference that is significant alone is not so as the largest of eight; its interval then contains 1."""
    shifted = [1.012 * value for value in CALM]
    alone, many = effect(CALM, shifted), effects([(CALM, shifted), *[(CALM, CALM[::-1])] * 7])
    assert 0.0015 < alone.p_value < ALPHA
    assert (alone.verdict, many[0].verdict) == ("slower", "undecided")
    assert many[0].p_value == pytest.approx(8 * alone.p_value)
    assert alone.low > 1 > many[0].low


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.lists(st.floats(50, 60), min_size=5, max_size=7)] * 2, st.sampled_from([1.0, 1.1, 1.3])),
        min_size=1,
        max_size=6,
    )
)
def test_the_interval_never_contradicts_the_verdict(rows: list[tuple[list[float], list[float], float]]) -> None:
    """Slower: wholly above 1; faster: wholly below; undecided: 1 lies in it. Holm decides against every row count."""
    for found in effects([(one, [factor * value for value in other]) for one, other, factor in rows]):
        assert found.low <= found.ratio <= found.high
        expected = "slower" if found.low > 1 else "faster" if found.high < 1 else "undecided"
        assert found.verdict == expected


def test_control_characters_of_a_result_are_shown_escaped(tmp_path: Path) -> None:
    """A crafted name neither clears the screen nor sets the title, in the table and in errors."""
    evil = "fp32\x1b[2J\u202e"
    crafted = write(tmp_path / "crafted.json", result(row(variant=evil), row(variant=evil, batch=64)))
    plain = write(tmp_path / "plain.json", result(row(variant=evil), cpu="x\x07y\nz"))
    for done in (
        in_process("compare", crafted, crafted, cwd=tmp_path),
        in_process("compare", crafted, plain, "--anyway", cwd=tmp_path),
        in_process("compare", crafted, plain, cwd=tmp_path),
    ):
        assert all(character.isprintable() or character == "\n" for character in done.out + done.err)
        assert r"fp32\x1b[2J\u202e" in done.out + done.err or done.code == 2


@pytest.mark.usefixtures("nothing_is_timed")
def test_what_is_no_regular_file_is_refused_at_once(before: Path, tmp_path: Path) -> None:
    """A FIFO would block, a device has no end, and a huge or deeply nested file takes the memory: exit 3."""
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "nested.json").write_text('{"schema": ' + '{"a":' * 900 + "1" + "}" * 901)
    for bad in ("fifo", "/dev/zero", "huge.json", "deep.json", "nested.json", "."):
        done = in_process("compare", before, bad, "--json", cwd=tmp_path)
        assert (done.code, done.json["error"]["kind"]) == (3, "bad-file"), bad
        assert len(one_line(done.err)) < 300


def first(content: dict[str, Any]) -> dict[str, Any]:
    """The first row of a result."""
    return content["results"][0]


CHANGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "other schema": lambda content: content.update(schema="mnist-edge/bench/1"),
    "no schema": lambda content: content.pop("schema"),
    "no results": lambda content: content.pop("results"),
    "results that are none": lambda content: content.update(results={"p50_us": 12}),
    "a field missing": lambda content: first(content).pop("processes"),
    "a word for a figure": lambda content: first(content)["processes"][0].update(p50_us="fast"),
    "NaN": lambda content: first(content)["processes"][2].update(p50_us=float("nan")),
    "no end": lambda content: first(content)["processes"][2].update(p50_us=float("inf")),
    "a row that is no number": lambda content: first(content).update(p50_us=float("nan")),
    "a row below zero": lambda content: first(content).update(p50_us=-3.0),
    "versions in a list": lambda content: content["environment"].update(versions=["numpy"]),
    "negative": lambda content: first(content)["processes"][2].update(p50_us=-100.0),
    "zero": lambda content: first(content)["processes"][2].update(p50_us=0.0),
    "a p50 above its processes'": lambda content: first(content).update(p50_us=101.01),
    "a p50 below its processes'": lambda content: first(content).update(p50_us=99.49),
    "a p99 below the p50": lambda content: first(content).update(p99_us=99.6),
    "a p99 without end": lambda content: first(content).update(p99_us=float("inf")),
    "samples of other processes": lambda content: first(content).update(samples=2501),
    "no processes": lambda content: first(content).update(processes=[], samples=0),
    "the same row twice": lambda content: content["results"].append(first(content)),
    "a row twice, of other figures": lambda content: content["results"].append({**first(content), "outliers": 9}),
    "an unknown scenario": lambda content: first(content)["scenario"].update(name="rush-hour"),
}
WHOLE = json.dumps(result(row(), row(batch=64)).to_json()).encode()
DAMAGED = {
    "a list": b"[" + WHOLE + b"]", "not JSON": b"p50: 12 us", "empty": b"", "not text": b"\xff\xfe\x00\x81",
    "cut": WHOLE[:-200], "null": b"null",
}  # fmt: skip


def damaged(change: str) -> bytes:
    """A result with one thing wrong."""
    if change in DAMAGED:
        return DAMAGED[change]
    content = json.loads(WHOLE)
    CHANGED[change](content)
    return json.dumps(content).encode()


@pytest.mark.parametrize("change", [*DAMAGED, *CHANGED])
@pytest.mark.usefixtures("nothing_is_timed")
def test_a_bad_result_is_named(change: str, before: Path, bundle_folder: Path, tmp_path: Path) -> None:
    """Exit 3 in one line and one document, whichever side it is on, and nothing is timed or written for it."""
    bad = tmp_path / "bad.json"
    bad.write_bytes(damaged(change))
    for sides in ((bad, before), (before, bad)):
        done = in_process("compare", *sides, "--json", cwd=tmp_path)
        assert done.code == 3
        assert "bad.json" in one_line(done.err)
        assert set(done.json) == {"schema", "error"}
        assert done.json["error"]["kind"] == "bad-file"
        assert done.json["error"]["hint"]
    with pytest.raises(BadFileError, match="bad"):
        read_result(bad)
    timed = in_process("bench", bundle_folder, "--compare", bad, "--output", "b.json", "--json", cwd=tmp_path)
    assert (timed.code, set(timed.json)) == (3, {"schema", "error"})
    assert not (tmp_path / "b.json").exists()


@pytest.mark.usefixtures("nothing_is_timed")
def test_a_missing_result_says_how_to_make_one(before: Path, bundle_folder: Path, tmp_path: Path) -> None:
    """Exit 4 for a wrong path, and a folder is no result."""
    with pytest.raises(BadFileError, match="is a folder"):
        read_result(tmp_path)
    for arguments in (
        ("compare", "no.json", before),
        ("compare", before, "no.json"),
        ("bench", bundle_folder, "--compare", "no.json", "--output", "b.json"),
    ):
        done = in_process(*arguments, "--json", cwd=tmp_path)
        assert (done.code, done.json["error"]["kind"]) == (4, "environment")
        assert "no.json does not exist" in one_line(done.err)
        assert "bench --output" in one_line(done.err)
    assert not (tmp_path / "b.json").exists()


@pytest.mark.usefixtures("nothing_is_timed")
def test_an_unreadable_tolerance_is_wrong_usage(before: Path, tmp_path: Path) -> None:
    """A slowdown cannot be less than none."""
    for value in ("-1", "much"):
        done = in_process("compare", before, before, "--tolerance", value, cwd=tmp_path)
        assert (done.code, done.out) == (2, "")
        assert "tolerance" in one_line(done.err)


@pytest.mark.parametrize(("factor", "code", "verdict"), [(1.0, 0, "undecided"), (1.2, 1, "slower"), (0.8, 0, "faster")])
def test_bench_compares_what_it_has_timed(
    factor: float, code: int, verdict: str, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--json gives the comparison, the table both; the new result is written also where it is slower."""
    before = write(tmp_path / "before.json", here(bundle_folder, row()))
    made = here(bundle_folder, row(factor=factor))
    monkeypatch.setattr(rounds, "bench", lambda *_: made)
    arguments = ("bench", bundle_folder, "--compare", before, "--output", "after.json")
    done = in_process(*arguments, "--json", cwd=tmp_path)
    assert done.code == code
    assert (done.json["schema"], done.json["candidate"]) == ("mnist-edge/compare/3", "this run")
    assert done.json["rows"][0]["effect"]["verdict"] == verdict
    assert read_result(tmp_path / "after.json") == made
    table = in_process(*arguments, cwd=tmp_path)
    assert table.code == code
    assert verdict in table.out
    assert f"{made.results[0].p50_us:,.1f}" in table.out
    assert ("allowed 5 %" in table.err) == bool(code)
    alone = in_process("compare", before, "after.json", "--json", cwd=tmp_path)
    assert (alone.code, alone.json["rows"]) == (code, done.json["rows"])


def test_bench_may_replace_the_result_that_it_compares_with(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline is read before the new result takes its place."""
    before = write(tmp_path / "before.json", here(bundle_folder, row()))
    monkeypatch.setattr(rounds, "bench", lambda *_: here(bundle_folder, row(factor=1.2)))
    done = in_process("bench", bundle_folder, "--compare", before, "--output", before, "--json", cwd=tmp_path)
    assert (done.code, done.json["rows"][0]["effect"]["verdict"]) == (1, "slower")
    assert read_result(before).results[0].p50_us == pytest.approx(120.24)


REFUSED: dict[str, tuple[Callable[[BenchReport], BenchReport], tuple[str, ...], int, str]] = {
    "another machine": (lambda old: dataclasses.replace(old, environment=ENVIRONMENT), (), 2, "cpu: A CPU and"),
    "another model": (lambda old: dataclasses.replace(old, weights_sha256="b" * 64), (), 2, "weights: sha256"),
    "another duration": (lambda old: old, ("--duration", "0.2"), 2, "single-stream for 0.4 s and single-stream for 0.2 s"),
    "other batches": (lambda old: old, ("--batch", "2"), 2, "no row in common"),
    "a batch too few": (lambda old: dataclasses.replace(old, results=(row(), row(batch=64))), (), 1, "batch 64"),
    "too few processes": (lambda old: dataclasses.replace(old, results=(row(CALM[:4]),)), (), 2, "has 4 processes"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.usefixtures("nothing_is_timed")
def test_bench_refuses_before_it_times_anything(what: str, bundle_folder: Path, tmp_path: Path) -> None:
    """What is known beforehand costs no minutes: the same code as `compare` would give, and no file."""
    change, options, code, phrase = REFUSED[what]
    old = write(tmp_path / "old.json", change(here(bundle_folder, row())))
    arguments = ("bench", bundle_folder, "--compare", old, "--output", "after.json", "--json", *options)
    done = in_process(*arguments, cwd=tmp_path)
    assert (done.code, set(done.json)) == (code, {"schema", "error"})
    assert phrase in one_line(done.err)
    assert not (tmp_path / "after.json").exists()


def test_bench_compares_with_another_machine_by_who_asks_for_it(
    before: Path, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--anyway times, and every row says what differs."""
    made = here(bundle_folder, row())
    monkeypatch.setattr(rounds, "bench", lambda *_: made)
    reported = in_process("bench", bundle_folder, "--compare", before, "--anyway", "--json", cwd=tmp_path)
    assert reported.code == 0
    weights = f"weights: sha256 aaaaaaaaaaaa and {made.weights_sha256[:12]}"
    assert {f"cpu: A CPU and {made.environment['cpu']}", weights} <= set(reported.json["rows"][0]["differences"])


@pytest.mark.parametrize(
    ("one", "other", "phrase"),
    [
        (Scenario(seconds=0.4), Scenario(seconds=4), "single-stream for 0.4 s and single-stream for 4 s"),
        (
            Scenario(name="server", seconds=2, rate_per_s=100),
            Scenario(name="server", seconds=2, rate_per_s=500),
            "server at 100/s for 2 s and server at 500/s for 2 s",
        ),
        (
            Scenario(name="idle", seconds=2, gap_ms=10),
            Scenario(name="idle", seconds=2, gap_ms=90),
            "idle, gap 10 ms for 2 s and idle, gap 90 ms for 2 s",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.described,
)
def test_other_settings_of_a_scenario_are_not_compared(one: Scenario, other: Scenario, phrase: str) -> None:
    """A queue that fills for ten seconds is not one of two; --anyway compares and says so in the row."""
    sides = result(row(scenario=one)), result(row(scenario=other))
    with pytest.raises(UsageError, match=phrase):
        compare(*sides, ("a", "b"), tolerance=0.05)
    found = compare(*sides, ("a", "b"), tolerance=0.05, anyway=True)
    assert (found.rows[0].differences, found.missing, found.added) == ((f"scenario: {phrase}",), (), ())
    assert compare(sides[0], sides[0], ("a", "b"), tolerance=0.05).rows[0].differences == ()


@pytest.mark.usefixtures("nothing_is_timed")
def test_too_few_processes_are_not_compared(before: Path, bundle_folder: Path, tmp_path: Path) -> None:
    """With two processes a comparison would find next to nothing: exit 2, with the option that fixes it."""
    content = json.loads(WHOLE)
    first(content).update(processes=first(content)["processes"][:2], samples=1000)
    (tmp_path / "few.json").write_text(json.dumps(content))
    for arguments in (
        ("compare", before, "few.json"),
        ("bench", bundle_folder, "--compare", before, "--rounds", "2"),
        ("bench", bundle_folder, "--self-check", "--rounds", "4"),
    ):
        done = in_process(*arguments, cwd=tmp_path)
        assert (done.code, done.out) == (2, "")
        assert "bench --rounds 5" in one_line(done.err)
