"""Rows of CSV and TSV files: one column of each, by the name in the first row."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from transformerlm.config import CorpusConfig
from transformerlm.data.reading.record import Record
from transformerlm.data.reading.streams import ByteStream, blocks
from transformerlm.data.reading.utf8 import EncodingErrors, decode_beginning
from transformerlm.data.reading.window import MAX_PIECE_BYTES
from transformerlm.errors import DataError, one_line
from transformerlm.tokenizer.pretokenize import bytes_of

MAX_HEADER: Final = 2**20
"""Characters that are searched for the first row."""
_DELIMITERS: Final = ",;\t|"
_ROWS_AT_ONCE = 256
_FIELD_LIMIT_LOCK = threading.Lock()


def columns(head: str, wanted: str) -> tuple[str, list[str]]:
    """Return the delimiter of a CSV file and the names of its columns, from its beginning.

    The delimiter is the one with which there is a column `wanted`, else the one that makes most columns.
    """
    found = {delimiter: _first_row(head, delimiter) for delimiter in _DELIMITERS}
    best = max(_DELIMITERS, key=lambda delimiter: (wanted in found[delimiter], len(found[delimiter])))
    return best, found[best]


def rows(stream: ByteStream, config: CorpusConfig) -> Iterator[Record]:
    """Yield the text of each row, in the column that [data].text_field names.

    Fields in quotes may have line breaks in them. A row that is too short for the column has no text.

    Raises:
        DataError: there is no such column, the file is no CSV, or a field is longer than `MAX_PIECE_BYTES`.
    """
    lines = _lines(stream, config.encoding_errors)
    head = list(_until_header(lines))
    delimiter, names = columns("".join(head), config.field_name)
    if config.field_name not in names:
        what = missing_column(config.field_name, names)
        raise DataError(f"{stream.path}: {what}; --data.text_field=NAME names another")
    index = names.index(config.field_name)
    reader = csv.reader(itertools.chain(head, lines), delimiter=delimiter, strict=True)
    skipped_header = False
    for row in _parsed(reader, stream.path):
        if row and skipped_header:
            yield Record(bytes_of(row[index]) if index < len(row) else b"", stream.file_position)
        skipped_header = skipped_header or bool(row)


def missing_column(wanted: str, names: Sequence[str]) -> str:
    """Return a sentence about a column that is not there."""
    found = ", ".join(one_line(name)[:40] for name in names[:20]) or "(none)"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f'expected a column "{wanted}", got only {found}{more}'


def _first_row(head: str, delimiter: str) -> list[str]:
    try:
        with _long_fields():
            return next(filter(None, csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)), [])
    except csv.Error:
        return []


def _parsed(reader: Iterator[list[str]], path: str) -> Iterator[list[str]]:
    """Yield the rows of a reader, some parsed at once."""
    while True:
        parsed: list[list[str]] = []
        try:
            with _long_fields():
                size = 0
                while len(parsed) < _ROWS_AT_ONCE and size < 2**20:
                    parsed.append(next(reader))
                    size += sum(map(len, parsed[-1]))
        except StopIteration:
            yield from parsed
            return
        except csv.Error as error:
            line = reader.line_num  # type: ignore[attr-defined]
            raise DataError(f"{path}:{line}: expected CSV, got: {error}") from None
        yield from parsed


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the csv module parse fields as long as a document; its limit is one for the whole process."""
    with _FIELD_LIMIT_LOCK:
        before = csv.field_size_limit(MAX_PIECE_BYTES)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _lines(stream: ByteStream, errors: EncodingErrors) -> Iterator[str]:
    """Yield lines with their ends; a line break within quotes ends a line, too."""
    rest: list[str] = []
    size = 0
    for text in _decoded(stream, errors):
        first, *others = text.split("\n")
        rest.append(first)
        size += len(first)
        if size > MAX_PIECE_BYTES:
            what = f"expected lines of at most {MAX_PIECE_BYTES:,} characters, got a longer one"
            raise DataError(f"{stream.path}: {what}")
        if others:
            yield "".join(rest) + "\n"
            yield from (f"{line}\n" for line in others[:-1])
            rest, size = others[-1:], len(others[-1])
    if last := "".join(rest):
        yield last


def _decoded(stream: ByteStream, errors: EncodingErrors) -> Iterator[str]:
    """Yield the text of a stream, without a byte order mark."""
    data, position = b"", 0
    for block in blocks(stream):
        data += block
        if not position and data.startswith(codecs.BOM_UTF8):
            data, position = data.removeprefix(codecs.BOM_UTF8), len(codecs.BOM_UTF8)
        text, num_bytes = decode_beginning(data, stream.path, position, errors)
        yield text
        data, position = data[num_bytes:], position + num_bytes
    yield decode_beginning(data, stream.path, position, errors, is_whole=True)[0]


def _until_header(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines until the first row is complete: quotes are in pairs."""
    is_open = is_seen = False
    size = 0
    for line in lines:
        yield line
        size += len(line)
        if size > MAX_HEADER:
            return  # a quote that is never closed; the rest of the file is not the header
        is_open ^= line.count('"') % 2 == 1
        is_seen = is_seen or bool(line.strip())
        if is_seen and not is_open:
            return
