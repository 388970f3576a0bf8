"""Documents of files that are not one text: rows of tables and CSV files, web pages, books.

A document takes its bytes and one more in the text, as if it were a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from transformerlm.config import CorpusConfig
from transformerlm.data.kinds import CSV, EPUB, HTML, codec_of_kind, format_of
from transformerlm.data.reading.streams import open_stream


class Record(NamedTuple):
    """A document of a file."""

    utf8: bytes
    """The text as UTF-8; with `encoding_errors = "keep"` other bytes too."""
    file_position: int
    """Bytes of the file up to its end, about."""


def records_of(path: str, kind: str, config: CorpusConfig) -> Iterator[Record]:
    """Yield the documents of a file in order.

    Raises:
        DataError: the file is not what its kind says, or is damaged.
    """
    name = format_of(kind)
    if name == EPUB:
        from transformerlm.data.reading.epub import read_book

        yield read_book(path, config)
    elif name in (CSV, HTML):
        with open_stream(path, codec_of_kind(kind), config.max_unpacked_bytes) as stream:
            if name == CSV:
                from transformerlm.data.reading.csv_rows import rows

                yield from rows(stream, config)
            else:
                from transformerlm.data.reading.html import read_page

                yield read_page(stream, config)
    else:
        from transformerlm.data.reading.tables import table_rows

        yield from table_rows(path, name, config)
