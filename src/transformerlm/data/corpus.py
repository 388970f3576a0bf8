"""The files of a corpus: a file, a folder, a glob, or the source of Python's standard library.

`listing.py` finds files and `kinds.py` tells those that are text; `documents.py` reads the text in them.
"""

from __future__ import annotations

import codecs
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
    HEAD_BYTES,
    JSONL,
    MAX_LINE_BYTES,
    REASONS,
    begins_with_object,
    examples,
    is_jsonl_name,
    kind_by_content,
    kind_by_name,
    left_out_lines,
)
from transformerlm.data.listing import Found, Listing, identity_of
from transformerlm.errors import ConfigError, DataError, Key, Problem
from transformerlm.schema import to_dict

# pydoc_data is one large generated text, a sixteenth of all, and not source code.
_STDLIB_SKIPPED = (
    *("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"),
    "pydoc_data",
)
_CORPUS = Key("data", "corpus")
_NOT_RESULTS = ("token_dir", "on_change", "num_workers", "jsonl_special_tokens", "mixture")
"""Keys of [data] that do not affect the text."""
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


class KnownFile(NamedTuple):
    """A file as it was at an earlier time. While size and times are the same, it is not opened."""

    name: str
    num_bytes: int
    modified: int
    changed: int
    start: int
    kind: str
    digest: str


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
            found.setdefault(source.kind, []).append(source.name)
        return {kind: found[kind] for kind in REASONS if kind in found}

    @property
    def has_jsonl(self) -> bool:
        """True if some files are JSON lines."""
        return any(source.kind == JSONL for source in self.sources)

    def summary(self) -> str:
        """Return one line that changes when a file is added, removed, renamed or resized."""
        # A file that is read otherwise than its name said in earlier versions makes another line, too.
        listing = "".join(
            f"{source.num_bytes} {source.name}\0{'jsonl' * _is_told_by_content(source)}"
            for source in self.sources
        )
        checksum = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()[:16]
        number = len(self.sources)
        return f"{number} file{'s' * (number != 1)}, {self.num_bytes} bytes, names and sizes {checksum}"

    def notes(self) -> Iterator[str]:
        """Yield a line for each kind of files that are not read, or are read otherwise than by their name."""
        lines = [source.name for source in self.sources if _is_told_by_content(source)]
        lines = [name for name in lines if not is_jsonl_name(name)]
        if lines:
            advice = '[data].file_format = "text" reads the files as they are'
            yield f"read as JSON lines, by their content: {len(lines):,} ({examples(lines)}); {advice}"
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
        """True if some files are JSON lines."""
        return any(corpus.has_jsonl for corpus in self.named.values())

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
    values = {f"[data].{key}": value for key, value in to_dict(config).items() if key not in _NOT_RESULTS}
    return {key: value for key, value in values.items() if DEFAULTS_OF_RECORDS.get(key) != value}


def token_settings(config: CorpusConfig, *, has_jsonl: bool) -> dict[str, Any]:
    """Return `settings`, and what else the token files depend on; `has_jsonl`: some files are JSON lines."""
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
        config: says which files of a folder or a glob to read, and how they are told.
        key: key of the config, for errors.
        known: the files as they were at an earlier time.

    Raises:
        MissingCorpusError: there is no such file or folder, and the glob matches nothing.
        DataError: nothing there can be read as text.
    """
    path = Path(corpus).expanduser()
    if path.is_file() and corpus != STDLIB:
        return _of_file(path, config, key, known or {})
    listing = _stdlib(key) if corpus == STDLIB else _of_path(path, corpus, key)
    inspected = [_inspected(found, config, known or {}) for found in listing.chosen(config.include)]
    sources = tuple(source for source in inspected if source.kind in FORMATS)
    unread = tuple(source for source in inspected if source.kind not in FORMATS)
    found = Corpus(sources, unread, listing.passed_over)
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


def read_bytes(path: str, start: int, stop: int) -> bytes:
    """Read bytes `start` to `stop` of a file.

    Raises:
        DataError: the file cannot be read, or has become shorter.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - of many small files, Path takes a third of the time
            file.seek(start)
            content = file.read(stop - start)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) < stop - start:
        raise DataError(f"{path}: has become shorter while it was being read; start again")
    return content


def _is_told_by_content(source: Source) -> bool:
    return source.kind == JSONL and not source.path.endswith(".jsonl")


def _of_file(path: Path, config: CorpusConfig, key: Key, known: KnownFiles) -> Corpus:
    """Return the corpus of one file; NUL bytes in it are read, since its name says that it is text."""
    found = Found.of(path.name, str(path), path.stat(), is_link=path.is_symlink())
    source = _inspected(found, config, known)
    if source.kind == "binary":
        source = source._replace(kind="text")
    if source.kind not in FORMATS:
        raise _nothing_to_read(Problem(key, f"expected text, got {path}"), Corpus((), (source,)))
    return Corpus((source,))


def _stdlib(key: Key) -> Listing:
    folder = sysconfig.get_paths()["stdlib"]
    if not Path(folder).is_dir():
        raise MissingCorpusError(f"expected a folder at {folder}, got none", key=key)
    return Listing.of_folder(folder, _STDLIB_SKIPPED).only(".py")


def _of_path(path: Path, corpus: str, key: Key) -> Listing:
    """List a folder or a glob."""
    if path.is_dir():
        return Listing.of_folder(str(path))
    listing = Listing.of_glob(str(path))
    if not listing.files and not listing.passed_over:
        expected = f"a file, a folder, a glob or {STDLIB}"
        raise MissingCorpusError(f"expected {expected}, got {corpus}, and there is no such file", key=key)
    return listing


def _nothing_to_read(nothing: Problem, corpus: Corpus) -> DataError:
    """Return the error for a corpus without text, which says what there is instead."""
    return DataError([nothing, *(nothing._replace(what=line) for line in left_out_lines(corpus.left_out))])


def _inspected(found: Found, config: CorpusConfig, known: KnownFiles) -> Source:
    """Return a file with its kind, which is read from the file unless it is known."""
    name, path, status, _, identity = found
    stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    before = known.get(name)
    if before and before[1:4] == stamp:
        start, kind, digest = before[4:]
    else:
        (kind, start), digest = _kind_and_start(found, config), ""
    return Source(name, path, stamp[0], kind, start, stamp[1], stamp[2], identity, digest)


def _kind_and_start(found: Found, config: CorpusConfig) -> tuple[str, int]:
    named = kind_by_name(found.name)
    if named:
        return named, 0
    size = found.status.st_size
    head = read_bytes(found.path, 0, min(size, HEAD_BYTES))
    if begins_with_object(head.removeprefix(codecs.BOM_UTF8)):
        head = read_bytes(found.path, 0, min(size, MAX_LINE_BYTES))
    text = head.removeprefix(codecs.BOM_UTF8)
    kind = kind_by_content(found.name, text, config, is_whole=len(head) == size)
    return kind, len(head) - len(text)
