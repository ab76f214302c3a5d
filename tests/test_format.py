"""Numbers in tables."""

from __future__ import annotations

import pytest

from mnist_edge.reporting.tables.format import ratio_words


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (0.535, "1.87x faster"),
        (1.1, "1.10x slower"),
        (1.0, "same speed"),
        (1.004, "same speed"),
        (0.996, "same speed"),
        (1.006, "1.01x slower"),
        (0.0005, "2,000x faster"),
    ],
)
def test_a_ratio_of_times_reads_as_faster_or_slower(ratio: float, words: str) -> None:
    """The factor is never below 1, and its direction is a word."""
    assert ratio_words(ratio) == words
