"""Why a candidate lost: from its figures and its profile, never from what is usually so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mnist_edge.records.benchmark import OperatorTime
from mnist_edge.records.bundle import Variant
from mnist_edge.tuning.timing import Figures

Profile = Sequence[OperatorTime]

INTEGER_PRODUCTS = {
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearConv", "QLinearMatMul",
}  # fmt: skip
"""Operators whose speed depends on the integer instructions of the CPU."""
DOT_PRODUCTS = {
    "x86_64": ("VNNI", {"avx512_vnni", "avx_vnni", "amx_int8"}),
    "AMD64": ("VNNI", {"avx512_vnni", "avx_vnni", "amx_int8"}),
    "aarch64": ("dot-product instructions", {"asimddp", "i8mm"}),
    "arm64": ("dot-product instructions", {"asimddp", "i8mm"}),
}
"""By machine: what the integer dot products are called, and the CPU features that have them."""
MENTIONED = 0.2
"""Share of a candidate's time from which an operator is named; the one that costs most is named in any case."""


def time_ratio(ratio: float, other: str) -> str:
    """Return a ratio of times in words: `1.42 times the time of student-6k`."""
    return f"{ratio:,.2f} times the time of {other}"


def slower(variant: Variant, choice: str, profiles: Mapping[str, Profile], environment: Mapping[str, Any]) -> str:
    """Return where a variant's time goes that the choice does not need, in a phrase; empty without a profile.

    Args:
        variant: that lost by its time.
        choice: name of the chosen variant.
        profiles: time by operator, by name of the variant.
        environment: of the timing.
    """
    own = profiles.get(variant.name, ())
    if not own:
        return ""
    needed = {line.operator: line.us_per_run for line in profiles.get(choice, ())}
    by_excess = sorted(own, key=lambda line: needed.get(line.operator, 0.0) - line.us_per_run)
    named = [line for line in by_excess if line.share >= MENTIONED][:2] or by_excess[:1]
    parts = [f"{line.share:.0%} of its time is {line.operator}{_compared(line, choice, needed)}" for line in named]
    return "; ".join([", ".join(parts), *_causes(variant, own, profiles, environment)])


def _compared(line: OperatorTime, choice: str, needed: Mapping[str, float]) -> str:
    if line.operator not in needed:
        return f", which {choice} does not run"
    return f" ({line.us_per_run:.1f} us, {choice} takes {needed[line.operator]:.1f})"


def _causes(
    variant: Variant, own: Profile, profiles: Mapping[str, Profile], environment: Mapping[str, Any]
) -> list[str]:
    """Return what explains a profile, where the profile shows it."""
    causes = []
    shares = {line.operator: line.share for line in own}
    instructions, features = DOT_PRODUCTS.get(str(environment.get("machine")), ("", set()))
    integer = sum(share for operator, share in shares.items() if operator in INTEGER_PRODUCTS)
    if integer and features and not features & set(environment.get("cpu_features") or ()):
        causes.append(f"this CPU lacks {instructions}")
    fp32 = {line.operator for line in profiles.get("fp32", ())}
    if variant.precision == "fp16" and fp32 and set(shares) - {"Cast"} <= fp32:
        causes.append("it runs the operators of fp32: fp16 saves bytes, not time")
    return causes


def slower_start(own: Sequence[Figures], others: Sequence[Figures], choice: str, size: int) -> str:
    """Return where a start's time goes: loading and first run, in milliseconds.

    Args:
        own, others: figures of the loser and of the choice.
        choice: name of the chosen variant.
        size: bytes of the loser's file.
    """
    (load, first), (load_choice, first_choice) = _parts(own), _parts(others)
    return (
        f"loading its {size:,} bytes takes {load:.1f} ms and the first run {first:.1f} ms, "
        f"{choice} takes {load_choice:.1f} and {first_choice:.1f} ms"
    )


def _parts(figures: Sequence[Figures]) -> tuple[float, float]:
    count = 1000 * len(figures)
    return sum(one.session_us for one in figures) / count, sum(one.first_run_us for one in figures) / count
