"""Split of a corpus into training and validation text: by document, at the corpus' end, or by file."""

from __future__ import annotations

import fractions
import math
from collections.abc import Iterator

from transformerlm.config import CorpusConfig
from transformerlm.data.chunks import CHUNK_BYTES, Region, SafeCut, chunks_of
from transformerlm.data.corpus import Corpora, Corpus, Source, read_bytes
from transformerlm.data.documents import TRAIN, VAL, Chunk, Split, documents_of
from transformerlm.data.kinds import JSONL, left_out_lines
from transformerlm.errors import DataError, Key, Problem

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


def corpus_chunks(
    config: CorpusConfig, corpora: Corpora, safe_cut: SafeCut | None, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Chunk]:
    """Yield all chunks of the corpus, in order."""
    for region in regions(config, corpora):
        yield from chunks_of(region, config, safe_cut, chunk_bytes)


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
    what = f"[data].validation_fraction = {config.validation_fraction} leaves no text to "
    advice = {
        TRAIN: 'train on: take a smaller one or validation_split = "tail", or more text',
        VAL: 'validate on: take a larger one or validation_split = "tail", or 0 for none',
    }
    return DataError(what + advice[split])


def _whole(corpus: Corpus, split: Split | None) -> list[Region]:
    return [
        Region(source.path, source.start, source.num_bytes, split, source.kind) for source in corpus.sources
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

    All after that position is for validation. A text that spans it is divided, a line of JSON is not.
    """
    # Exact, from the decimal number that the user wrote: 1 - 0.9 is not quite 0.1 in binary.
    kept = 1 - fractions.Fraction(str(config.validation_fraction))
    at = math.floor(corpus.num_bytes * kept)
    found = []
    for source in corpus.sources:
        boundary = _boundary(source, at, config) if source.start < at < source.num_bytes else at
        middle = max(source.start, min(boundary, source.num_bytes))
        found.append(Region(source.path, source.start, middle, TRAIN, source.kind))
        found.append(Region(source.path, middle, source.num_bytes, VAL, source.kind))
        at -= source.num_bytes
    return [region for region in found if region.start < region.stop]


def _boundary(source: Source, at: int, config: CorpusConfig) -> int:
    """Return the first position from byte `at` on at which the file can be divided."""
    if source.kind == JSONL:
        return _next_line(source, at)
    separator = config.document_separator.encode()
    after = _after_separator(source, at, separator) if separator else at
    character = read_bytes(source.path, after, min(after + 3, source.num_bytes))
    return after + len(character) - len(character.lstrip(bytes(range(0x80, 0xC0))))


def _next_line(source: Source, at: int) -> int:
    """Return the first position from `at` on at which a line begins."""
    position = at - 1
    while position < source.num_bytes:
        data = read_bytes(source.path, position, min(position + 2**20, source.num_bytes))
        if b"\n" in data:
            return position + data.index(b"\n") + 1
        position += len(data)
    return source.num_bytes


def _after_separator(source: Source, at: int, separator: bytes) -> int:
    """Return `at`, or the end of the separator if `at` lies within one."""
    # Separators are searched from the left, and may overlap themselves ("aaa" contains one "aa"). None spans
    # a byte that it does not contain, so a search from such a byte finds the same ones as a search of the
    # whole text.
    before = read_bytes(source.path, max(source.start, at - _LOOK_BACK_BYTES), at)
    position = at - (len(before) - len(before.rstrip(separator)))
    data = read_bytes(source.path, position, min(at + len(separator), source.num_bytes))
    end = 0
    while (found := data.find(separator, end)) >= 0 and position + found < at:
        end = found + len(separator)
    return max(position + end, at)
