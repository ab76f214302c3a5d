"""The format of numbers and of simple tables in every report."""

from __future__ import annotations

from rich import box
from rich.table import Table


def percent(share: float | None) -> str:
    """Return a fraction of 1 as a percentage; a dash for None."""
    return "-" if share is None else f"{share:.2%}"


def grouped(count: int | None) -> str:
    """Return a count with separators of thousands; a dash for None."""
    return "-" if count is None else f"{count:,}"


def bounded_share(share: float | None) -> str:
    """Return a bound on a fraction of 1 as a percentage; a dash for None."""
    return "-" if share is None else f"{share:.3%}"


def logit_error(error: float | None) -> str:
    """Return an error in two digits; a dash for None."""
    return "-" if error is None else f"{error:.1e}" if error else "0"


def counted(count: int, noun: str) -> str:
    """A number with its noun: `1 thread`, `2 threads`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def short_number(value: float) -> str:
    """Return four significant digits, and from 1,000 on the whole number."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def facts_table(title: str, facts: dict[str, str]) -> Table:
    """Return a table of names and values under a title."""
    table = Table(box=box.SIMPLE, title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def micro(value: float | None) -> str:
    """Return a time with one decimal below 1,000; a dash for None."""
    if value is None:
        return "-"
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def ratio_words(ratio: float) -> str:
    """Return a ratio of two times in words: `1.87x faster` below 1, `1.10x slower` above, `same speed` at 1.00.

    Args:
        ratio: time of the thing described over time of what it is compared with, above 0.
    """
    factor, word = (1 / ratio, "faster") if ratio < 1 else (ratio, "slower")
    shown = f"{factor:,.2f}" if factor < 100 else f"{factor:,.0f}"
    return "same speed" if shown == "1.00" else f"{shown}x {word}"
