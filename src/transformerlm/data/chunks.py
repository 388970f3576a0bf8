"""Division of a corpus into chunks and items of work: a function of the text alone, in bounded memory.

A chunk of whole documents ends where a document ends. A document longer than a chunk is cut where encoding
both sides separately gives the same ids as encoding the whole. Of a plain file only the text needed to find
the cuts is read here, and the worker that gets a chunk reads all of it. A file that can only be read from its
beginning is read here, once, and its chunks carry the text.
"""

from __future__ import annotations

import bisect
import codecs
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple, Protocol

from transformerlm.config import CorpusConfig
from transformerlm.data.documents import HASHED_CHARACTERS, Chunk, Place, Split, split_by_content
from transformerlm.data.kinds import (
    JSONL,
    TEXT,
    codec_of_kind,
    format_of,
    has_records,
    is_one_document,
    is_plain,
)
from transformerlm.data.reading.records import records_of
from transformerlm.data.reading.utf8 import decode_beginning
from transformerlm.data.reading.window import TextWindow, open_window
from transformerlm.limits import available_cores
from transformerlm.parallel import ordered_map
from transformerlm.tokenizer.pretokenize import bytes_of

CHUNK_BYTES = 2**19
"""Approximate size of a chunk. Each worker uses a few times as much memory; with much larger chunks, C's
allocator keeps hundreds of megabytes that it cannot reuse."""

AHEAD_BYTES = 2**22
"""Text that is read ahead, of each of the next files."""
MAX_UNPACKING_THREADS: Final = 4
"""Threads that unpack files, at most. Each has two files open, and one of `xz -9` takes 65 MB."""
UNKNOWN_END: Final = 2**63 - 1
"""End of a text whose size is not known before it has been read."""
_TAIL_BYTES = 2**14
"""Bytes at the end of a chunk that are searched first for a place to cut."""
_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))


class SafeCut(Protocol):
    """Function that finds where a text can be cut so that encoding both parts gives the ids of the whole."""

    def __call__(self, text: str, *, is_tail: bool = False) -> int:
        """Return the largest index at which `text` may be cut, for any continuation; 0 if there is none.

        Args:
            is_tail: other text precedes `text`.
        """


class Region(NamedTuple):
    """Bytes `start` to `stop` of a text, which begin and end at document boundaries, and their split."""

    path: str
    start: int
    stop: int
    """UNKNOWN_END: up to the end of the text."""
    split: Split | None
    """None: the split is decided by each document's content."""
    kind: str = TEXT
    """Kind of the file: one of `kinds.FORMATS`."""
    file_bytes: int | None = None
    """Bytes of the file that these take there, about; None: as many as in the text."""

    @property
    def num_read(self) -> int:
        """Bytes of the file, for progress."""
        return self.stop - self.start if self.file_bytes is None else self.file_bytes


def chunks_of(
    region: Region, config: CorpusConfig, safe_cut: SafeCut | None, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Chunk]:
    """Divide a region into chunks of about `chunk_bytes`, in order.

    Without `safe_cut` long documents are cut anywhere, which is enough to count documents. A line of JSON
    or a record is not cut, nor is text without a safe cut: such a chunk is as long as necessary.

    Raises:
        DataError: the text cannot be read; of a plain file that may show only when the chunk is read.
    """
    if is_one_document(region.kind):
        yield from _part_of_document(region, config)
        return
    if has_records(region.kind):
        yield from _chunks_of_records(region, config, chunk_bytes)
        return
    codec = codec_of_kind(region.kind)
    with open_window(region.path, codec, region.start, region.stop, config.max_unpacked_bytes) as text:
        for chunk in _chunks_of_text(text, region, config, safe_cut, chunk_bytes):
            content, file_bytes = text.take(chunk.start, chunk.stop)
            yield chunk if content is None else chunk._replace(content=content, file_bytes=file_bytes)


def chunks_of_all(
    regions: Sequence[Region],
    config: CorpusConfig,
    safe_cut: SafeCut | None,
    chunk_bytes: int = CHUNK_BYTES,
    start: Place = Place(),  # noqa: B008 - a tuple
) -> Iterator[Chunk]:
    """Divide regions into chunks, in order, from a place on that `Chunk.end` has named.

    While one file is read, threads begin with the next ones: small files are unpacked in parallel, and of a
    large one `AHEAD_BYTES`.
    """

    def begin(region: Region) -> tuple[list[Chunk], Iterator[Chunk]]:
        chunks = chunks_of(region, config, safe_cut, chunk_bytes)
        return list(_first(chunks, AHEAD_BYTES)), chunks

    rest = regions[start.region :]
    num_threads = unpacking_threads(config)
    if all(is_plain(region.kind) for region in rest):
        num_threads = 1  # nothing is unpacked
    num_done = start.num_chunks
    for index, chunks in enumerate(ordered_map(begin, rest, num_threads, threads=True), start.region):
        numbered = enumerate(itertools.chain(*chunks), 1)
        for number, chunk in itertools.islice(numbered, num_done, None):
            yield chunk._replace(end=Place(index, number))
        num_done = 0


def unpacking_threads(config: CorpusConfig) -> int:
    """Return the number of threads that may unpack files at the same time."""
    return min(config.num_workers or available_cores(), MAX_UNPACKING_THREADS)


def _first(chunks: Iterator[Chunk], num_bytes: int) -> Iterator[Chunk]:
    """Yield the first chunks, of about so many bytes of text, and leave the others."""
    size = 0
    while size < num_bytes and (chunk := next(chunks, None)):
        yield chunk
        size += chunk.num_bytes


def _part_of_document(region: Region, config: CorpusConfig) -> Iterator[Chunk]:
    """Yield the part of a page or a book that the region is, as a document, if there is any."""
    (record,) = records_of(region.path, region.kind, config)
    if content := record.utf8[region.start : region.stop]:
        stop = region.start + len(content) + 1
        chunk = Chunk(region.path, region.start, stop, region.split, kind=region.kind)
        yield chunk._replace(content=(content,), file_bytes=region.num_read)


def _chunks_of_records(region: Region, config: CorpusConfig, chunk_bytes: int) -> Iterator[Chunk]:
    """Divide a file of records: those that begin in the region."""
    group: list[bytes] = []
    start = position = region.start
    at, read = 0, 0
    chunk = Chunk(region.path, 0, 0, region.split, kind=region.kind)
    for utf8, file_position in records_of(region.path, region.kind, config):
        begin, at = at, at + len(utf8) + 1
        if begin < region.start:
            read = file_position
            continue
        if begin >= region.stop:
            break
        group.append(utf8)
        position = at
        if position - start >= chunk_bytes:
            yield chunk._replace(
                start=start, stop=position, content=tuple(group), file_bytes=file_position - read
            )
            group, start, read = [], position, file_position
    if group:
        yield chunk._replace(
            start=start, stop=position, content=tuple(group), file_bytes=file_position - read
        )


def _chunks_of_text(
    text: TextWindow, region: Region, config: CorpusConfig, safe_cut: SafeCut | None, chunk_bytes: int
) -> Iterator[Chunk]:
    """Divide a text; the caller takes a chunk before it asks for the next."""
    is_jsonl = format_of(region.kind) == JSONL
    end = b"\n" if is_jsonl else config.document_separator.encode()
    position, size = region.start, chunk_bytes
    while (stop := text.reach(position + size)) > position:
        whole = stop if stop == text.stop else _end_of_last_document(text, position, stop, end)
        if whole > position:
            yield Chunk(region.path, position, whole, region.split, kind=region.kind)
            position, size = whole, chunk_bytes
        elif is_jsonl:
            size *= 2
        else:
            rest = region._replace(start=position)
            position = yield from _long_document(text, rest, config, safe_cut, chunk_bytes)


def work_items(all_chunks: Iterable[Chunk], chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[Chunk, ...]]:
    """Group chunks into items of work of about `chunk_bytes`, so that small files are handed out together."""
    group: list[Chunk] = []
    size = 0
    for chunk in all_chunks:
        group.append(chunk)
        size += chunk.num_bytes
        if size >= chunk_bytes // 2:  # most chunks are a little less
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


def _end_of_last_document(text: TextWindow, start: int, stop: int, end: bytes) -> int:
    """Return the end of the last complete document in these bytes, its separator included.

    Returns `start` if there is none.
    """
    if not end:
        return start
    if not _overlaps_itself(end):
        # The last separator decides, and most often it is among the last bytes.
        tail = max(start, stop - _TAIL_BYTES)
        found = text.read(tail, stop).rfind(end)
        if found >= 0:
            return tail + found + len(end)
    data = text.read(start, stop)
    # A separator that overlaps itself has to be searched from the left, as everywhere: `rfind` may find one
    # that begins within another.
    return stop - len(data.split(end)[-1]) if end in data else start


def _overlaps_itself(separator: bytes) -> bool:
    """Return True if two occurrences of the separator can share bytes, as two "aa" do in "aaa"."""
    return any(separator.startswith(separator[-length:]) for length in range(1, len(separator)))


def _long_document(
    text: TextWindow, region: Region, config: CorpusConfig, safe_cut: SafeCut | None, chunk_bytes: int
) -> Generator[Chunk, None, int]:
    """Yield the chunks of the document at the region's start; return where the next document begins."""
    separator = config.document_separator.encode()
    chunk = Chunk(region.path, region.start, region.start, region.split, "documents", region.kind)
    size = chunk_bytes
    while True:
        stop = text.reach(chunk.start + size)
        data = text.read(chunk.start, stop)
        end = data.find(separator) if separator else -1
        if end < 0 and stop == text.stop:
            end = len(data)
        if end >= 0:
            extent: Literal["documents", "end"] = "documents" if chunk.extent == "documents" else "end"
            yield chunk._replace(stop=chunk.start + end, extent=extent)
            return chunk.start + end + len(separator)
        # The last bytes may be the beginning of a separator.
        cut = _cut(data[: max(0, len(data) - len(separator) + 1)], chunk, config, safe_cut)
        # A document of nothing but white space is dropped, so its first chunk must contain something else.
        if chunk.extent == "documents" and not data[:cut].strip():
            cut = 0
        if not cut:
            size *= 2
            continue
        split = chunk.split or _split_of_first(text, region, config)
        chunk = chunk._replace(stop=chunk.start + cut, split=split, extent="part")
        yield chunk
        chunk, size = chunk._replace(start=chunk.stop), chunk_bytes


def _cut(data: bytes, chunk: Chunk, config: CorpusConfig, safe_cut: SafeCut | None) -> int:
    """Return the number of bytes of `data`, where `chunk` begins, before its last safe cut; 0 if none."""
    if not safe_cut:
        return len(data)
    return _cut_in_tail(data, safe_cut) or _cut_in_all(data, chunk, config, safe_cut)


def _cut_in_tail(data: bytes, safe_cut: SafeCut) -> int:
    """Find the last safe cut in the last bytes alone; return 0 if that is not possible."""
    tail = data[-_TAIL_BYTES:].lstrip(_CONTINUATION_BYTES)
    text, num_bytes = codecs.utf_8_decode(tail, "replace", False)
    index = safe_cut(text, is_tail=True)
    if index == 0 or "\ufffd" in text:
        return 0
    return len(data) - len(tail) + num_bytes - len(text[index:].encode())


def _cut_in_all(data: bytes, chunk: Chunk, config: CorpusConfig, safe_cut: SafeCut) -> int:
    """Find the last safe cut in all of `data`, decoded according to the config."""
    text, num_bytes = decode_beginning(data, chunk.where, chunk.start, config.encoding_errors)
    index = safe_cut(text)
    if index == 0:
        return 0
    if config.encoding_errors != "replace" or "\ufffd" not in text[index:]:
        return num_bytes - len(bytes_of(text[index:]))
    # U+FFFD may stand for one, two or three bytes: find the most bytes that make `index` characters.
    lengths = range(num_bytes + 1)
    return bisect.bisect_right(lengths, index, key=lambda n: len(data[:n].decode(errors="replace"))) - 1


def _split_of_first(text: TextWindow, region: Region, config: CorpusConfig) -> Split:
    """Return the split of the document at the region's start."""
    separator = config.document_separator
    # No character takes more than four bytes.
    stop = text.reach(region.start + 4 * HASHED_CHARACTERS + len(separator.encode()))
    data = text.read(region.start, stop)
    beginning, _ = decode_beginning(
        data, region.path, region.start, config.encoding_errors, is_whole=stop == text.stop
    )
    first = beginning.partition(separator)[0] if separator else beginning
    return split_by_content(first, config.validation_fraction)
