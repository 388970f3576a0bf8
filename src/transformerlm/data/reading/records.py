"""Documents of files that are not one text, whatever their format."""

from __future__ import annotations

from collections.abc import Iterator

from transformerlm.config import CorpusConfig
from transformerlm.data.kinds import CSV, EPUB, HTML, codec_of_kind, format_of
from transformerlm.data.reading.csv_rows import rows
from transformerlm.data.reading.epub import read_book
from transformerlm.data.reading.html import read_page
from transformerlm.data.reading.record import Record
from transformerlm.data.reading.streams import open_stream
from transformerlm.data.reading.tables import table_rows


def records_of(path: str, kind: str, config: CorpusConfig) -> Iterator[Record]:
    """Yield the documents of a file in order.

    Raises:
        DataError: the file is not what its kind says, or is damaged.
    """
    name = format_of(kind)
    if name == EPUB:
        yield read_book(path, config)
    elif name in (CSV, HTML):
        with open_stream(path, codec_of_kind(kind), config.max_unpacked_bytes) as stream:
            yield from rows(stream, config) if name == CSV else [read_page(stream, config)]
    else:
        yield from table_rows(path, name, config)
