"""Record of a corpus' files beside its token files, `.corpus.json`, and checksums of the files' content.

The token files' sidecars have a checksum of the content of the whole corpus. The record has size, times, kind
and checksum of each file, so that a later start opens only files whose size or times have changed. It is a
cache: without it, or where it is damaged, all files are read.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformerlm.data.corpus import Corpora, Corpus, KnownFile, KnownFiles, Source
from transformerlm.data.kinds import FORMATS, REASONS, codec_of_kind, examples
from transformerlm.data.listing import RECORD_FILE
from transformerlm.data.reading.streams import blocks, open_raw
from transformerlm.errors import DataError
from transformerlm.parallel import threaded_map
from transformerlm.progress import Bar, Reporter
from transformerlm.storage.files import committed_file, remove_dead_temporaries

FORMAT_VERSION = 3
"""Versions 1 and 2 have kinds of fewer formats."""
CLOCK_NANOSECONDS = 2 * 10**9
"""Coarsest step of a file system's clock: a file with newer times than this may change and keep them."""

MIN_BAR_BYTES = 2**26
"""Bytes to be read from which a progress bar is shown."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The files of a corpus at one time, with the checksum of each."""

    corpora: Corpora
    digests: Mapping[str, Sequence[str]]
    """Name of the key of [data] -> checksum of each of its sources, in order."""

    @classmethod
    def of(cls, corpora: Corpora, reporter: Reporter, num_workers: int | None = None) -> FileRecord:
        """Compute the checksums that are not known yet, on several threads.

        Raises:
            DataError: a file cannot be read.
        """
        unknown = [source for source in _sources(corpora) if not source.digest]
        num_bytes = sum(source.num_bytes for source in unknown)
        is_long = num_bytes >= MIN_BAR_BYTES
        with reporter.bar(num_bytes, "B", "checksums") if is_long else contextlib.nullcontext() as bar:
            digest = functools.partial(_digest, bar=bar)
            found = threaded_map(digest, unknown, num_workers, lambda source: source.num_bytes + 1)
        by_path = dict(zip((source.path for source in unknown), found, strict=True))
        return cls(
            corpora,
            {
                name: [source.digest or by_path[source.path] for source in corpus.sources]
                for name, corpus in corpora.named.items()
            },
        )

    @property
    def is_new(self) -> bool:
        """True if some checksums were not known before."""
        return not all(source.digest for source in _sources(self.corpora))

    def summary(self) -> dict[str, str]:
        """Return {key: a checksum of the content of all files and their names}."""
        return {
            f"content of [data].{name}": _checksum(corpus, self.digests[name])
            for name, corpus in self.corpora.named.items()
        }

    def check_unchanged(self) -> None:
        """Check that no file was written to since it was listed.

        Raises:
            DataError: one was, or is gone.
        """
        for source in _sources(self.corpora):
            try:
                status = Path(source.file_path).stat()
            except OSError as error:
                raise DataError(f"{source.path}: cannot be read: {error.strerror}") from None
            is_resized = not source.is_member and status.st_size != source.num_bytes
            if is_resized or status.st_mtime_ns != source.modified:
                raise DataError(f"{source.path}: has changed while it was being read; start again")

    def write(self, directory: Path) -> None:
        """Write the record into the token files' folder; where that may not be written to, do nothing."""
        values = {"format_version": FORMAT_VERSION} | {
            name: self._rows(corpus, self.digests[name]) for name, corpus in self.corpora.named.items()
        }
        with contextlib.suppress(OSError):
            remove_dead_temporaries(directory)
            with committed_file(directory / RECORD_FILE) as file:
                file.write(json.dumps(values, separators=(",", ":")).encode())

    def _rows(self, corpus: Corpus, digests: Sequence[str]) -> list[list[int | str]]:
        newest = self.corpora.listed_at
        rows: list[list[int | str]] = []
        for source, digest in [
            *zip(corpus.sources, digests, strict=True),
            *((one, "") for one in corpus.unread),
        ]:
            # Another change may have the same times: the next start shall look at the content.
            is_fresh = any(abs(newest - at) < CLOCK_NANOSECONDS for at in (source.modified, source.changed))
            times = (0, 0) if is_fresh else (source.modified, source.changed)
            rows.append([source.name, source.num_bytes, *times, source.start, source.kind, digest])
        return rows


def read_known_files(directory: Path) -> dict[str, KnownFiles]:
    """Read the record in a folder; return an empty one if there is none, or it is damaged."""
    try:
        values = json.loads((directory / RECORD_FILE).read_bytes())
        version = values.pop("format_version")
        if version not in (1, 2, FORMAT_VERSION):
            return {}
        return {name: _known(rows, is_kind_known=version == FORMAT_VERSION) for name, rows in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return {}


def is_outdated(known: Mapping[str, KnownFiles]) -> bool:
    """Return True for a record of an earlier version: the kinds of its files are told anew."""
    return any(not file.is_kind_known for files in known.values() for file in files.values())


def changes(known: KnownFiles, corpus: Corpus, digests: Sequence[str] = ()) -> str:
    """Return which files were added, removed and changed since they were recorded, in one line.

    Args:
        known: the recorded files.
        corpus: the files of now.
        digests: checksums of its sources, if they are known.
    """
    old = {name: source for name, source in known.items() if source.kind in FORMATS}
    new = {source.name: source for source in corpus.sources}
    both = [name for name in new if name in old]
    digest_of = dict(zip(new, digests, strict=False))
    kinds = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "of another size": [name for name in both if new[name].num_bytes != old[name].num_bytes],
        "with other content": [
            name for name in both if digest_of.get(name, "") not in ("", old[name].digest)
        ],
    }
    return ", ".join(f"{len(names):,} {what} ({examples(names)})" for what, names in kinds.items() if names)


def _known(rows: list[Any], *, is_kind_known: bool) -> KnownFiles:
    known = {row[0]: KnownFile._make([*row, is_kind_known]) for row in rows}
    kinds = {file.kind for file in known.values()} - {*FORMATS, *REASONS}
    types = {(type(file.start), type(file.digest)) for file in known.values()} - {(int, str)}
    if kinds or types:
        raise ValueError("expected rows as `FileRecord.write` writes them")
    return known


def _sources(corpora: Corpora) -> list[Source]:
    return [source for corpus in corpora.named.values() for source in corpus.sources]


def _checksum(corpus: Corpus, digests: Sequence[str]) -> str:
    rows = (f"{digest} {source.name}\0" for source, digest in zip(corpus.sources, digests, strict=True))
    return hashlib.sha256("".join(rows).encode(errors="surrogateescape")).hexdigest()[:32]


def _digest(source: Source, bar: Bar | None) -> str:
    """Return the checksum of a file's content."""
    found = hashlib.blake2b(digest_size=16)
    with open_raw(source.path, codec_of_kind(source.kind)) as stream:
        for block in blocks(stream):
            found.update(block)
            if bar:
                bar.update(len(block))
    return found.hexdigest()
