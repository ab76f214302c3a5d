"""Escape characters that a terminal would interpret: names and labels come from files that others wrote."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return `text` with every character that is not printable replaced by its escape sequence.

    Escaped are control characters (C0, DEL, C1, and so every ANSI sequence), bidirectional and other
    format characters, line and paragraph separators, lone surrogates of undecodable file names, and
    unassigned code points: all that `str.isprintable` excludes, as in `repr`. A newline becomes `\n`.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
