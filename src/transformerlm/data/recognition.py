"""Recognition of a file of a corpus: its kind, and where its text begins."""

from __future__ import annotations

import codecs
from typing import NamedTuple

from transformerlm.config import CorpusConfig
from transformerlm.data.kinds import (
    CSV,
    FORMATS,
    HEAD_BYTES,
    MAX_LINE_BYTES,
    TABLES,
    begins_with_object,
    format_of,
    has_records,
    is_csv_name,
    kind_by_content,
    kind_by_name,
)
from transformerlm.data.listing import Found
from transformerlm.data.reading.csv_rows import columns, missing_column
from transformerlm.data.reading.plain import read_bytes
from transformerlm.data.reading.streams import CODECS, ByteStream, codec_of, inner_name, open_stream
from transformerlm.data.reading.tables import column_problem, has_reader


class Recognised(NamedTuple):
    """The kind of a file."""

    kind: str
    """One of `kinds.FORMATS`, or a key of `kinds.REASONS`."""
    start: int = 0
    """Position of the text: after the byte order mark, if there is one."""
    detail: str = ""
    """What is wrong with a file that is not read, if it is not the same for all of its kind."""


def recognise(found: Found, config: CorpusConfig, *, reads_nul: bool = False) -> Recognised:
    """Return the kind of a file; with `reads_nul`, NUL bytes in it are text like others.

    Raises:
        DataError: the file cannot be read, or is compressed and damaged at its beginning.
    """
    name, path, num_bytes = found.name, found.path, found.num_bytes
    if named := kind_by_name(name):
        return Recognised(named)
    head = b"" if found.archive else read_bytes(path, 0, min(num_bytes, HEAD_BYTES))
    codec = found.archive or codec_of(head)
    inner = inner_name(name) if codec in CODECS else name
    if codec:
        with open_stream(path, codec, config.max_unpacked_bytes) as stream:
            head, is_whole = _beginning(stream, inner)
    else:
        if _needs_more(head, inner):
            head = read_bytes(path, 0, min(num_bytes, MAX_LINE_BYTES))
        is_whole = len(head) == num_bytes
    text = head.removeprefix(codecs.BOM_UTF8)
    kind = kind_by_content(inner, text, config, is_whole=is_whole, reads_nul=reads_nul)
    told = Recognised(kind, len(head) - len(text))
    return _unpacked(told, text, codec, config) if codec else _checked(told, path, text, config)


def _beginning(stream: ByteStream, name: str) -> tuple[bytes, bool]:
    """Return the beginning of a stream, and whether it is all of it."""
    head = b""
    while len(head) < HEAD_BYTES or (_needs_more(head, name) and len(head) < MAX_LINE_BYTES):
        block = stream.read()
        if not block:
            return head, True
        head += block
    return head, False


def _needs_more(head: bytes, name: str) -> bool:
    """Return True if the first lines are to be known, and are longer than the beginning of a file."""
    if is_csv_name(name):
        return b"\n" not in head
    return begins_with_object(head.removeprefix(codecs.BOM_UTF8))


def _unpacked(found: Recognised, text: bytes, codec: str, config: CorpusConfig) -> Recognised:
    """Return the kind of a compressed file, from that of its content."""
    kind = f"{found.kind}.{codec}"
    if kind in FORMATS:
        return _checked(found._replace(kind=kind), "", text, config)
    if found.kind in FORMATS:  # a table or a book, which are compressed within
        return Recognised("compressed")
    return Recognised(found.kind)


def _checked(found: Recognised, path: str, text: bytes, config: CorpusConfig) -> Recognised:
    """Return the kind, or the reason why a table of that kind cannot be read."""
    name = format_of(found.kind)
    if has_records(found.kind):
        found = found._replace(start=0)  # their reader passes over a byte order mark
    if name == CSV:
        _, names = columns(text.decode(errors="replace"), config.field_name)
        wanted = config.field_name
        return found if wanted in names else Recognised("column", 0, missing_column(wanted, names))
    if name in TABLES:
        if not has_reader():
            return Recognised("no_reader")
        problem = column_problem(path, name, config)
        return Recognised("column", 0, problem) if problem else Recognised(name)
    return found
