"""Build token files from a corpus, with worker threads or processes and in bounded memory.

The result is a function of the text, the settings and the tokenizer; the number of workers and the size of
chunks do not change a byte. How the text is divided into items of work is a function of the text as well, so
an interrupted build skips the items that its journal has recorded as done (`build_journal.py`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformerlm import __version__
from transformerlm.config import CorpusConfig
from transformerlm.data.build_journal import COMMIT_BYTES, BuildJournal
from transformerlm.data.build_lock import build_lock
from transformerlm.data.chunks import CHUNK_BYTES, SafeCut, work_items
from transformerlm.data.corpus import Corpora, find_corpora, refuse_overlap, token_settings
from transformerlm.data.division import Division
from transformerlm.data.documents import TRAIN, VAL, Chunk, Place, Split
from transformerlm.data.encode import EncodedItem, check_separator, encode_item
from transformerlm.data.file_record import FileRecord
from transformerlm.data.mixture import corpora_of, pass_size
from transformerlm.data.selection import Selection, method_settings
from transformerlm.data.sidecar import FORMAT_VERSION, Sidecar, sidecar_path
from transformerlm.data.split import empty_split_error, has_validation
from transformerlm.data.token_file import TokenFile
from transformerlm.data.token_group import TokenGroup, Tokens, files_of
from transformerlm.errors import DataError, Key
from transformerlm.limits import available_cores
from transformerlm.parallel import ordered_map
from transformerlm.progress import Reporter, SilentReporter
from transformerlm.storage.files import require_free_bytes
from transformerlm.tokenizer import Tokenizer

WORKER_BYTES = 2 * 2**20
"""Minimum amount of text per worker: with less than twice this, no worker is started."""
BYTES_PER_TOKEN = 2
"""Bytes of text per token, for the estimate of a build's disk space. With some thousands of ids learned from
the corpus it is 3 to 5; with a few hundred, or in a script that the tokenizer hardly saw, 1 to 2. If the disk
becomes full all the same, the recorded part of the build is not lost."""

_MAX_LISTED = 1000  # files that a sidecar names; the summary of their names and sizes covers them all


class TooFewTokensError(DataError):
    """The text has fewer tokens than are needed. No token files were made."""

    def __init__(self, directory: Path, num_tokens: int, min_tokens: int) -> None:
        self.directory, self.num_tokens = directory, num_tokens
        what = f"expected at least {min_tokens:,} tokens to train on, got {num_tokens:,}"
        super().__init__(f"{directory}: {what}")


@dataclass(frozen=True)
class TokenData:
    """The token files to train and to validate on; of a mixture, those of all its corpora."""

    train: Tokens
    val: Tokens | None
    shares: Mapping[str, float] = field(default_factory=dict)
    """Name of each corpus of a mixture -> its share of the training sequences. Empty for one corpus, and
    while it is not known."""

    @classmethod
    def open(cls, config: CorpusConfig, directory: Path) -> TokenData:
        """Open train.memmap and, where the config asks for validation, val.memmap.

        Raises:
            DataError: a file is missing or damaged, or the two were not made together.
        """
        if config.mixture:
            own = corpora_of(config).items()
            return cls.of_mixture({name: cls.open(part, directory / name) for name, part in own})
        files = [TokenFile.open(path) for path in token_paths(config, directory)]
        for file in files[1:]:
            if (file.made_from, file.fingerprint) != (files[0].made_from, files[0].fingerprint):
                what = "made from other text, with other settings or another tokenizer than"
                raise DataError(f"{file.path}: {what} {files[0].path.name} beside it; make both again")
        return cls(files[0], files[1] if len(files) > 1 else None)

    @classmethod
    def of_mixture(cls, corpora: Mapping[str, TokenData]) -> TokenData:
        """Return the token files of a mixture from those of its corpora, by their names.

        Raises:
            DataError: their tokenizers differ.
        """
        train = {name: data.train for name, data in corpora.items() if isinstance(data.train, TokenFile)}
        val = {name: data.val for name, data in corpora.items() if isinstance(data.val, TokenFile)}
        if len({file.fingerprint for file in train.values()}) > 1:
            paths = ", ".join(str(file.path) for file in train.values())
            raise DataError(f"expected token files of one tokenizer, got those of several: {paths}")
        return cls(TokenGroup(train), TokenGroup(val) if val else None)

    @property
    def pass_tokens(self) -> float:
        """Tokens of a pass over all tokens to train on; of a mixture see `mixture.pass_size`."""
        if not self.shares:
            return self.train.num_tokens
        return pass_size(self.shares, {name: own.num_tokens for name, own in files_of(self.train).items()})

    def size_of(self, tokens: Tokens) -> tuple[float, float]:
        """Return numbers of tokens and of bytes in the relation in which they are drawn from `tokens`."""
        if not self.shares:
            return tokens.num_tokens, tokens.num_bytes
        files = files_of(tokens)
        of_token = {name: files[name].num_bytes / files[name].num_tokens for name in self.shares}
        return 1.0, sum(share * of_token[name] for name, share in self.shares.items())


def token_paths(config: CorpusConfig, directory: Path) -> list[Path]:
    """Return the paths of the token files: train.memmap and, where there is validation, val.memmap."""
    return [directory / f"{split}.memmap" for split in _splits(config)]


def _splits(config: CorpusConfig) -> tuple[Split, ...]:
    return (TRAIN, VAL) if has_validation(config) else (TRAIN,)


def make_data(
    config: CorpusConfig,
    tokenizer: Tokenizer,
    directory: Path,
    reporter: Reporter | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    commit_bytes: int = COMMIT_BYTES,
) -> TokenData:
    """Encode a corpus into `directory`: train.memmap and, where the config asks for it, val.memmap.

    Each document is followed by the id of `config.document_separator`. The files appear when all is
    done, and replace older ones. An interrupted build of the same text, settings and tokenizer is continued.

    Args:
        chunk_bytes: approximate amount of text in an item of work; the result does not depend on it.
        commit_bytes: amount of text after which progress is recorded.

    Raises:
        ConfigError: a file of the corpus would be replaced.
        DataError: a corpus that cannot be read, a split in which nothing is left, or a tokenizer that
            does not know the separator.
        OutputError: the disk has too little space.
    """
    reporter = reporter or SilentReporter()
    build = Build(config, find_corpora(config), tokenizer, directory, chunk_bytes, commit_bytes)
    with build_lock(directory, reporter):
        build.run(reporter)
    return TokenData.open(config, directory)


@dataclass(frozen=True)
class Build:
    """One build of token files: the text, how it is encoded, and where the result goes."""

    config: CorpusConfig
    corpora: Corpora
    tokenizer: Tokenizer
    directory: Path
    chunk_bytes: int = CHUNK_BYTES
    commit_bytes: int = COMMIT_BYTES
    min_tokens: int = 0
    """Number of tokens to train on that are needed; with fewer, no files are made."""

    def run(self, reporter: Reporter) -> None:
        """Make the files, or finish those that an interrupted build has begun. The caller holds the lock.

        Raises:
            TransformerLMError: as `make_data`.
        """
        check_separator(self.config, self.tokenizer.special_token_ids)
        refuse_overlap(self.corpora, self.outputs, Key("data", "token_dir"))
        with BuildJournal.open(
            self.directory, self.splits, self.tokenizer.vocab_size, self.recipe, reporter, self.commit_bytes
        ) as journal:
            self._check_free_space(self._text_bytes_after(journal.num_read))
            selection = Selection.of(self.division, reporter)
            self._encode_rest(journal, selection, reporter)
            self._check_tokens(journal)
            record = FileRecord.of(self.corpora, reporter, self.config.num_workers)
            record.check_unchanged()
            made_from = {**self.made_from, **record.summary(), **selection.summary()}
            journal.finish(self._sidecars(journal, made_from))
            record.write(self.directory)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that the config asks for: train and, where there is validation, val."""
        return _splits(self.config)

    @property
    def outputs(self) -> list[Path]:
        """All files that the build writes or replaces."""
        paths = token_paths(self.config, self.directory)
        return [*paths, *map(sidecar_path, paths)]

    @property
    def made_from(self) -> dict[str, Any]:
        """The settings and the files that determine the text, in the form of a sidecar's `made_from`."""
        own = token_settings(self.config, has_jsonl=self.corpora.has_jsonl)
        return {**own, **method_settings(self.config), **self.corpora.summary()}

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that the files' content and the division into items of work depend on."""
        return {
            **self.made_from,
            "times of files": self.corpora.times(),
            "tokenizer": self.tokenizer.fingerprint,
            "piece_bytes": self.chunk_bytes,  # its name in records of earlier versions
            "format_version": FORMAT_VERSION,
            "transformerlm": __version__,
        }

    def _check_free_space(self, num_bytes: int) -> None:
        """Refuse to begin if the disk is probably too small; older files are kept until the new ones are
        complete."""
        needed = num_bytes * self.tokenizer.dtype.itemsize // BYTES_PER_TOKEN
        require_free_bytes(self.directory, needed, f"the token files of {num_bytes:,} bytes of text")

    def _encode_rest(self, journal: BuildJournal, selection: Selection, reporter: Reporter) -> None:
        """Encode the items that are not done yet and write them, in order."""
        num_bytes = self.corpora.num_bytes
        if journal.num_read:
            done, total = journal.num_read / 1e6, num_bytes / 1e6
            reporter.say(f"{self.directory}: going on after {done:.1f} of {total:.1f} MB")
        with reporter.bar(num_bytes, "B", "encoding") as bar:
            bar.update(journal.num_read)
            for encoded in self._encoded(journal, selection):
                journal.write(encoded)
                bar.update(encoded.num_read)
            # Bytes that were skipped: separators, byte order marks.
            bar.update(max(0, num_bytes - journal.num_read))

    @functools.cached_property
    def division(self) -> Division:
        """The corpus as it is divided into chunks for this build."""
        safe_cut = self.tokenizer.safe_cut
        return Division(self.config, self.corpora, safe_cut, self.chunk_bytes)

    def _text_bytes_after(self, num_read: int) -> int:
        """Return the size of the text after so many bytes of the files, about."""
        corpora = self.corpora
        return corpora.estimated_text_bytes * (corpora.num_bytes - num_read) // max(1, corpora.num_bytes)

    def _encoded(self, journal: BuildJournal, selection: Selection) -> Iterator[EncodedItem]:
        """Encode the items that are not done yet, with the config's workers."""
        chunks = selection.apply(self.division.chunks(journal.place or Place()))
        items = work_items(chunks, self.chunk_bytes)
        num_bytes = self._text_bytes_after(journal.num_read)
        num_workers = self.config.num_workers or available_cores()
        return ordered_map(
            functools.partial(encode_item, self.tokenizer, self.config),
            items if journal.place else itertools.islice(items, journal.num_items, None),
            min(num_workers, max(1, num_bytes // WORKER_BYTES)),
            # Without the kernels, threads would only wait for each other.
            threads=self.tokenizer.uses_kernels(num_bytes),
        )

    def _check_tokens(self, journal: BuildJournal) -> None:
        """Raise DataError if a split is empty, or too short to be used."""
        numbers = {split: writer.num_tokens for split, writer in journal.writers.items()}
        for split, number in numbers.items():
            if not number:
                is_blank = not any(numbers.values())
                raise empty_split_error(self.config, self.corpora, split, is_blank=is_blank)
        if numbers and numbers[TRAIN] < self.min_tokens:
            raise TooFewTokensError(self.directory, numbers[TRAIN], self.min_tokens)

    def _sidecars(self, journal: BuildJournal, made_from: dict[str, Any]) -> dict[Split, Sidecar]:
        """Return the sidecars of the written files."""
        corpus_of = {TRAIN: self.corpora.main, VAL: self.corpora.validation or self.corpora.main}
        sidecars = {}
        for split, writer in journal.writers.items():
            sources = corpus_of[split].sources[:_MAX_LISTED]
            listed = [{"name": source.name, "num_bytes": source.num_bytes} for source in sources]
            sidecars[split] = writer.sidecar(self.tokenizer.fingerprint, made_from, listed)
        return sidecars


def corpus_items(
    config: CorpusConfig,
    corpora: Corpora,
    safe_cut: SafeCut,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[tuple[Chunk, ...]]:
    """Divide the whole corpus into items of work, in order, without the documents that [data] leaves out."""
    division = Division(config, corpora, safe_cut, chunk_bytes)
    return work_items(Selection.of(division).apply(division.chunks()), chunk_bytes)
