"""Where a corpus is divided into pieces of work: a function of the text, in bounded memory.

A piece of whole documents ends where a document does. A document longer than a piece is cut where
encoding both sides apart gives what encoding the whole would give. Only large files are looked into;
reading the text is left to whoever gets the piece.
"""

from __future__ import annotations

import bisect
import codecs
from collections.abc import Generator, Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

from transformerlm.config import CorpusConfig
from transformerlm.data.corpus import read_bytes
from transformerlm.data.documents import (
    HASHED_CHARACTERS,
    Piece,
    Split,
    decode_beginning,
    is_jsonl,
    split_by_content,
)
from transformerlm.tokenizer.pretokenize import bytes_of

PIECE_BYTES = 2**19
"""About how much text one piece of work is. Memory in use is a few times that, for each worker; with much
larger pieces, C's allocator keeps hundreds of megabytes that it finds no use for."""

_TAIL_BYTES = 2**14
"""How much of a piece's end is looked at first for a place to cut."""
_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))


class SafeCut(Protocol):
    """Finds places where encoding a text's two parts gives what encoding the text gives."""

    def __call__(self, text: str, *, is_tail: bool = False) -> int:
        """The largest index at which `text` may be cut, whatever follows it; 0 where there is none.

        Args:
            is_tail: something comes before `text`.
        """


class Region(NamedTuple):
    """Bytes `start` to `stop` of a file, beginning and ending with a document."""

    path: str
    start: int
    stop: int
    split: Split | None
    """None: each document's content decides."""


def pieces(
    region: Region, config: CorpusConfig, safe_cut: SafeCut | None, piece_bytes: int = PIECE_BYTES
) -> Iterator[Piece]:
    """Divide a region into pieces of about `piece_bytes`, in order.

    Without `safe_cut` the cuts may lie anywhere: for who wants the documents, but not their text.
    A line of .jsonl is never cut, and neither is a stretch of text in which there is no safe cut:
    such a piece is as long as it has to be.
    """
    end = b"\n" if is_jsonl(region.path) else config.document_separator.encode()
    position, size = region.start, piece_bytes
    while position < region.stop:
        stop = min(position + size, region.stop)
        whole = stop if stop == region.stop else _end_of_whole(region.path, position, stop, end)
        if whole > position:
            yield Piece(region.path, position, whole, region.split)
            position, size = whole, piece_bytes
        elif is_jsonl(region.path):
            size *= 2
        else:
            rest = region._replace(start=position)
            position = yield from _long_document(rest, config, safe_cut, piece_bytes)


def work_items(all_pieces: Iterable[Piece], piece_bytes: int = PIECE_BYTES) -> Iterator[tuple[Piece, ...]]:
    """Pieces in groups of about `piece_bytes`, so that small files are not handed out one by one."""
    group: list[Piece] = []
    size = 0
    for piece in all_pieces:
        group.append(piece)
        size += piece.stop - piece.start
        if size >= piece_bytes // 2:  # most pieces are a little less
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


def _end_of_whole(path: str, start: int, stop: int, end: bytes) -> int:
    """Where the last document that is whole in these bytes ends, what parts it from the next included."""
    if not end:
        return start
    if not _overlaps_itself(end):
        # The last one tells, however many there are: most often the bytes at the end are enough.
        tail = max(start, stop - _TAIL_BYTES)
        found = read_bytes(path, tail, stop).rfind(end)
        if found >= 0:
            return tail + found + len(end)
    data = read_bytes(path, start, stop)
    # Divided from the left, as everywhere: one that overlaps itself is not always where the last one seems.
    return stop - len(data.split(end)[-1]) if end in data else start


def _overlaps_itself(separator: bytes) -> bool:
    """Whether two of them can share bytes, as in "aaa" two "aa" do."""
    return any(separator.startswith(separator[-length:]) for length in range(1, len(separator)))


def _long_document(
    region: Region, config: CorpusConfig, safe_cut: SafeCut | None, piece_bytes: int
) -> Generator[Piece, None, int]:
    """The pieces of the document with which the region begins; returns where the next one begins."""
    separator = config.document_separator.encode()
    piece = Piece(region.path, region.start, region.start, region.split, "documents")
    size = piece_bytes
    while True:
        stop = min(piece.start + size, region.stop)
        data = read_bytes(region.path, piece.start, stop)
        end = data.find(separator) if separator else -1
        if end < 0 and stop == region.stop:
            end = len(data)
        if end >= 0:
            extent: Literal["documents", "end"] = "documents" if piece.extent == "documents" else "end"
            yield piece._replace(stop=piece.start + end, extent=extent)
            return piece.start + end + len(separator)
        # The last bytes may be the beginning of a separator.
        cut = _cut(data[: max(0, len(data) - len(separator) + 1)], piece, config, safe_cut)
        # What begins with white space may hold nothing else, and would then be no document.
        if piece.extent == "documents" and not data[:cut].strip():
            cut = 0
        if not cut:
            size *= 2
            continue
        split = piece.split or _split_of_first(region, config)
        piece = piece._replace(stop=piece.start + cut, split=split, extent="part")
        yield piece
        piece, size = piece._replace(start=piece.stop), piece_bytes


def _cut(data: bytes, piece: Piece, config: CorpusConfig, safe_cut: SafeCut | None) -> int:
    """Number of bytes up to the last safe cut in `data`, with which `piece` begins; 0 if there is none."""
    if not safe_cut:
        return len(data)
    return _cut_in_tail(data, safe_cut) or _cut_in_all(data, piece, config, safe_cut)


def _cut_in_tail(data: bytes, safe_cut: SafeCut) -> int:
    """The same, from a look at the end alone; 0 where that does not tell."""
    tail = data[-_TAIL_BYTES:].lstrip(_CONTINUATION_BYTES)
    text, num_bytes = codecs.utf_8_decode(tail, "replace", False)
    index = safe_cut(text, is_tail=True)
    if index == 0 or "\ufffd" in text:
        return 0
    return len(data) - len(tail) + num_bytes - len(text[index:].encode())


def _cut_in_all(data: bytes, piece: Piece, config: CorpusConfig, safe_cut: SafeCut) -> int:
    text, num_bytes = decode_beginning(data, piece.path, piece.start, config.encoding_errors)
    index = safe_cut(text)
    if index == 0:
        return 0
    if config.encoding_errors != "replace" or "\ufffd" not in text[index:]:
        return num_bytes - len(bytes_of(text[index:]))
    # U+FFFD may stand for one, two or three bytes: look for the most bytes that make `index` characters.
    lengths = range(num_bytes + 1)
    return bisect.bisect_right(lengths, index, key=lambda n: len(data[:n].decode(errors="replace"))) - 1


def _split_of_first(region: Region, config: CorpusConfig) -> Split:
    """The split of the document with which the region begins."""
    separator = config.document_separator
    # No character takes more than four bytes.
    stop = min(region.start + 4 * HASHED_CHARACTERS + len(separator.encode()), region.stop)
    data = read_bytes(region.path, region.start, stop)
    is_whole = stop == region.stop
    text, _ = decode_beginning(data, region.path, region.start, config.encoding_errors, is_whole=is_whole)
    first = text.partition(separator)[0] if separator else text
    return split_by_content(first, config.validation_fraction)
