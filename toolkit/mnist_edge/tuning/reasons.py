"""Why a candidate lost: from its figures and its profile, never from what is usually so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mnist_edge.contract import Precision
from mnist_edge.records.benchmark import OperatorTime
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


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: how the choice is called in a sentence: its variant, or `the choice` for another setting of it.
        us: time of a run in microseconds. Profiling itself takes time, so that only the shares of a profile are used.
        profile: time by operator, with the candidate's own settings; empty where it was not profiled.
    """

    name: str
    precision: Precision
    us: float
    profile: Profile

    @property
    def by_operator(self) -> dict[str, float]:
        """Microseconds of a run by operator."""
        return {line.operator: line.share * self.us for line in self.profile}


def slower(loser: Side, choice: Side, *, fp32: Profile, environment: Mapping[str, Any]) -> str:
    """Return where a candidate's time goes that the choice does not need, in a phrase; empty without its profile.

    Args:
        loser: by its time.
        choice: that was faster.
        fp32: profile of fp32 with default settings, where there is one.
        environment: of the timing.
    """
    if not loser.profile:
        return ""
    spent, needed = loser.by_operator, choice.by_operator
    by_excess = sorted(spent, key=lambda operator: needed.get(operator, 0.0) - spent[operator])
    named = [operator for operator in by_excess if spent[operator] >= MENTIONED * loser.us][:2] or by_excess[:1]
    parts = [f"{spent[operator] / loser.us:.0%} of its time is {operator}" for operator in named]
    first = named[0]
    compared = f"{needed[first]:.1f}" if first in needed else f"{choice.us:.1f} in all"
    parts[0] += f" ({spent[first]:.1f} us, {choice.name} takes {compared})"
    return "; ".join([", ".join(parts), *_causes(loser, fp32, environment)])


def _causes(loser: Side, fp32: Profile, environment: Mapping[str, Any]) -> list[str]:
    """Return what explains a profile, where the profile shows it."""
    causes = []
    shares = {line.operator: line.share for line in loser.profile}
    instructions, features = DOT_PRODUCTS.get(str(environment.get("machine")), ("", set()))
    integer = sum(share for operator, share in shares.items() if operator in INTEGER_PRODUCTS)
    if integer >= MENTIONED and features and not features & set(environment.get("cpu_features") or ()):
        causes.append(f"this CPU lacks {instructions}")
    if loser.precision == "fp16" and fp32 and set(shares) - {"Cast"} <= {line.operator for line in fp32}:
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
