"""The files of a corpus: a file, a folder, a glob, or the source of Python's standard library.

This module lists files and reads their bytes; `documents.py` reads the text in them.
"""

from __future__ import annotations

import codecs
import fnmatch
import glob
import hashlib
import os
import sysconfig
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformerlm.config import CorpusConfig
from transformerlm.data.sidecar import UNFINISHED
from transformerlm.errors import ConfigError, DataError, Key, Problem
from transformerlm.schema import to_dict
from transformerlm.storage.lock import LOCK_FILE

STDLIB = "python-stdlib"

# pydoc_data is one large generated text, a sixteenth of all, and not source code.
_STDLIB_SKIPPED = (
    *("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"),
    "pydoc_data",
)
# Files that this package writes (token files, and the folders of tokenizers and runs) are not text of the
# corpus, even if they are in its folder.
_OUTPUT_FILES = ("*.memmap", "*.memmap.json")
_OWN_HIDDEN = (LOCK_FILE, UNFINISHED)
_OUTPUT_FOLDERS = ({"vocab.json", "merges.txt"}, {"config.toml", "metrics.jsonl"})
_HEAD_BYTES = 8192
_CORPUS = Key("data", "corpus")
_NOT_RESULTS = ("token_dir", "num_workers")
"""Keys of [data] that do not affect the text."""


class MissingCorpusError(DataError):
    """There is no corpus at the configured path."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a corpus."""

    name: str
    """Relative to the corpus, with forward slashes."""
    path: str
    num_bytes: int
    start: int = 0
    """Position of the text: after the byte order mark, if there is one."""
    modified: int = 0
    """Time of the last change, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files of a corpus, in the order of their names."""

    sources: tuple[Source, ...]
    num_hidden: int = 0
    """Hidden files and folders that were skipped."""
    num_binary: int = 0
    """Files that were skipped because their first 8 KiB contain a NUL byte."""

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(source.num_bytes for source in self.sources)

    def summary(self) -> str:
        """Return one line that changes when a file is added, removed, renamed or resized."""
        listing = "".join(f"{source.num_bytes} {source.name}\0" for source in self.sources)
        checksum = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()[:16]
        number = len(self.sources)
        return f"{number} file{'s' * (number != 1)}, {self.num_bytes} bytes, names and sizes {checksum}"


@dataclass(frozen=True, slots=True)
class Corpora:
    """The corpus of [data] and, if there is one, its separate validation corpus."""

    main: Corpus
    validation: Corpus | None

    @property
    def num_bytes(self) -> int:
        """Size of all files of both."""
        return self.main.num_bytes + (self.validation.num_bytes if self.validation else 0)

    def summary(self) -> dict[str, str]:
        """Return {key: one line about the files}."""
        summary = {"files of [data].corpus": self.main.summary()}
        if self.validation:
            summary["files of [data].validation_corpus"] = self.validation.summary()
        return summary

    def times(self) -> str:
        """Return a checksum that changes when a file is written to, even if its size stays."""
        times = [
            source.modified for corpus in (self.main, self.validation) if corpus for source in corpus.sources
        ]
        return hashlib.sha256(repr(times).encode()).hexdigest()[:16]


def find_corpora(config: CorpusConfig) -> Corpora:
    """List the files of [data]. A file of the validation corpus is left out of the corpus itself.

    Raises:
        MissingCorpusError: `corpus` or `validation_corpus` does not exist.
        DataError: nothing there can be read as text.
    """
    main = find_corpus(config.corpus, config.include, _CORPUS)
    if config.validation_corpus is None:
        return Corpora(main, None)
    validation = find_corpus(config.validation_corpus, config.include, Key("data", "validation_corpus"))
    held_out = {os.path.realpath(source.path) for source in validation.sources}
    kept = tuple(source for source in main.sources if os.path.realpath(source.path) not in held_out)
    if not kept:
        what = f"all files of {config.corpus} belong to [data].validation_corpus too"
        raise DataError(what, key=_CORPUS)
    return Corpora(Corpus(kept, main.num_hidden, main.num_binary), validation)


def settings(config: CorpusConfig) -> dict[str, Any]:
    """Return {key: value} of everything in [data] that the text and its division depend on."""
    return {f"[data].{key}": value for key, value in to_dict(config).items() if key not in _NOT_RESULTS}


def find_corpus(corpus: str, include: Iterable[str] = ("*",), key: Key = _CORPUS) -> Corpus:
    """List the files of one corpus, in the order of their names.

    In a folder, files that are hidden, binary or written by this package are skipped, and so are folders
    that have been listed already (links may form a circle). With a glob, binary files are.

    Args:
        corpus: a file, a folder, a glob, or "python-stdlib".
        include: patterns of the names of files to take from a folder.
        key: key of the config, for errors.

    Raises:
        MissingCorpusError: there is no such file or folder, and the glob matches nothing.
        DataError: nothing there can be read as text.
    """
    path = Path(corpus).expanduser()
    if corpus == STDLIB:
        folder = Path(sysconfig.get_paths()["stdlib"])
        return _of_folder(folder, tuple(include), key, suffix=".py", skipped=_STDLIB_SKIPPED)
    if path.is_dir():
        return _of_folder(path, tuple(include), key)
    if path.is_file():
        return Corpus((_inspect(path, path.name)[0],))
    # Path.glob would need the pattern divided into a folder and the rest, and does not support absolute ones.
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207
    if not matches:
        expected = f"a file, a folder, a glob or {STDLIB}"
        raise MissingCorpusError(f"expected {expected}, got {corpus}, and there is no such file", key=key)
    names = {match.as_posix(): match for match in matches if match.is_file()}
    what = f"expected a file, a folder, or a glob that matches files, got {corpus}"
    return _of_files(names, 0, Problem(key, what))


def refuse_overlap(corpora: Corpora, outputs: Iterable[Path], key: Key) -> None:
    """Check that no file of the corpus is about to be replaced.

    Args:
        outputs: paths that are going to be written.
        key: config key of their folder, for the error.

    Raises:
        ConfigError: one of them is a file of the corpus, perhaps by another name.
    """
    taken = {(status.st_dev, status.st_ino) for status in (path.stat() for path in outputs if path.exists())}
    for corpus in (corpora.main, corpora.validation):
        for source in corpus.sources if corpus and taken else ():
            status = Path(source.path).stat()
            if (status.st_dev, status.st_ino) in taken:
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
        with Path(path).open("rb") as file:
            file.seek(start)
            content = file.read(stop - start)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) < stop - start:
        raise DataError(f"{path}: has become shorter while it was being read; start again")
    return content


def _of_folder(
    folder: Path, include: Sequence[str], key: Key, suffix: str = "", skipped: Collection[str] = ()
) -> Corpus:
    if not folder.is_dir():
        raise MissingCorpusError(f"expected a folder at {folder}, got none", key=key)
    names: dict[str, Path] = {}
    suffixes, num_hidden = Counter[str](), 0
    for root, folders, files in _walk(folder):
        num_hidden += sum(name[0] == "." and name not in _OWN_HIDDEN for name in (*folders, *files))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skipped)
        for name in files:
            path = root / name
            if name.startswith(".") or _matches(name, _OUTPUT_FILES) or not path.is_file():
                continue
            if not name.endswith(suffix):
                continue
            suffixes[path.suffix or "(no suffix)"] += 1
            if _matches(name, include):
                names[path.relative_to(folder).as_posix()] = path
    commonest = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))[:8]
    found = ", ".join(f"{number} {suffix}" for suffix, number in commonest) or "no files"
    what = f"expected files that match [data].include = {list(include)}"
    return _of_files(names, num_hidden, Problem(key, f"{what} in {folder}, got {found}"))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk a folder as `os.walk` does, following links, but visit each folder once and no output folder."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}")

    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        path, status = Path(root), Path(root).stat()
        is_output = path != folder and any(names <= set(files) for names in _OUTPUT_FOLDERS)
        if is_output or (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield path, folders, files


def _of_files(names: dict[str, Path], num_hidden: int, nothing: Problem) -> Corpus:
    if not names:
        raise DataError([nothing])
    inspected = [_inspect(path, name) for name, path in sorted(names.items())]
    sources = tuple(source for source, is_binary in inspected if not is_binary)
    if not sources:
        raise DataError([nothing._replace(what=f"{nothing.what}; all of them are binary")])
    return Corpus(sources, num_hidden, len(inspected) - len(sources))


def _inspect(path: Path, name: str) -> tuple[Source, bool]:
    """Return a file as a source, and whether it is binary."""
    status = path.stat()
    head = read_bytes(str(path), 0, min(status.st_size, _HEAD_BYTES))
    start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    return Source(name, str(path), status.st_size, start, status.st_mtime_ns), b"\0" in head
