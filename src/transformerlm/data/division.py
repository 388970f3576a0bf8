"""A corpus as it is divided into chunks: the same ones whenever they are asked for."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from transformerlm.config import CorpusConfig
from transformerlm.data.chunks import CHUNK_BYTES, Region, SafeCut, chunks_of, chunks_of_all
from transformerlm.data.corpus import Corpora
from transformerlm.data.documents import Chunk, Place, Split
from transformerlm.data.kinds import TEXT, codec_of_kind, format_of, is_plain
from transformerlm.data.reading.window import open_window
from transformerlm.data.split import regions
from transformerlm.errors import DataError


@dataclass(frozen=True)
class Division:
    """A corpus, and all that its division into chunks depends on.

    A chunk is named by its `Chunk.end`, however far the division is continued from.
    """

    config: CorpusConfig
    """[data]."""
    corpora: Corpora
    safe_cut: SafeCut
    chunk_bytes: int = CHUNK_BYTES

    @functools.cached_property
    def regions(self) -> Sequence[Region]:
        """Parts of files with their splits; to find them, some of the text may be read."""
        return regions(self.config, self.corpora)

    @property
    def is_side_given(self) -> bool:
        """True if all documents' splits are given by their place, not by their content."""
        return all(region.split for region in self.regions)

    @property
    def divides_document(self) -> bool:
        """True if the split divides a document, as it does the text in which a corpus' tail begins.

        Raises:
            DataError: a file cannot be read.
        """
        return any(self._is_within(region) for _, region in self._halves())

    def _halves(self) -> Iterator[tuple[Region, Region]]:
        """Yield the regions that are two parts of one text."""
        for first, second in itertools.pairwise(self.regions):
            is_text = format_of(second.kind) == TEXT
            if is_text and first.path == second.path and first.stop == second.start:
                yield first, second

    def _is_within(self, region: Region) -> bool:
        """Return True if a region of a text begins within a document."""
        separator = self.config.document_separator.encode()
        start, codec = region.start - len(separator), codec_of_kind(region.kind)
        if not separator or start < 0:
            return True
        limit = self.config.max_unpacked_bytes
        with open_window(region.path, codec, start, region.start, limit) as text:
            return text.read(start, text.reach(region.start)) != separator

    def chunks(self, start: Place = Place()) -> Iterator[Chunk]:  # noqa: B008 - a tuple
        """Yield all chunks in order, from a place on; those of files that are not plain carry their text."""
        return chunks_of_all(self.regions, self.config, self.safe_cut, self.chunk_bytes, start)

    def chunks_for(self, split: Split) -> Iterator[Chunk]:
        """Yield the chunks that may hold documents of a split, in order."""
        own = [index for index, region in enumerate(self.regions) if region.split in (None, split)]
        some = [self.regions[index] for index in own]
        for chunk in chunks_of_all(some, self.config, self.safe_cut, self.chunk_bytes):
            yield chunk._replace(end=chunk.end._replace(region=own[chunk.end.region]))

    def again(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield some chunks, which are in order and were kept without their text, so that they can be read.

        A file that is not plain is read again from its beginning up to the last of its chunks: once for all
        of them, so it is best to ask for many at a time.

        Raises:
            DataError: a file has changed.
        """
        for index, own in itertools.groupby(chunks, key=lambda chunk: chunk.end.region):
            is_there = is_plain(self.regions[index].kind)
            yield from own if is_there else self._unpacked(index, own)  # noqa: B031 - one of both

    def _unpacked(self, index: int, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        found = enumerate(chunks_of(self.regions[index], self.config, self.safe_cut, self.chunk_bytes), 1)
        for chunk in chunks:
            place = chunk.end
            again = next((again for number, again in found if number == place.num_chunks), None)
            if again is None or (again.start, again.stop) != (chunk.start, chunk.stop):
                raise DataError(f"{chunk.path}: has changed while it was being read; start again")
            yield again._replace(end=place)
