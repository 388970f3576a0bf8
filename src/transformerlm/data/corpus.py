"""The files of a corpus: a file, a folder, a glob, or the source of Python's standard library.

`listing.py` finds files and `kinds.py` tells those that are text; `documents.py` reads the text in them.
"""

from __future__ import annotations

import hashlib
import sysconfig
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from transformerlm.config import STDLIB, CorpusConfig
from transformerlm.data.kinds import (
    FORMATS,
    JSONL,
    REASONS,
    codec_of_kind,
    examples,
    format_of,
    has_records,
    is_jsonl_name,
    is_plain,
    left_out_lines,
)
from transformerlm.data.listing import Found, Listing, identity_of
from transformerlm.data.reading.archives import ARCHIVES, archive_format, archive_of
from transformerlm.data.reading.plain import read_bytes as read_bytes
from transformerlm.data.reading.streams import inner_name
from transformerlm.data.recognition import Recognised, recognise
from transformerlm.errors import ConfigError, DataError, Key, Problem
from transformerlm.schema import to_dict

# pydoc_data is one large generated text, a sixteenth of all, and not source code.
_STDLIB_SKIPPED = (
    *("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"),
    "pydoc_data",
)
_CORPUS = Key("data", "corpus")
_NOT_RESULTS = (
    *("token_dir", "on_change", "num_workers", "jsonl_special_tokens", "jsonl_field"),
    *("require_all", "max_unpacked_bytes", "mixture"),
)
"""Keys of [data] that do not affect the text, or are recorded in another way."""
_RECORDED_AS = {"text_field": "jsonl_field"}
"""Key of [data] -> its name in records, which earlier versions have introduced."""
_NOT_LOST = {"hidden", "output", "link", "saved"}
"""Kinds of files whose absence from the text is no loss, for [data].require_all."""
_INSPECTED_ANEW = {"column", "no_reader"}
"""Kinds that depend on the config or on what is installed."""
_TYPICAL_RATIO = 4
"""Bytes of text per byte of a compressed file, for estimates."""
DEFAULTS_OF_RECORDS: Mapping[str, Any] = {
    "[data].file_format": "auto",
    "[data].jsonl_special_tokens": True,
    "[data].duplicates": "keep",
    "[data].near_duplicates": "keep",
}
"""Values of the keys that records of origin leave out, because older versions did not have them."""


class MissingCorpusError(DataError):
    """There is no corpus at the configured path."""


class Source(NamedTuple):
    """A file of a corpus."""

    name: str
    """Relative to the corpus, with forward slashes."""
    path: str
    num_bytes: int
    kind: str
    """One of `kinds.FORMATS`; in `Corpus.unread` a key of `kinds.REASONS`."""
    start: int = 0
    """Position of the text: after the byte order mark, if there is one."""
    modified: int = 0
    """Time of the last change of the content, in nanoseconds."""
    changed: int = 0
    """Time of the last change of content, name or rights, in nanoseconds."""
    identity: Hashable = None
    """Equal for all names of one file."""
    digest: str = ""
    """Checksum of the content, if it is known (`file_record.py`)."""
    detail: str = ""
    """What is wrong with a file that is not read, if it is not the same for all of its kind."""

    @property
    def is_member(self) -> bool:
        """True for a member of an archive."""
        return codec_of_kind(self.kind) in ARCHIVES

    @property
    def file_path(self) -> str:
        """Path of the file that has to be there: that of the archive for a member."""
        return archive_of(self.path) if self.is_member else self.path

    @property
    def estimated_text_bytes(self) -> int:
        """Size of the text: that of the file, or a guess where it has to be unpacked."""
        return self.num_bytes * (1 if is_plain(self.kind) else _TYPICAL_RATIO)


class KnownFile(NamedTuple):
    """A file as it was at an earlier time. While size and times are the same, it is not opened."""

    name: str
    num_bytes: int
    modified: int
    changed: int
    start: int
    kind: str
    digest: str
    is_kind_known: bool = True
    """False: an earlier version, which could not read all that this one can, has told the kind."""


KnownFiles = Mapping[str, KnownFile]
"""Name -> file."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files of a corpus, in the order of their names."""

    sources: tuple[Source, ...]
    unread: tuple[Source, ...] = ()
    """Files that are not read, because of their content."""
    passed_over: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Kind -> names of files and folders that were not looked into."""

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(source.num_bytes for source in self.sources)

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Kind (see `kinds.REASONS`) -> names of everything that was found and is not read."""
        found = {kind: sorted(names) for kind, names in self.passed_over.items()}
        for source in self.unread:
            name = f"{source.name}: {source.detail}" if source.detail else source.name
            found.setdefault(source.kind, []).append(name)
        return {kind: found[kind] for kind in REASONS if kind in found}

    @property
    def has_jsonl(self) -> bool:
        """True if some files hold documents in lines of JSON or as records."""
        return any(format_of(source.kind) == JSONL or has_records(source.kind) for source in self.sources)

    def summary(self) -> str:
        """Return one line that changes when a file is added, removed, renamed or resized."""
        # A file that is read otherwise than its name said in earlier versions makes another line, too.
        listing = "".join(
            f"{source.num_bytes} {source.name}\0{_kind_in_summary(source)}" for source in self.sources
        )
        checksum = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()[:16]
        number = len(self.sources)
        return f"{number} file{'s' * (number != 1)}, {self.num_bytes} bytes, names and sizes {checksum}"

    def notes(self) -> Iterator[str]:
        """Yield a line for each kind of files that are not read, or are read otherwise than by their name."""
        lines = [source.name for source in self.sources if _is_told_by_content(source)]
        lines = [name for name in lines if not is_jsonl_name(inner_name(name))]
        if lines:
            advice = '[data].file_format = "text" reads the files as they are'
            yield f"read as JSON lines, by their content: {len(lines):,} ({examples(lines)}); {advice}"
        names = {source.name for source in self.sources}
        twice = [name for name in sorted(names) if inner_name(name) in names - {name}]
        if twice:
            what = f"read beside files of the same name without the suffix: {len(twice):,}"
            yield f"{what} ({examples(twice)}); if they hold the same text, remove one of both"
        yield from left_out_lines(self.left_out)


@dataclass(frozen=True, slots=True)
class Corpora:
    """The corpus of [data] and, if there is one, its separate validation corpus."""

    main: Corpus
    validation: Corpus | None
    listed_at: int = 0
    """Time before the files were listed, in nanoseconds."""

    @property
    def named(self) -> dict[str, Corpus]:
        """Name of the key of [data] -> corpus."""
        both = {"corpus": self.main, "validation_corpus": self.validation}
        return {name: corpus for name, corpus in both.items() if corpus}

    @property
    def num_bytes(self) -> int:
        """Size of all files of both."""
        return sum(corpus.num_bytes for corpus in self.named.values())

    @property
    def has_jsonl(self) -> bool:
        """True if some files hold documents in lines of JSON or as records."""
        return any(corpus.has_jsonl for corpus in self.named.values())

    @property
    def estimated_text_bytes(self) -> int:
        """Size of all text: exact where files are plain, else a guess."""
        return sum(source.estimated_text_bytes for corpus in self.named.values() for source in corpus.sources)

    def summary(self) -> dict[str, str]:
        """Return {key: one line about the files}."""
        return {f"files of [data].{name}": corpus.summary() for name, corpus in self.named.items()}

    def times(self) -> str:
        """Return a checksum that changes when a file is written to, even if its size stays."""
        times = [source.modified for corpus in self.named.values() for source in corpus.sources]
        return hashlib.sha256(repr(times).encode()).hexdigest()[:16]

    def notes(self, config: CorpusConfig) -> Iterator[str]:
        """Yield lines about files that are not read, or are read otherwise than by their name."""
        paths = {"corpus": config.corpus, "validation_corpus": config.validation_corpus}
        for name, corpus in self.named.items():
            yield from (f"{paths[name]}: {note}" for note in corpus.notes())


def find_corpora(config: CorpusConfig, known: Mapping[str, KnownFiles] | None = None) -> Corpora:
    """List the files of [data]. A file of the validation corpus is left out of the corpus itself.

    Args:
        config: [data].
        known: for "corpus" and "validation_corpus", the files as they were at an earlier time.

    Raises:
        MissingCorpusError: `corpus` or `validation_corpus` does not exist.
        DataError: nothing there can be read as text.
        ConfigError: [data].mixture names several corpora; `mixture.corpora_of` has the config of each.
    """
    if config.mixture:
        raise ConfigError("expected one corpus here, got several", key=Key("data", "mixture"))
    listed_at, known = time.time_ns(), known or {}
    main = find_corpus(config.corpus, config, _CORPUS, known.get("corpus"))
    if config.validation_corpus is None:
        return Corpora(main, None, listed_at)
    key = Key("data", "validation_corpus")
    validation = find_corpus(config.validation_corpus, config, key, known.get("validation_corpus"))
    held_out = {source.identity for source in validation.sources}
    kept = tuple(source for source in main.sources if source.identity not in held_out)
    if not kept:
        what = f"all files of {config.corpus} belong to [data].validation_corpus too"
        raise DataError(what, key=_CORPUS)
    return Corpora(Corpus(kept, main.unread, main.passed_over), validation, listed_at)


def settings(config: CorpusConfig) -> dict[str, Any]:
    """Return {key: value} of everything in [data] that the text and its division depend on."""
    taken = {key: value for key, value in to_dict(config).items() if key not in _NOT_RESULTS}
    taken["text_field"] = config.field_name
    values = {f"[data].{_RECORDED_AS.get(key, key)}": value for key, value in taken.items()}
    return {key: value for key, value in values.items() if DEFAULTS_OF_RECORDS.get(key) != value}


def token_settings(config: CorpusConfig, *, has_jsonl: bool) -> dict[str, Any]:
    """Return `settings`, and what else the token files depend on; `has_jsonl`: see `Corpora`."""
    hides_special = has_jsonl and not config.jsonl_special_tokens
    return {**settings(config), **({"[data].jsonl_special_tokens": False} if hides_special else {})}


def find_corpus(
    corpus: str, config: CorpusConfig, key: Key = _CORPUS, known: KnownFiles | None = None
) -> Corpus:
    """List the files of one corpus, in the order of their names.

    In a folder, what is hidden or written by this package is passed over. Of several names of one file one is
    listed, and folders are listed once (links may form a circle). Files that are not text are not read.

    Args:
        corpus: a file, a folder, a glob, or "python-stdlib".
        config: says which files of a folder, a glob or an archive to read, and how they are told.
        key: key of the config, for errors.
        known: the files as they were at an earlier time.

    Raises:
        MissingCorpusError: there is no such file or folder, and the glob matches nothing.
        DataError: nothing there can be read as text, or an archive is damaged.
    """
    path, known = Path(corpus).expanduser(), known or {}
    if path.is_file() and corpus != STDLIB and not archive_format(str(path)):
        return _of_file(path, config, key, known)
    listing = _stdlib(key) if corpus == STDLIB else _of_path(path, corpus, config, key)
    files = listing.with_members(listing.chosen(config.include), config.max_unpacked_bytes)
    inspected = [_inspected(found, config, known) for found in files]
    sources = tuple(source for source in inspected if source.kind in FORMATS)
    unread = tuple(source for source in inspected if source.kind not in FORMATS)
    found = Corpus(sources, unread, listing.passed_over)
    if config.require_all and (problems := list(_losses(found, key))):
        raise DataError(problems)
    if not sources:
        expected = f"expected files that match [data].include = {list(config.include)} in {corpus}"
        raise _nothing_to_read(Problem(key, f"{expected}, got {listing.suffixes()}"), found)
    return found


def refuse_overlap(corpora: Corpora, outputs: Iterable[Path], key: Key) -> None:
    """Check that no file of the corpus is about to be replaced.

    Args:
        outputs: paths that are going to be written.
        key: config key of their folder, for the error.

    Raises:
        ConfigError: one of them is a file of the corpus, perhaps by another name.
    """
    taken = {identity_of(path.stat(), str(path)) for path in outputs if path.exists()}
    for corpus in corpora.named.values():
        for source in corpus.sources if taken else ():
            if source.identity in taken:
                raise ConfigError(
                    f"expected a folder whose files may be written, but {source.path} belongs to the "
                    "corpus and would be replaced; choose another folder",
                    key=key,
                )


def _losses(corpus: Corpus, key: Key) -> Iterator[Problem]:
    """Yield a problem for each kind of files whose text would be missed."""
    lost = {kind: names for kind, names in corpus.left_out.items() if kind not in _NOT_LOST}
    lines = list(left_out_lines(lost))
    if lines:
        yield Problem(key, "expected files that can all be read, as [data].require_all asks for, got")
        yield from (Problem(key, line) for line in lines)


def _is_told_by_content(source: Source) -> bool:
    return format_of(source.kind) == JSONL and not inner_name(source.path).endswith(".jsonl")


def _kind_in_summary(source: Source) -> str:
    """Return a file's kind where its name alone did not tell it in earlier versions."""
    if is_plain(source.kind):
        return "jsonl" * _is_told_by_content(source)
    return source.kind


def _of_file(path: Path, config: CorpusConfig, key: Key, known: KnownFiles) -> Corpus:
    """Return the corpus of one file; NUL bytes in it are read, since its name says that it is text."""
    found = Found.of(path.name, str(path), path.stat(), is_link=path.is_symlink())
    source = _inspected(found, config, known, reads_nul=True)
    if source.kind not in FORMATS:
        raise _nothing_to_read(Problem(key, f"expected text, got {path}"), Corpus((), (source,)))
    return Corpus((source,))


def _stdlib(key: Key) -> Listing:
    folder = sysconfig.get_paths()["stdlib"]
    if not Path(folder).is_dir():
        raise MissingCorpusError(f"expected a folder at {folder}, got none", key=key)
    return Listing.of_folder(folder, _STDLIB_SKIPPED).only(".py")


def _of_path(path: Path, corpus: str, config: CorpusConfig, key: Key) -> Listing:
    """List a folder, an archive or a glob."""
    if path.is_dir():
        return Listing.of_folder(str(path))
    if path.is_file():
        return Listing.of_archive(path, config.max_unpacked_bytes)
    listing = Listing.of_glob(str(path))
    if not listing.files and not listing.passed_over:
        expected = f"a file, a folder, a glob or {STDLIB}"
        raise MissingCorpusError(f"expected {expected}, got {corpus}, and there is no such file", key=key)
    return listing


def _nothing_to_read(nothing: Problem, corpus: Corpus) -> DataError:
    """Return the error for a corpus without text, which says what there is instead."""
    return DataError([nothing, *(nothing._replace(what=line) for line in left_out_lines(corpus.left_out))])


def _inspected(found: Found, config: CorpusConfig, known: KnownFiles, *, reads_nul: bool = False) -> Source:
    """Return a file with its kind, which is read from the file unless it is known."""
    stamp = found.num_bytes, found.modified, found.changed
    before = known.get(found.name)
    if before and before[1:4] != stamp:
        before = None
    if before and before.is_kind_known and before.kind not in _INSPECTED_ANEW:
        is_ = Recognised(before.kind, before.start)
    else:
        is_ = recognise(found, config, reads_nul=reads_nul)
    return Source(
        *(found.name, found.path, found.num_bytes, is_.kind, is_.start, found.modified, found.changed),
        *(found.identity, before.digest if before else "", is_.detail),
    )
