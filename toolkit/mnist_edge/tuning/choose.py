"""Judge candidates by the limits, and choose one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mnist_edge.errors import UsageError
from mnist_edge.records.bundle import Variant
from mnist_edge.records.tuning import Limits
from mnist_edge.stats import geometric_mean
from mnist_edge.tuning.candidates import Entry
from mnist_edge.tuning.racing import MARGIN, Times


@dataclass(frozen=True, kw_only=True)
class Miss:
    """A limit that a candidate does not meet.

    Attributes:
        size: by how much, relative to the limit; the nearest candidate has the smallest.
        text: value and limit in words.
    """

    size: float
    text: str


def variant_misses(variant: Variant, fp32_accuracy: float | None, limits: Limits) -> list[Miss]:
    """Return the limits that a variant misses whatever its settings.

    Args:
        variant: with its selection accuracy.
        fp32_accuracy: that of fp32 on the same images; None where it was not measured, so that nothing can be judged.
        limits: to meet.
    """
    misses = []
    if limits.max_bytes is not None and variant.bytes > limits.max_bytes:
        text = f"{variant.bytes:,} bytes, {limits.max_bytes:,} allowed"
        misses.append(Miss(size=variant.bytes / limits.max_bytes - 1, text=text))
    if variant.selection_accuracy is None or fp32_accuracy is None:
        misses.append(
            Miss(
                size=math.inf,
                text="its accuracy on held-out images is not known: export it again where the training set is available",
            )
        )
        return misses
    drop = fp32_accuracy - variant.selection_accuracy
    # Accuracies are counts over images: 1e-9 is less than one of them, and more than a rounding error.
    if drop > limits.max_accuracy_drop + 1e-9:
        points = f"{100 * drop:.2f} points less accurate than fp32"
        excess = (drop - limits.max_accuracy_drop) / max(limits.max_accuracy_drop, 0.001)
        misses.append(Miss(size=excess, text=f"{points}, {100 * limits.max_accuracy_drop:g} allowed"))
    return misses


def latency_miss(p50_us: float, limits: Limits) -> list[Miss]:
    """Return the limit of latency where a p50 in microseconds misses it."""
    if limits.max_latency_us is None or p50_us <= limits.max_latency_us:
        return []
    text = f"p50 {p50_us:,.1f} us, {limits.max_latency_us:,g} allowed"
    return [Miss(size=p50_us / limits.max_latency_us - 1, text=text)]


def require_consistent(limits: Limits, named: Mapping[str, int]) -> None:
    """Check limits before anything is timed.

    Args:
        limits: of the options.
        named: bytes of the variants that `--variant` names, where the bundle holds all of them.

    Raises:
        UsageError: a limit that is no number; every named variant is larger than --max-bytes.
    """
    for option, value in (("accuracy-drop", limits.max_accuracy_drop), ("latency-us", limits.max_latency_us)):
        if value is not None and not math.isfinite(value):  # no accuracy and no latency exceeds NaN
            raise UsageError(f"--max-{option} {value} is no number", hint=f"--max-{option} 1")
    if limits.max_bytes is not None and named and min(named.values()) > limits.max_bytes:
        smallest = min(named, key=lambda name: named[name])
        raise UsageError(
            f"--max-bytes {limits.max_bytes} contradicts --variant: {smallest} has {named[smallest]:,} bytes",
            hint=f"--max-bytes {named[smallest]}, or name other variants",
        )


class Chooser:
    """The judge of a race of candidates: limits first, then time; equally good candidates by simplicity.

    A setting-only difference has to be measurable, or the simpler settings are chosen: on a busy machine, differences
    under 10 % are noise.
    """

    def __init__(
        self, variants: Mapping[str, Variant], allowed: set[str], p50_us: Callable[[Entry], float], limits: Limits
    ) -> None:
        """Take what does not change during a race.

        Args:
            variants: by name.
            allowed: names of those that meet the limits of accuracy and size.
            p50_us: of a candidate so far, in microseconds.
            limits: for the latency.
        """
        self._variants = variants
        self._allowed = allowed
        self._p50_us = p50_us
        self._limits = limits

    def meets(self, entry: Entry) -> bool:
        """Return whether a candidate meets all limits."""
        return entry.variant in self._allowed and not latency_miss(self._p50_us(entry), self._limits)

    def leader(self, times: Times[Entry]) -> Entry:
        """Return the fastest candidate that meets the limits; the fastest of all where none does."""
        found = [entry for entry in times if self.meets(entry)]
        return min(found or times, key=lambda entry: geometric_mean(times[entry]))

    def pick(self, times: Times[Entry]) -> Entry:
        """Return the simplest of the equally good candidates; of equally simple ones the most accurate, then the smallest.

        Equally good are those within MARGIN of the fastest, and those of its variant that the race did not show to be
        slower.
        """
        fastest = self.leader(times)
        limit = geometric_mean(times[fastest]) * (1 + MARGIN)
        ties = [
            entry
            for entry in times
            if self.meets(entry) == self.meets(fastest)
            and (entry.variant == fastest.variant or geometric_mean(times[entry]) <= limit)
        ]
        return min(ties, key=lambda entry: self._preference(entry, geometric_mean(times[entry])))

    def _preference(self, entry: Entry, time: float) -> tuple[float, ...]:
        variant = self._variants[entry.variant]
        return entry.changes, -(variant.selection_accuracy or 0.0), variant.bytes, time
