"""The text of an evaluation: a corpus read document by document, long documents in parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from transformerlm.config import CorpusConfig
from transformerlm.data.chunks import Region, SafeCut
from transformerlm.data.corpus import Corpora, find_corpora, find_corpus
from transformerlm.data.division import Division
from transformerlm.data.documents import TRAIN, VAL, Split, documents_of
from transformerlm.data.mixture import corpora_of
from transformerlm.data.selection import Selection
from transformerlm.data.split import has_validation, regions
from transformerlm.errors import ConfigError, Key
from transformerlm.progress import Bar
from transformerlm.tokenizer.pretokenize import AllowedSpecial


class Part(NamedTuple):
    """A document or a part of a long one, cut so that the ids of the parts are those of the whole."""

    document: int
    """Index of the document in the text."""
    path: str
    """File of the document."""
    utf8: bytes
    allowed_special: AllowedSpecial = "all"
    """Special tokens that are recognised in it; others are ordinary text."""


@dataclass(frozen=True)
class Text:
    """The documents of a corpus that belong to one split."""

    config: CorpusConfig
    corpora: Mapping[str, Corpora]
    """Name of each corpus of a mixture -> its files; "" for the only one."""
    split: Split

    @classmethod
    def find(cls, config: CorpusConfig, path: str | None) -> Text:
        """Return all text of a path, read according to [data]; without a path, [data]'s validation text.

        Raises:
            ConfigError: if there is no path, and [data] holds nothing out.
            DataError: if there is no such file, or no text in it.
        """
        if path is not None:
            whole = dataclasses.replace(
                config,
                corpus=path,
                mixture=None,
                validation_corpus=None,
                validation_fraction=0.0,
                duplicates="keep",
                near_duplicates="keep",
            )
            return cls(whole, {"": Corpora(find_corpus(path, whole, Key("eval", "text")), None)}, TRAIN)
        if not has_validation(config):
            what = "expected a text, for [data].validation_fraction = 0 holds none out, got None"
            raise ConfigError(what, key=Key("eval", "text"))
        return cls(config, {name: find_corpora(own) for name, own in corpora_of(config).items()}, VAL)

    def regions(self) -> Iterator[tuple[CorpusConfig, Region]]:
        """Yield the parts of files that may hold documents of the split, in order, each with its [data]."""
        for name, own in corpora_of(self.config).items():
            for region in regions(own, self.corpora[name]):
                if region.split in (None, self.split):
                    yield own, region

    @property
    def num_bytes(self) -> int:
        """Bytes to read: whole files, or the regions of them that may hold documents of the split."""
        return sum(region.num_read for _, region in self.regions())

    def notes(self) -> Iterator[str]:
        """Yield lines about files that are not read, or are read otherwise than by their name."""
        for name, own in corpora_of(self.config).items():
            yield from self.corpora[name].notes(own)

    def parts(self, safe_cut: SafeCut, bar: Bar | None = None) -> Iterator[Part]:
        """Yield the documents in order, part by part; the bar advances by bytes of files.

        Raises:
            DataError: for text that does not have the format that [data] describes.
        """
        number = 0
        for name, own in corpora_of(self.config).items():
            division = Division(own, self.corpora[name], safe_cut)
            for chunk in Selection.of(division).apply(division.chunks_for(self.split)):
                for document in documents_of(chunk, own):
                    if document.split == self.split:
                        yield Part(number, chunk.path, document.utf8, document.allowed_special)
                        number += document.is_end
                if bar:
                    bar.update(chunk.num_read)

    def __str__(self) -> str:
        corpus = " + ".join(own.corpus for own in corpora_of(self.config).values())
        held_out = self.config.validation_corpus or f"the validation part of {corpus}"
        return held_out if self.split == VAL else self.config.corpus
