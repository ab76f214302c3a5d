"""Parts of `tune`: candidates, limits, the choice among equals, reasons, and the journal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mnist_edge.errors import BadFileError, UnavailableError, UsageError
from mnist_edge.records.benchmark import OperatorTime
from mnist_edge.records.bundle import Variant
from mnist_edge.records.settings import SessionSettings
from mnist_edge.records.tuning import Limits
from mnist_edge.tuning.candidates import COMBINATIONS, Entry, combinations, distinct_levels, single_changes
from mnist_edge.tuning.choose import Chooser, latency_miss, require_consistent, variant_misses
from mnist_edge.tuning.journal import Journal
from mnist_edge.tuning.reasons import Side, slower, slower_start
from mnist_edge.tuning.timing import Figures, lasting

X86 = {"machine": "x86_64", "cpu_features": ["avx2", "avx512_vnni"]}
UNKNOWN = "its accuracy on held-out images is not known: export it again where the training set is available"
OLD_X86 = {"machine": "x86_64", "cpu_features": ["avx2"]}


def variant(name: str = "v", accuracy: float | None = 0.99, size: int = 1000) -> Variant:
    """A variant of a given accuracy on the selection split, and size."""
    return Variant(
        name=name, precision="fp32", requirement="exact", file=f"{name}.onnx", bytes=size, sha256="a" * 64,
        selection_accuracy=accuracy,
    )  # fmt: skip


def entry(name: str = "v", **changes: Any) -> Entry:
    """A candidate with some settings changed."""
    return Entry(variant=name, settings=SessionSettings(**changes))


def profile(**shares: float) -> tuple[OperatorTime, ...]:
    """A profile by operator, of a run of 100 us as the profile measures it."""
    return tuple(
        OperatorTime(operator=name, provider="CPU", calls=1, us_per_run=100 * share, share=share)
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    )


def test_settings_without_effect_are_no_candidates() -> None:
    """One thread does not spin, a cold start has no bound run before it, levels that give one graph are one."""
    assert single_changes("latency", "cpu", 1, ("all",)) == [{"io_binding": True}, {"prepacking": False}]
    assert single_changes("throughput", "cpu", 2, ("all", "basic")) == [
        {"threads": 2}, {"threads": 2, "spinning": False}, {"io_binding": True}, {"optimization": "basic"},
        {"prepacking": False},
    ]  # fmt: skip
    assert single_changes("cold-start", "cpu", 4, ("all", "none")) == [
        {"threads": 2}, {"threads": 4}, {"optimization": "none"}, {"prepacking": False},
    ]  # fmt: skip
    assert single_changes("latency", "cuda", 8, ("all",)) == [{"cuda_graph": True}]


def test_levels_with_one_graph_are_one(bundle_folder: Path, tmp_path: Path) -> None:
    """The exported graph has nothing for `basic` to fold and no layout for `all` to change; a bad file is named."""
    assert distinct_levels(bundle_folder / "model.onnx", "cpu") == ("all", "basic")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(BadFileError, match=r"bad\.onnx"):
        distinct_levels(tmp_path / "bad.onnx", "cpu")


def test_changes_that_help_are_combined_if_they_could_win() -> None:
    """0.8 x 0.9 of 100 beats 75, the best so far; two thread counts, and what does not help, are never combined."""
    times = {
        entry(): 100.0, entry(threads=2): 80.0, entry(threads=4, spinning=False): 85.0, entry(io_binding=True): 90.0,
        entry(prepacking=False): 99.0, entry("other"): 75.0, entry("other", io_binding=True): 75.0,
    }  # fmt: skip
    assert combinations(times) == [entry(threads=2, io_binding=True)]
    del times[entry("other")], times[entry("other", io_binding=True)]
    assert combinations(times) == [
        entry(threads=2, io_binding=True), entry(threads=4, spinning=False, io_binding=True),
    ]  # fmt: skip
    assert combinations({}) == combinations({entry(): 1.0}) == []


def test_the_number_of_combinations_is_bounded() -> None:
    """On 64 CPUs many thread counts help: those with the smallest predicted time are timed."""
    times = {entry(): 100.0, entry(io_binding=True): 90.0, entry(prepacking=False): 95.0}
    times |= {entry(threads=threads): 50.0 + threads for threads in range(2, 40)}
    found = combinations(times)
    assert len(found) == COMBINATIONS
    assert found[0] == entry(threads=2, io_binding=True, prepacking=False)


@pytest.mark.parametrize(
    ("limits", "accuracy", "size", "missed"),
    [
        (Limits(max_accuracy_drop=0.001), 0.9890, 1000, []),
        (Limits(max_accuracy_drop=0.001), 0.9889, 1000, ["0.11 points less accurate than fp32, 0.1 allowed"]),
        (Limits(max_accuracy_drop=0.0), 0.99, 1000, []),
        (Limits(max_accuracy_drop=0.0), 0.9899, 1000, ["0.01 points less accurate than fp32, 0 allowed"]),
        (Limits(max_accuracy_drop=0.0, max_bytes=1000), 0.999, 1000, []),
        (Limits(max_accuracy_drop=0.5, max_bytes=999), 0.9, 1000, ["1,000 bytes, 999 allowed"]),
        (Limits(max_accuracy_drop=1.0), None, 1000, [UNKNOWN]),
    ],
    ids=str,
)  # fmt: skip
def test_a_limit_is_met_up_to_its_value(limits: Limits, accuracy: float | None, size: int, missed: list[str]) -> None:
    """fp32 has 99 %; a limit is exact, and an unknown accuracy meets none."""
    assert [miss.text for miss in variant_misses(variant(accuracy=accuracy, size=size), 0.99, limits)] == missed


def test_without_the_accuracy_of_fp32_nothing_is_judged() -> None:
    """There is nothing to be 0.1 points below."""
    (miss,) = variant_misses(variant(), None, Limits(max_accuracy_drop=1.0))
    assert "not known" in miss.text


def test_a_latency_is_missed_above_the_limit_only() -> None:
    """No limit, at the limit, above it."""
    assert latency_miss(1e9, Limits(max_accuracy_drop=0)) == []
    assert latency_miss(50.0, Limits(max_accuracy_drop=0, max_latency_us=50)) == []
    (miss,) = latency_miss(50.1, Limits(max_accuracy_drop=0, max_latency_us=50))
    assert miss.text == "p50 50.1 us, 50 allowed"


@pytest.mark.parametrize(
    ("limits", "named", "message"),
    [
        (Limits(max_accuracy_drop=0.0, max_bytes=999), {"fp32": 1000, "int8": 2000}, "--max-bytes 999 contradicts"),
        (Limits(max_accuracy_drop=float("nan")), {}, "--max-accuracy-drop nan is no number"),
        (Limits(max_accuracy_drop=0.0, max_latency_us=float("nan")), {}, "--max-latency-us nan is no number"),
    ],
)
def test_limits_that_contradict_each_other_are_wrong_usage(limits: Limits, named: dict[str, int], message: str) -> None:
    """Before anything is timed; limits that one of the named variants meets are fine."""
    with pytest.raises(UsageError, match=message):
        require_consistent(limits, named)
    require_consistent(Limits(max_accuracy_drop=0.0, max_bytes=1000), {"fp32": 1000, "int8": 2000})


def choose(
    times: dict[Entry, list[float]], limits: Limits | None = None, allowed: set[str] | None = None, **accuracies: float
) -> tuple[Entry, Entry]:
    """Leader and pick."""
    names = {each.variant for each in times}
    variants = {name: variant(name, accuracies.get(name, 0.99)) for name in names}
    chooser = Chooser(
        variants, names if allowed is None else allowed, lambda each: sum(times[each]) / len(times[each]),
        limits or Limits(max_accuracy_drop=0),
    )  # fmt: skip
    return chooser.leader(times), chooser.pick(times)


def test_of_equally_good_candidates_the_simplest_is_picked() -> None:
    """A setting of the same variant that was not shown to be better is not used, whatever it seems to gain."""
    times = {entry(): [11.0, 11.0], entry(io_binding=True): [10.0, 10.0], entry(io_binding=True, threads=2): [9.9, 9.9]}
    assert choose(times) == (entry(io_binding=True, threads=2), entry())
    del times[entry()]  # it was beaten
    assert choose(times)[1] == entry(io_binding=True)


def test_of_equally_fast_variants_the_more_accurate_is_picked() -> None:
    """Within 2 % another variant counts as equally fast, beyond it does not."""
    near = {entry("a"): [10.0, 10.0], entry("b"): [10.1, 10.1]}
    assert choose(near, a=0.990, b=0.995)[1] == entry("b")
    far = {entry("a"): [10.0, 10.0], entry("b"): [10.3, 10.3]}
    assert choose(far, a=0.990, b=0.995)[1] == entry("a")


def test_a_candidate_that_breaks_a_limit_leads_only_where_all_do() -> None:
    """The fastest may be too inaccurate, or the fastest start too slow a run."""
    times = {entry("fast"): [5.0, 5.0], entry("right"): [10.0, 10.0]}
    assert choose(times, allowed={"right"}) == (entry("right"), entry("right"))
    assert choose(times, Limits(max_accuracy_drop=0, max_latency_us=1)) == (entry("fast"), entry("fast"))


def test_a_reason_names_the_operator_that_costs_more_than_in_the_choice() -> None:
    """Not the largest one, if the choice spends as much on it; shares are of the measured time, not of the profile's."""
    loser = Side(name="int8", precision="int8", us=50.0, profile=profile(QuantizeLinear=0.39, QGemm=0.61))
    choice = Side(name="fp32", precision="fp32", us=40.0, profile=profile(QGemm=0.75, Cast=0.25))
    assert slower(loser, choice, fp32=(), environment=X86) == (
        "39% of its time is QuantizeLinear (19.5 us, fp32 takes 40.0 in all), 61% of its time is QGemm"
    )
    same = Side(name="b", precision="fp32", us=80.0, profile=profile(QGemm=1.0))
    assert slower(same, choice, fp32=(), environment=X86) == "100% of its time is QGemm (80.0 us, fp32 takes 30.0)"
    assert slower(dataclasses.replace(loser, profile=()), choice, fp32=(), environment=X86) == ""


@pytest.mark.parametrize(
    ("environment", "operator", "cause"),
    [
        (OLD_X86, "QGemm", "this CPU lacks VNNI"),
        (X86, "QGemm", None),
        (OLD_X86, "FusedGemm", None),
        ({"machine": "aarch64", "cpu_features": ["asimd"]}, "MatMulInteger", "this CPU lacks dot-product instructions"),
        ({"machine": "aarch64", "cpu_features": ["asimd", "asimddp"]}, "MatMulInteger", None),
        ({"machine": "riscv64", "cpu_features": []}, "QGemm", None),
    ],
    ids=str,
)
def test_a_missing_instruction_is_blamed_where_profile_and_cpu_show_it(
    environment: dict[str, Any], operator: str, cause: str | None
) -> None:
    """A float model is not slow for want of VNNI, nor any model on a CPU that has it."""
    loser = Side(name="v", precision="int8", us=50.0, profile=profile(**{operator: 0.7, "Cast": 0.3}))
    choice = Side(name="c", precision="fp32", us=10.0, profile=profile(Gemm=1.0))
    found = slower(loser, choice, fp32=(), environment=environment)
    assert ("lacks" in found) == (cause is not None)
    assert cause is None or found.endswith(f"; {cause}")


def test_fp16_is_explained_by_the_operators_of_fp32() -> None:
    """Only where its profile has no others."""
    choice = Side(name="c", precision="int8", us=10.0, profile=profile(QGemm=1.0))
    fp32 = profile(FusedGemm=0.9, Cast=0.1)
    half = Side(name="fp16", precision="fp16", us=40.0, profile=profile(FusedGemm=1.0))
    assert slower(half, choice, fp32=fp32, environment=X86).endswith("fp16 saves bytes, not time")
    other = Side(name="fp16", precision="fp16", us=40.0, profile=profile(Sin=1.0))
    assert "fp16 saves" not in slower(other, choice, fp32=fp32, environment=X86)


def test_a_slow_start_is_explained_by_its_parts() -> None:
    """Loading and first run of both, means over processes."""
    own = [
        Figures(session_us=20_000, first_run_us=1000, seconds=1),
        Figures(session_us=10_000, first_run_us=3000, seconds=1),
    ]
    assert slower_start(own, [Figures(session_us=5000, first_run_us=500, seconds=1)], "c", 3_000_000) == (
        "loading its 3,000,000 bytes takes 15.0 ms and the first run 2.0 ms, c takes 5.0 and 0.5 ms"
    )


def test_a_journal_returns_what_was_added_for_equal_needs_only(tmp_path: Path) -> None:
    """Any other model, setting or machine is another key; the order of the needs is not."""
    path = tmp_path / "j.jsonl"
    Journal(path).add({"model": "a", "turn": 1}, {"seconds": 1.5, "p50_us": 3.0})
    journal = Journal(path)
    assert journal.get(Figures, {"model": "b", "turn": 1}) is None
    assert journal.get(Figures, {"model": "a", "turn": 2}) is None
    assert journal.get(Figures, {"turn": 1, "model": "a"}) == Figures(seconds=1.5, p50_us=3.0)


def test_a_line_that_was_cut_is_removed_and_the_rest_is_kept(tmp_path: Path) -> None:
    """Killed at any byte of a write: the results before it stay, the next one is whole."""
    path = tmp_path / "j.jsonl"
    Journal(path).add({"n": 1}, {"seconds": 1.0})
    whole = path.read_bytes()
    Journal(path).add({"n": 2}, {"seconds": 2.0})
    both = path.read_bytes()
    for end in range(len(whole) + 1, len(both)):
        path.write_bytes(both[:end])
        journal = Journal(path)
        assert path.read_bytes() == whole
        assert journal.get(Figures, {"n": 2}) is None
    journal.add({"n": 2}, {"seconds": 2.0})
    assert path.read_bytes() == both


@pytest.mark.parametrize(
    "content",
    [b"no json\n", b"[1]\n", b'{"key": "a"}\n', b'{"key": {}, "result": 1}\n', b"\xff\n", b"[" * 100_000 + b"\n"],
    ids=["text", "list", "no result", "key", "bytes", "deep"],
)
def test_a_journal_that_is_none_is_a_bad_file(content: bytes, tmp_path: Path) -> None:
    """Exit 3 with the option that starts anew; so is a result of another kind, once it is needed."""
    path = tmp_path / "j.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadFileError, match="is damaged") as caught:
        Journal(path)
    assert "--overwrite" in caught.value.hint
    path.unlink()
    Journal(path).add({"n": 1}, {"seconds": "long"})
    with pytest.raises(BadFileError, match="seconds"):
        Journal(path).get(Figures, {"n": 1})


def test_a_journal_in_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    """Exit 4."""
    journal = Journal(tmp_path / "missing" / "j.jsonl")
    with pytest.raises(UnavailableError):
        journal.add({"n": 1}, {})


def test_what_changes_from_minute_to_minute_is_no_part_of_a_key() -> None:
    """Load and date would make every timing a new one; another CPU, version or GPU is another machine."""
    base = {"cpu": "x", "versions": {"onnxruntime": "1"}, "gpu": {"name": "g", "driver": "1", "sm_clock_mhz": 5}}
    noisy = {**base, "load_1min": 3.0, "date": "today", "gpu": {"name": "g", "driver": "1", "sm_clock_mhz": 9}}
    assert lasting(base) == lasting(noisy)
    for change in ({"cpu": "y"}, {"versions": {}}, {"gpu": None}, {"available_cpus": 3}):
        assert json.dumps(lasting({**base, **change})) != json.dumps(lasting(base))
