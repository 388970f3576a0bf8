"""Where the last document begins in files of lines and of records."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformerlm.config import CorpusConfig
from transformerlm.data.chunks import Region, chunks_of
from transformerlm.data.documents import Chunk, documents_of
from transformerlm.data.kinds import TEXT, format_of
from transformerlm.data.reading.plain import read_bytes


class RecordPlace(NamedTuple):
    """Where a line or a record begins."""

    file: int
    """Index of the file."""
    start: int
    """Position in its text."""


def last_record(files: Sequence[Region], config: CorpusConfig) -> RecordPlace | None:
    """Return where the last document begins; None if it is plain text, or the only one.

    The files are read from the last one back, until a document before it is found too.
    """
    found: RecordPlace | None = None
    for index in reversed(range(len(files))):
        starts = deque(_starts(files[index], config), 2)
        if found is None and starts:
            if format_of(files[index].kind) == TEXT:
                return None
            found = RecordPlace(index, starts.pop())
        if starts:
            return found
    return None


def _starts(file: Region, config: CorpusConfig) -> Iterator[int]:
    """Yield where each document of a file begins; of plain text, where each chunk with some text does."""
    is_text = format_of(file.kind) == TEXT
    for chunk in chunks_of(file, config, safe_cut=None):
        for part in [chunk] if is_text else _lines(chunk):
            if any(True for _ in documents_of(part, config)):
                yield part.start


def _lines(chunk: Chunk) -> Iterator[Chunk]:
    """Yield each line or record of a chunk as a chunk."""
    start, content = chunk.start, chunk.content
    if content is None:
        content = read_bytes(chunk.path, chunk.start, chunk.stop)
    for line in content if isinstance(content, tuple) else content.split(b"\n"):
        own = (line,) if isinstance(content, tuple) else line
        yield chunk._replace(start=start, stop=start + len(line), content=own)
        start += len(line) + 1
