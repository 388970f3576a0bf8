"""Split of a corpus into training and validation text: by document, at the corpus' end, or by file."""

from __future__ import annotations

import fractions
import functools
import math
from collections.abc import Iterator, Sequence

from transformerlm.config import CorpusConfig
from transformerlm.data.chunks import UNKNOWN_END, Region, chunks_of, unpacking_threads
from transformerlm.data.corpus import Corpora, Corpus, Source
from transformerlm.data.documents import TRAIN, VAL, Split, documents_of
from transformerlm.data.kinds import (
    JSONL,
    TEXT,
    codec_of_kind,
    format_of,
    has_records,
    is_one_document,
    is_plain,
    left_out_lines,
)
from transformerlm.data.last_record import RecordPlace, last_record
from transformerlm.data.reading.plain import read_bytes
from transformerlm.data.reading.records import records_of
from transformerlm.data.reading.streams import blocks, open_stream
from transformerlm.data.reading.window import MAX_PIECE_BYTES, open_window
from transformerlm.errors import DataError, Key, Problem
from transformerlm.parallel import threaded_map

MIN_DOCUMENTS = 20
"""Number of documents from which "auto" splits a corpus by document."""

_LOOK_BACK_BYTES = 2**20


def has_validation(config: CorpusConfig) -> bool:
    """Return True if the config asks for text to validate on."""
    return config.validation_corpus is not None or config.validation_fraction > 0


def regions(config: CorpusConfig, corpora: Corpora) -> list[Region]:
    """Return the corpus as parts of files, each with its split, in the order in which they are read."""
    if corpora.validation:
        return [*_whole(corpora.main, TRAIN), *_whole(corpora.validation, VAL)]
    if not has_validation(config):
        return _whole(corpora.main, TRAIN)
    by_document = _whole(corpora.main, None)
    split = config.validation_split
    if split == "document" or (split == "auto" and _divides_by_document(by_document, config)):
        return by_document
    return _divided_by_tail(config, corpora.main)


def empty_split_error(config: CorpusConfig, corpora: Corpora, split: Split, *, is_blank: bool) -> DataError:
    """Return the error for a split in which there is no text; `is_blank`: in the other one neither."""
    is_divided = corpora.validation is None and has_validation(config)
    if is_blank or not is_divided:
        name = "validation_corpus" if split == VAL and corpora.validation else "corpus"
        found = corpora.named[name]
        files = f"{len(found.sources)} file{'s' * (len(found.sources) != 1)} of {found.num_bytes} bytes"
        what = f"expected text in {getattr(config, name)}, got {files} with nothing but white space"
        return DataError(
            [Problem(Key("data", name), line) for line in (what, *left_out_lines(found.left_out))]
        )
    what = f"{config.corpus}: [data].validation_fraction = {config.validation_fraction} leaves no text to "
    advice = {
        TRAIN: 'train on: take a smaller one or validation_split = "tail", or more text',
        VAL: 'validate on: take a larger one or validation_split = "tail", or 0 for none',
    }
    return DataError(what + advice[split])


def _whole(corpus: Corpus, split: Split | None) -> list[Region]:
    return [
        Region(source.path, source.start, source.num_bytes, split, source.kind)
        if is_plain(source.kind)
        else Region(source.path, source.start, UNKNOWN_END, split, source.kind, source.num_bytes)
        for source in corpus.sources
    ]


def _divides_by_document(by_document: list[Region], config: CorpusConfig) -> bool:
    """Return True if there are MIN_DOCUMENTS documents, and some in both splits; stop reading once sure."""
    number, seen = 0, set[Split | None]()
    for region in by_document:
        for chunk in chunks_of(region, config, safe_cut=None):
            if chunk.extent == "documents":
                splits: list[Split | None] = [document.split for document in documents_of(chunk, config)]
            else:
                splits = [chunk.split] * (chunk.extent == "end")
            number += len(splits)
            seen.update(splits)
            if number >= MIN_DOCUMENTS and len(seen) == 2:
                return True
    return False


def _divided_by_tail(config: CorpusConfig, corpus: Corpus) -> list[Region]:
    """Split at (1 - fraction) of all bytes, or at the first position after it at which a file can be divided.

    All after that position is for validation. A text, a page or a book that spans it is divided, a line of
    JSON or a row is not. Where none of those begins after it, the last one is the validation text.
    """
    text_bytes = functools.partial(_text_bytes, config)
    sizes = threaded_map(text_bytes, corpus.sources, unpacking_threads(config), _bytes_to_read)
    # Exact, from the decimal number that the user wrote: 1 - 0.9 is not quite 0.1 in binary.
    kept = 1 - fractions.Fraction(str(config.validation_fraction))
    at = math.floor(sum(sizes) * kept)
    found: list[Region] = []
    for source, size in zip(corpus.sources, sizes, strict=True):
        boundary = _boundary(source, at, size, config) if source.start < at < size else at
        middle = max(source.start, min(boundary, size))
        found += _both_sides(source, middle, size)
        at -= size
    if not _validates(found, config) and (last := last_record(_whole(corpus, TRAIN), config)):
        found = list(_divided_at(last, corpus.sources, sizes))
    return [region for region in found if region.start < region.stop]


def _divided_at(place: RecordPlace, sources: Sequence[Source], sizes: Sequence[int]) -> Iterator[Region]:
    """Yield the regions of a corpus that is divided at a place."""
    for index, (source, size) in enumerate(zip(sources, sizes, strict=True)):
        middle = size if index < place.file else source.start if index > place.file else place.start
        yield from _both_sides(source, middle, size)


def _validates(parts: Sequence[Region], config: CorpusConfig) -> bool:
    """Return True if there is text to validate on, as it is wherever plain text or very much is left for it.

    A line or a record that begins nowhere in so much would be too long to be read.
    """
    own = [part for part in parts if part.split == VAL and part.start < part.stop]
    if any(format_of(part.kind) == TEXT for part in own):
        return True
    if sum(part.stop - part.start for part in own) > MAX_PIECE_BYTES:
        return True
    chunks = (chunk for part in own for chunk in chunks_of(part, config, safe_cut=None))
    return any(True for chunk in chunks for _ in documents_of(chunk, config))


def _bytes_to_read(source: Source) -> int:
    return 1 if is_plain(source.kind) else source.num_bytes


def _text_bytes(config: CorpusConfig, source: Source) -> int:
    """Return the size of a file's text; what can only be read from its beginning is read for it."""
    if is_plain(source.kind):
        return source.num_bytes
    if has_records(source.kind):
        return sum(len(record.utf8) + 1 for record in records_of(source.path, source.kind, config))
    with open_stream(source.path, codec_of_kind(source.kind), config.max_unpacked_bytes) as stream:
        return sum(map(len, blocks(stream)))


def _both_sides(source: Source, middle: int, size: int) -> list[Region]:
    """Return the text of a file before a position, to train on, and after it."""
    first = Region(source.path, source.start, middle, TRAIN, source.kind)
    both = [first, first._replace(start=middle, stop=size, split=VAL)]
    if is_plain(source.kind):
        return both
    ratio = source.num_bytes / max(1, size)
    return [part._replace(file_bytes=int(ratio * (part.stop - part.start))) for part in both]


def _boundary(source: Source, at: int, size: int, config: CorpusConfig) -> int:
    """Return the first position from byte `at` on at which the file can be divided."""
    if is_one_document(source.kind):
        (record,) = records_of(source.path, source.kind, config)
        return at + _rest_of_character(record.utf8[at : at + 3])
    if has_records(source.kind):
        return at  # a record belongs to the side in which it begins
    if format_of(source.kind) == JSONL:
        return _next_line(source, at, size, config)
    separator = config.document_separator.encode()
    after = _after_separator(source, at, size, config) if separator else at
    return after + _rest_of_character(_read(source, after, min(after + 3, size), config))


def _rest_of_character(content: bytes) -> int:
    """Return how many bytes at the beginning belong to a character that began before."""
    return len(content) - len(content.lstrip(bytes(range(0x80, 0xC0))))


def _read(source: Source, start: int, stop: int, config: CorpusConfig) -> bytes:
    """Return bytes `start` to `stop` of a file's text."""
    if is_plain(source.kind):
        return read_bytes(source.path, start, stop)
    codec = codec_of_kind(source.kind)
    with open_window(source.path, codec, start, stop, config.max_unpacked_bytes) as text:
        return text.read(start, text.reach(stop))


def _next_line(source: Source, at: int, size: int, config: CorpusConfig) -> int:
    """Return the first position from `at` on at which a line begins."""
    position = at - 1
    while position < size:
        data = _read(source, position, min(position + 2**20, size), config)
        if b"\n" in data:
            return position + data.index(b"\n") + 1
        position += len(data)
    return size


def _after_separator(source: Source, at: int, size: int, config: CorpusConfig) -> int:
    """Return `at`, or the end of the separator if `at` lies within one."""
    # Separators are searched from the left, and may overlap themselves ("aaa" contains one "aa"). None spans
    # a byte that it does not contain, so a search from such a byte finds the same ones as a search of the
    # whole text.
    separator = config.document_separator.encode()
    before = _read(source, max(source.start, at - _LOOK_BACK_BYTES), at, config)
    position = at - (len(before) - len(before.rstrip(separator)))
    data = _read(source, position, min(at + len(separator), size), config)
    end = 0
    while (found := data.find(separator, end)) >= 0 and position + found < at:
        end = found + len(separator)
    return max(position + end, at)
