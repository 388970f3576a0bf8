"""One pass over the documents of a corpus: checksum, size, split and MinHash signature of each.

What is kept of a document is some hundred bytes, whatever its length. The result does not depend on the
number of workers, nor, except for the places (`Scan.chunks`), on how the text is divided into chunks.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from transformerlm.config import CorpusConfig
from transformerlm.data.chunks import CHUNK_BYTES
from transformerlm.data.division import Division
from transformerlm.data.documents import VAL, Chunk, Document, documents_of
from transformerlm.data.kinds import is_plain
from transformerlm.data.shingles import Shingler, SignatureBuilder, Signatures, characters
from transformerlm.limits import available_cores
from transformerlm.parallel import ordered_map
from transformerlm.progress import Bar

DIGEST_BYTES = 16
WORKER_BYTES = 8 * 2**20
"""Minimum amount of text per worker process."""

MEMORY_BYTES = 2**26
"""Text of documents that is kept in memory, or of an item that is sent to a worker."""


def character_cut(text: str, *, is_tail: bool = False) -> int:
    """Return the index at which `text` may be cut where any place between two characters will do."""
    return len(text)


class Piece(NamedTuple):
    """A document, or a part of a long one, and its place."""

    document: int
    """Counted from 0 within the item."""
    chunk: int
    """Chunk of the item."""
    ordinal: int
    """Document of the chunk."""
    is_begin: bool
    content: Document


def pieces(item: Iterable[Chunk], config: CorpusConfig) -> Iterator[Piece]:
    """Yield the documents of an item, long ones in parts."""
    number, is_begin = -1, True
    for index, chunk in enumerate(item):
        for ordinal, document in enumerate(documents_of(chunk, config)):
            number += is_begin
            yield Piece(number, index, ordinal, is_begin, document)
            is_begin = document.is_end


def whole_items(chunks: Iterable[Chunk], size: int = CHUNK_BYTES) -> Iterator[Iterable[Chunk]]:
    """Group chunks into items of about `size` bytes; all parts of a long document are in one item.

    An item is a tuple, or an iterator if its chunks carry more text than MEMORY_BYTES: a long document that
    is unpacked. It has to be used up before the next item is asked for.
    """
    group: list[Chunk] = []
    num_bytes = num_carried = 0
    chunks = iter(chunks)
    for chunk in chunks:
        group.append(chunk)
        num_bytes += chunk.num_bytes
        num_carried += 0 if chunk.content is None else chunk.num_bytes
        if chunk.extent == "part" and num_carried > MEMORY_BYTES:
            yield itertools.chain(group, _rest_of_document(chunks))
        elif chunk.extent == "part" or num_bytes < size // 2:
            continue
        else:
            yield tuple(group)
        group, num_bytes, num_carried = [], 0, 0
    if group:
        yield tuple(group)


def _rest_of_document(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield chunks up to the end of the document of which the last one was a part."""
    for chunk in chunks:
        yield chunk
        if chunk.extent != "part":
            return


class Observer(Protocol):
    """Something that looks at each piece during the pass, in the worker process."""

    def see(self, piece: Piece, codes: NDArray[np.uint32]) -> None:
        """Look at a piece; `codes` are its code points."""

    def result(self) -> Any:
        """Return what was seen; it is sent back to the calling process."""


class ScannedItem(NamedTuple):
    """Columns of an item's documents, and what an observer saw."""

    first_chunks: NDArray[np.int64]
    last_chunks: NDArray[np.int64]
    ordinals: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    num_shingles: NDArray[np.int64]
    is_validation: NDArray[np.bool_]
    digests: NDArray[np.uint64]
    """`[documents, 2]`"""
    signatures: Signatures
    """`[documents, NUM_HASHES]`; without rows if they are not wanted."""
    num_chunks: int
    seen: Any


def scan_item(
    config: CorpusConfig,
    with_signatures: bool,
    observer: Callable[[], Observer] | None,
    item: Iterable[Chunk] | ScannedItem,
) -> ScannedItem:
    """Read one item and return the columns of its documents; an item that has been read is returned."""
    if isinstance(item, ScannedItem):
        return item
    columns = _Columns(with_signatures, observer() if observer else None)
    numbers = itertools.count()
    for piece in pieces((chunk for chunk, _ in zip(item, numbers, strict=False)), config):
        columns.add(piece)
    return columns.result(num_chunks=next(numbers))


class _Columns:
    """The columns of an item, piece by piece."""

    def __init__(self, with_signatures: bool, observer: Observer | None) -> None:
        self._with_signatures, self._observer = with_signatures, observer
        self._rows: list[list[int]] = []
        self._digests: list[Any] = []
        self._builder, self._shingler = SignatureBuilder(), Shingler()

    def add(self, piece: Piece) -> None:
        """Add a document, or a part of a long one."""
        if piece.is_begin:
            is_validation = int(piece.content.split == VAL)
            self._rows.append([piece.chunk, piece.chunk, piece.ordinal, 0, is_validation])
            self._digests.append(hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"document"))
            self._builder.begin()
            self._shingler = Shingler()
        utf8 = piece.content.utf8
        self._rows[-1][1] = piece.chunk
        self._rows[-1][3] += len(utf8)
        self._digests[-1].update(utf8)
        if self._with_signatures or self._observer:
            codes = characters(utf8)
            if self._with_signatures:
                self._builder.add(self._shingler.add(codes))
            if self._observer:
                self._observer.see(piece, codes)

    def result(self, num_chunks: int) -> ScannedItem:
        """Return the columns."""
        columns = np.array(self._rows, np.int64).reshape(-1, 5)
        content = np.frombuffer(b"".join(digest.digest() for digest in self._digests), np.dtype(">u8"))
        first_chunks, last_chunks, ordinals, num_bytes = columns[:, :4].T
        return ScannedItem(
            first_chunks,
            last_chunks,
            ordinals,
            num_bytes,
            np.array(self._builder.counts, np.int64),
            columns[:, 4].astype(np.bool_),
            content.astype(np.uint64).reshape(-1, 2),
            self._builder.signatures() if self._with_signatures else np.empty((0, 0), np.uint16),
            num_chunks,
            self._observer.result() if self._observer else None,
        )


@dataclass(frozen=True, eq=False)
class Scan:
    """Every document of a corpus, in order: columns, `[documents]`."""

    division: Division
    chunks: Sequence[Chunk]
    """The chunks that were read, without their text."""
    first_chunks: NDArray[np.int64]
    """Index of the chunk in which a document begins."""
    last_chunks: NDArray[np.int64]
    ordinals: NDArray[np.int64]
    """Number of the document among those of its first chunk."""
    num_bytes: NDArray[np.int64]
    num_shingles: NDArray[np.int64]
    """0 if no signatures were wanted."""
    is_validation: NDArray[np.bool_]
    digests: NDArray[np.uint64]
    """Checksums of the content, `[documents, 2]`."""
    signatures: Signatures

    def __len__(self) -> int:
        return len(self.num_bytes)

    def parts(self, document: int) -> Iterator[bytes]:
        """Read a document again, in parts.

        A file that is not plain is read from its beginning for it: `Texts` reads many documents at once.
        """
        first, last = int(self.first_chunks[document]), int(self.last_chunks[document])
        ordinal = int(self.ordinals[document])  # 0 for a long one, whose chunks hold nothing else
        for chunk in self.division.again(self.chunks[first : last + 1]):
            for number, found in enumerate(documents_of(chunk, self.division.config)):
                if number == ordinal:
                    yield found.utf8
                    break

    def path(self, document: int) -> str:
        """Return the file of a document."""
        return self.chunks[int(self.first_chunks[document])].path


class Texts:
    """Texts of some documents of a scan, to be read in any order; a context manager.

    Each chunk, and each file that is not plain, is read once. The documents are kept in memory, or in a
    temporary file from MEMORY_BYTES on; long ones of plain files, which have chunks of their own, stay where
    they are.
    """

    def __init__(self, scan: Scan, documents: Iterable[int]) -> None:
        self._scan = scan
        self._places: dict[int, list[tuple[int, int]]] = {}
        """Document -> positions and sizes of its parts in the file."""
        # Closed by __exit__, or with the process.
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115
        for document, utf8 in self._to_keep(documents):
            self._places.setdefault(document, []).append((self._file.tell(), len(utf8)))
            self._file.write(utf8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def parts(self, document: int) -> Iterator[bytes]:
        """Yield the text of a document, in parts."""
        if document not in self._places:
            yield from self._scan.parts(document)
            return
        for position, size in self._places[document]:
            self._file.seek(position)
            yield self._file.read(size)

    def _to_keep(self, documents: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Read the chunks that hold some of the documents, but not those that can be read at any time."""
        scan = self._scan
        wanted: dict[int, dict[int, int]] = {}
        """Chunk -> number of a document in the chunk -> document."""
        for document in documents:
            for index in range(int(scan.first_chunks[document]), int(scan.last_chunks[document]) + 1):
                if scan.chunks[index].extent == "documents" or not is_plain(scan.chunks[index].kind):
                    wanted.setdefault(index, {})[int(scan.ordinals[document])] = document
        indices = sorted(wanted)
        chunks = scan.division.again(scan.chunks[index] for index in indices)
        for index, chunk in zip(indices, chunks, strict=True):
            for ordinal, found in enumerate(documents_of(chunk, scan.division.config)):
                if ordinal in wanted[index]:
                    yield wanted[index][ordinal], found.utf8


def scan(
    division: Division,
    *,
    with_signatures: bool,
    observer: Callable[[], Observer] | None = None,
    see: Callable[[int, Any], object] = lambda first, seen: None,
    bar: Bar | None = None,
) -> Scan:
    """Read all documents of a corpus once.

    Args:
        division: the corpus.
        with_signatures: compute MinHash signatures too, which takes most of the time.
        observer: makes an `Observer` for each item; must pickle.
        see: called with the number of the first document of an item, and its observer's result.
        bar: advances by bytes of files.

    Raises:
        DataError: the text does not have the format that the config describes.
    """
    config, chunks = division.config, list[Chunk]()
    num_bytes = division.corpora.estimated_text_bytes
    num_workers = min(config.num_workers or available_cores(), max(1, num_bytes // WORKER_BYTES))
    function = functools.partial(scan_item, config, with_signatures, observer)
    items: list[ScannedItem] = []
    num_chunks = num_documents = 0
    work = _sendable(whole_items(_noted(division.chunks(), chunks)), function)
    for item in ordered_map(function, work, num_workers):
        see(num_documents, item.seen)
        items.append(_moved(item, num_chunks))
        if bar is not None:
            own = chunks[num_chunks : num_chunks + item.num_chunks]
            bar.update(sum(chunk.num_read for chunk in own))
        num_chunks += item.num_chunks
        num_documents += len(item.num_bytes)
    columns = [np.concatenate(column) for column in list(zip(*items, strict=True))[:8]] if items else _empty()
    return Scan(division, chunks, *columns)


def _sendable(
    items: Iterable[Iterable[Chunk]], read: Callable[[Iterable[Chunk]], ScannedItem]
) -> Iterator[tuple[Chunk, ...] | ScannedItem]:
    """Yield items for workers; those with too much text to be sent are read here, as they are unpacked."""
    for item in items:
        yield item if isinstance(item, tuple) else read(item)


def _noted(chunks: Iterable[Chunk], notes: list[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks and add each to `notes`, without its text."""
    for chunk in chunks:
        notes.append(chunk._replace(content=None))
        yield chunk


def _moved(item: ScannedItem, num_chunks: int) -> ScannedItem:
    """Return the item with its chunks counted from the beginning of the corpus, without its observer's."""
    first, last = item.first_chunks + num_chunks, item.last_chunks + num_chunks
    return item._replace(first_chunks=first, last_chunks=last, seen=None)


def _empty() -> list[NDArray[Any]]:
    item = scan_item(CorpusConfig(), True, None, ())
    return list(item[:8])
