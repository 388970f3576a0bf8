"""A document of a file that is not one text: a row of a table, a web page, a book.

In the positions of a text it takes its bytes and one more, as if it were a line.
"""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """A document of a file."""

    utf8: bytes
    """The text as UTF-8; with `encoding_errors = "keep"` other bytes too."""
    file_position: int
    """Bytes of the file up to its end, about."""
