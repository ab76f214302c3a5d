"""Text from other people's files reaches a terminal escaped."""

from __future__ import annotations

import dataclasses
import unicodedata
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table

from mnist_edge.errors import BadFileError
from mnist_edge.records.report import Report
from mnist_edge.reporting import console
from mnist_edge.reporting.escape import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fp32", "fp32"),
        ("größer 数字 µs", "größer 数字 µs"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x9b31mred", r"\x9b31mred"),
        ("a\nb\rc\td\x07\x7f", r"a\nb\rc\td\x07\x7f"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2066\u200f\u061c\u2028", r"\u2066\u200f\u061c\u2028"),
        ("bad\udcff", r"bad\udcff"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text: str, shown: str) -> None:
    """ANSI, C1, bidirectional and line-breaking characters are visible; other scripts stay as they are."""
    assert printable(text) == shown


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_no_control_character_survives(text: str) -> None:
    """Whatever the text: no control, format, surrogate or separator character, and escaping twice changes nothing."""
    shown = printable(text)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable(shown) == shown


def test_tables_errors_and_progress_lines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """The console escapes all that it prints, so that no table can forget to."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Named(Report):
        schema: ClassVar[str] = "mnist-edge/test/1"
        name: str

    def table(report: Named) -> Table:
        drawn = Table("name")
        drawn.add_row(report.name)
        return drawn

    name = "int8\x1b]0;title\x07\u202e"
    console.emit(Named(name=name), False, table)
    console.say(f"wrote {name}")
    console.emit_error(BadFileError(f"{name} is damaged", hint=f"delete {name}"), False)
    out, err = capsys.readouterr()
    assert r"int8\x1b]0;title" in out
    assert err.count(r"int8\x1b]0;title\x07\u202e") == 3
    assert all(character.isprintable() or character == "\n" for character in out + err)
    assert len(err.splitlines()) == 2
