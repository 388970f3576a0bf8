"""Abilities of a terminal: its width, styles, and text that is cut or wrapped to fit it."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterator, Mapping
from typing import TextIO

BOLD, DIM = "1", "2"
"""Styles, as parameters of the terminal's SGR sequence."""
DEFAULT_WIDTH = 80
"""Columns where the width is not known."""


def is_terminal(stream: TextIO | None) -> bool:
    """Return True if `stream` is open and a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def can_style(stream: TextIO | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Return True if `stream` is a terminal that knows styles, and the user has not set NO_COLOR.

    Source: https://no-color.org
    """
    knows = environment.get("TERM", "dumb") != "dumb" and not environment.get("NO_COLOR")
    return knows and is_terminal(stream)


def width(stream: TextIO | None) -> int:
    """Return the columns of the terminal at this moment; of another file $COLUMNS, or DEFAULT_WIDTH."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns if stream is not None else 0
    except (OSError, ValueError):  # no terminal, or a stream in memory
        columns = 0
    return columns or shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns


def cells(text: str) -> int:
    """Return the number of columns that printable text takes: two for a wide character, none for an accent
    of its own."""
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def printable(text: str, encoding: str = "utf-8") -> str:
    """Return text in which every control character, and what `encoding` lacks, is escaped as in Python.

    A model, or a prompt, may write anything, also sequences that give orders to the terminal.
    """
    shown = "".join(c if c == "\n" or _is_shown(c) else repr(c)[1:-1] for c in text.expandtabs(4))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _is_shown(character: str) -> bool:
    # Joiners belong to the writing of some languages; other formats can turn the direction of a line.
    return character.isprintable() or character in "\u200c\u200d"


def wrap(text: str, columns: int) -> Iterator[str]:
    """Yield the lines of printable text, none wider than `columns`, broken at spaces where possible."""
    for line in text.split("\n"):
        while cells(line) > columns:
            end = _fitting(line, columns)
            space = line.rfind(" ", 1, end + 1)
            end = space if space > 0 else end
            yield line[:end].rstrip()
            line = line[end:].lstrip(" ")
        yield line


def _fitting(text: str, columns: int) -> int:
    """Return the number of characters, at least one, that fit."""
    used = 0
    for index, character in enumerate(text):
        used += _cells(character)
        if used > columns:
            return max(1, index)
    return len(text)
