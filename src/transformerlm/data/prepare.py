"""Preparation of a tokenizer and token files: made from the corpus, or reused.

From Python:

    data_config = DataConfig(corpus="texts", token_dir="data/texts")
    tokenizer_config = TokenizerConfig(vocab_size=4096, tokenizer_dir="data/texts/tokenizer")
    tokenizer = prepare_tokenizer(data_config, tokenizer_config)
    data = prepare_data(data_config, tokenizer_config, tokenizer)
    print(data.train.num_tokens, data.train.tokens[:10])

The settings and the text of existing token files are compared, key by key, with the config and the corpus.
Files that do not match are neither used nor, unless [data].on_change says so, overwritten; a tokenizer serves
any text. Of several processes that want the same files, one makes them and the others wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformerlm.config import CorpusConfig, DataConfig, TokenizerConfig
from transformerlm.data.build import Build, TokenData, corpus_items, token_paths
from transformerlm.data.build_journal import discard, is_unfinished, put_in_place
from transformerlm.data.build_lock import build_lock
from transformerlm.data.chunks import SafeCut
from transformerlm.data.corpus import Corpora, MissingCorpusError, find_corpora, refuse_overlap, settings
from transformerlm.data.documents import TRAIN, documents_of
from transformerlm.data.encode import check_separator
from transformerlm.data.mixture import corpora_of, naming_corpus
from transformerlm.data.origin import MERGED_KEY, Origin, differences
from transformerlm.data.sidecar import sidecar_path
from transformerlm.data.split import empty_split_error
from transformerlm.data.token_file import TokenFile
from transformerlm.errors import DataError, Key, Problem
from transformerlm.progress import Bar, Reporter, SilentReporter
from transformerlm.schema import to_dict
from transformerlm.schema.values import show
from transformerlm.storage.files import remove_dead_temporaries
from transformerlm.tokenizer import Pretokenizer, Tokenizer
from transformerlm.tokenizer.bpe import NUM_BYTES
from transformerlm.tokenizer.formats.folder import holds_tokenizer
from transformerlm.tokenizer.formats.gpt2_files import MANIFEST_FILE, MERGES_FILE, VOCAB_FILE, read_manifest
from transformerlm.tokenizer.train import Words, count_words, learn_merges


def fill_placeholders(path: str, data_config: CorpusConfig) -> str:
    """Return a path of the config with `{corpus}` replaced by the corpus' name, and `~` expanded."""
    return str(Path(path.replace("{corpus}", data_config.corpus_name)).expanduser())


def prepare_tokenizer(
    data_config: CorpusConfig, tokenizer_config: TokenizerConfig, reporter: Reporter | None = None
) -> Tokenizer:
    """Load the tokenizer in `tokenizer_dir`; if there is none, train it on the training split and save it.

    A tokenizer is made once and serves any text: that it was made from another is only reported. What the
    config sets of the tokenizer itself (its size, pattern, special tokens) has to be true of it. One from
    elsewhere (GPT-2's own files, for instance) is used as it is. If another process builds in the parent
    folder, this one waits for it.

    Args:
        data_config: the corpus, and how it is read and split. With a `DataConfig`, from which token files
            are to be made, a new tokenizer must have the document separator.
        tokenizer_config: the tokenizer's folder and settings.
        reporter: receives progress; None: no output.

    Raises:
        ConfigError: a file of the corpus would be replaced.
        DataError: the tokenizer there is another than the config asks for; a corpus that cannot be read;
            damaged files.
    """
    wanted = _WantedTokenizer(data_config, tokenizer_config, reporter or SilentReporter())
    tokenizer = wanted.load()
    if tokenizer is None:
        wanted.check_settings()
        # The tokenizer's own folder cannot be locked: it appears with all its files in one step.
        with build_lock(wanted.directory.parent, wanted.reporter):
            tokenizer = wanted.load() or wanted.train()
    return tokenizer


def load_tokenizer(
    data_config: CorpusConfig, tokenizer_config: TokenizerConfig, reporter: Reporter | None = None
) -> Tokenizer | None:
    """Load the tokenizer in `tokenizer_dir`; None if there is none. Otherwise as `prepare_tokenizer`."""
    return _WantedTokenizer(data_config, tokenizer_config, reporter or SilentReporter()).load()


def learn_tokenizer(
    data_config: CorpusConfig, tokenizer_config: TokenizerConfig, reporter: Reporter | None = None
) -> Tokenizer:
    """Return the tokenizer that `prepare_tokenizer` would make, without saving it."""
    wanted = _WantedTokenizer(data_config, tokenizer_config, reporter or SilentReporter())
    wanted.check_settings()
    return wanted.learn({name: find_corpora(own) for name, own in corpora_of(data_config).items()})


def prepare_data(
    data_config: DataConfig,
    tokenizer_config: TokenizerConfig,
    tokenizer: Tokenizer,
    reporter: Reporter | None = None,
    *,
    min_tokens: int = 0,
) -> TokenData:
    """Open the token files in `token_dir`; if they are missing, make them from the corpus.

    An interrupted build is continued. If another process is making the files, this one waits for it.

    Args:
        data_config: the corpus, how it is read and split, and the folder of the token files.
        tokenizer_config: names the tokenizer's folder in errors.
        tokenizer: from `prepare_tokenizer`.
        reporter: receives progress; None: no output.
        min_tokens: number of tokens to train on that are needed; with fewer, no files are made.

    Raises:
        ConfigError: a file of the corpus would be replaced.
        DataError: the files there were made from another corpus, with other settings or with another
            tokenizer, and [data].on_change = "stop"; a corpus that cannot be read; damaged files.
        TooFewTokensError: the text has fewer than `min_tokens`.
        OutputError: the disk has too little space.
    """
    reporter = reporter or SilentReporter()
    if not data_config.mixture:
        return _prepare_corpus(data_config, tokenizer_config, tokenizer, reporter, min_tokens)
    own_tokenizer = dataclasses.replace(
        tokenizer_config, tokenizer_dir=fill_placeholders(tokenizer_config.tokenizer_dir, data_config)
    )
    found = {}
    for name, config in corpora_of(data_config).items():
        with naming_corpus(data_config, name):
            found[name] = _prepare_corpus(config, own_tokenizer, tokenizer, reporter, min_tokens)
    return TokenData.of_mixture(found)


def _prepare_corpus(
    data_config: DataConfig,
    tokenizer_config: TokenizerConfig,
    tokenizer: Tokenizer,
    reporter: Reporter,
    min_tokens: int,
) -> TokenData:
    """Open or make the token files of one corpus; see `prepare_data`."""
    wanted = _WantedTokenFiles(data_config, tokenizer_config, tokenizer, reporter, min_tokens)
    is_made = False
    if not wanted.exist() or is_unfinished(wanted.directory):
        with build_lock(wanted.directory, wanted.reporter):
            if not wanted.finish():
                wanted.make()
                is_made = True
    found = TokenData.open(data_config, wanted.directory)
    numbers = " + ".join(f"{file.num_tokens:,}" for file in (found.train, found.val) if file)
    what = f"{'made' if is_made else 'reused'} ({numbers} tokens)"
    if MERGED_KEY in found.train.made_from:
        what = f"{what}; they were merged from several, and are not compared with [data].corpus"
    wanted.reporter.say(f"token files in {wanted.directory}: {what}")
    return found


def training_texts(
    data_config: CorpusConfig, corpora: Corpora, safe_cut: SafeCut, bar: Bar | None = None
) -> Iterator[str]:
    """Yield the text of the training split: documents, and separately encodable parts of long ones.

    Raises:
        DataError: a corpus that cannot be read, or one that leaves nothing to train on.
    """
    found = set[str]()
    for item in corpus_items(data_config, corpora, safe_cut):
        for chunk in item:
            for document in documents_of(chunk, data_config):
                found.add(document.split)
                if document.split == TRAIN:
                    yield document.text
        if bar:
            bar.update(sum(chunk.num_read for chunk in item))
    if TRAIN not in found:
        raise empty_split_error(data_config, corpora, TRAIN, is_blank=not found)


@dataclass(frozen=True)
class _WantedTokenizer:
    """The tokenizer that a config describes: loaded if it exists, else trained."""

    data_config: CorpusConfig
    config: TokenizerConfig
    reporter: Reporter

    @property
    def directory(self) -> Path:
        return Path(fill_placeholders(self.config.tokenizer_dir, self.data_config))

    def check_settings(self) -> None:
        """Refuse settings that cannot be used, before anything is trained."""
        Pretokenizer(self.config.pattern, self.config.special_tokens)
        if isinstance(self.data_config, DataConfig):
            check_separator(self.data_config, self.config.special_tokens)

    def load(self) -> Tokenizer | None:
        """Load the tokenizer, or return None if there is none; DataError if it is another than asked for."""
        if not holds_tokenizer(self.directory):
            return None
        tokenizer = Tokenizer.from_dir(self.directory)
        manifest = read_manifest(self.directory)
        note = ""
        if manifest and manifest.made_from:
            self._check(manifest.made_from, tokenizer.vocab_size)
            note = self._differences(manifest.made_from, tokenizer.vocab_size)
        self.reporter.say(f"tokenizer {self.directory}: reused ({tokenizer.vocab_size} ids){note}")
        if tokenizer.form.missing and (warning := tokenizer.form.missing.warning):
            self.reporter.say(f"warning: tokenizer {self.directory}: {warning}")
        return tokenizer

    def _check(self, made_from: Mapping[str, Any], vocab_size: int) -> None:
        """Refuse a tokenizer of another size, pattern or special tokens than the config sets."""
        defaults, problems = _recipe(TokenizerConfig()), []
        for key, asked in _recipe(self.config).items():
            has = made_from.get(f"[tokenizer].{key}")
            if has is not None and asked not in (has, defaults.get(key), vocab_size):
                what = f"expected {show(has)}, with which {self.directory} was made, got {show(asked)}"
                advice = "leave it out to use that one, or choose another --tokenizer.tokenizer_dir"
                problems.append(Problem(Key("tokenizer", key), f"{what}; {advice}"))
        if problems:
            raise DataError(problems)

    def _differences(self, made_from: Mapping[str, Any], vocab_size: int) -> str:
        """Return what was configured otherwise when the tokenizer was made, and whether ids are missing."""
        now = {f"[tokenizer].{key}": value for key, value in _recipe(self.config).items()}
        now |= mixture_settings(self.data_config)
        if not isinstance(self.data_config, DataConfig):  # else the token files are compared with the corpus
            with contextlib.suppress(MissingCorpusError):
                now |= self._summary({name: find_corpora(own) for name, own in self._parts.items()})
        parts = [f"{key} = {show(had)}" for key, had in made_from.items() if now.get(key, had) != had]
        note = f"; made with {', '.join(parts)}" if parts else ""
        missing = made_from.get("[tokenizer].vocab_size", 0) - vocab_size
        if missing > 0:
            note += f"; {missing} fewer than asked for: remove the folder to have it made of a longer text"
        return note

    def train(self) -> Tokenizer:
        """Train the tokenizer on the training split, and save it."""
        corpora = {name: self._list_files(name, own) for name, own in self._parts.items()}
        remove_dead_temporaries(self.directory)
        outputs = [self.directory / name for name in (VOCAB_FILE, MERGES_FILE, MANIFEST_FILE)]
        for found in corpora.values():
            refuse_overlap(found, outputs, Key("tokenizer", "tokenizer_dir"))
        tokenizer = self.learn(corpora)
        recipe = _recipe(dataclasses.replace(self.config, vocab_size=self.config.new_vocab_size))
        made_from = {f"[tokenizer].{key}": value for key, value in recipe.items()}
        made_from |= {**mixture_settings(self.data_config), **self._summary(corpora)}
        tokenizer.save(self.directory, made_from=made_from)
        missing = self.config.new_vocab_size - tokenizer.vocab_size
        note = f"; {missing} fewer than asked for, the text has no more to merge" if missing else ""
        self.reporter.say(f"tokenizer {self.directory}: made ({tokenizer.vocab_size} ids{note})")
        return tokenizer

    def learn(self, corpora: Mapping[str, Corpora]) -> Tokenizer:
        """Return a tokenizer trained on the training split of each corpus."""
        return self._learn(self._count_words(corpora))

    @property
    def _parts(self) -> dict[str, CorpusConfig]:
        return corpora_of(self.data_config)

    def _list_files(self, name: str, config: CorpusConfig) -> Corpora:
        is_said_later = isinstance(self.data_config, DataConfig)  # when the token files are made
        with naming_corpus(self.data_config, name):
            return _list_files(config, SilentReporter() if is_said_later else self.reporter)

    def _summary(self, corpora: Mapping[str, Corpora]) -> dict[str, str]:
        """Return {key: one line about the files}; the keys have the name of a mixture's corpus."""
        found = ((f" ({name})" if name else "", own.summary()) for name, own in corpora.items())
        return {key + suffix: line for suffix, own in found for key, line in own.items()}

    def _count_words(self, corpora: Mapping[str, Corpora]) -> Words:
        """Count how often each pre-token occurs in the training split, of a mixture in all text alike."""
        safe_cut = Pretokenizer(self.config.pattern, self.config.special_tokens).safe_cut
        num_bytes = sum(found.num_bytes for found in corpora.values())
        with self.reporter.bar(num_bytes, "B", "counting words") as bar:
            texts = (training_texts(own, corpora[name], safe_cut, bar) for name, own in self._parts.items())
            return count_words(
                itertools.chain.from_iterable(texts),
                self.config.special_tokens,
                pattern=self.config.pattern,
                num_workers=self.data_config.num_workers,
            )

    def _learn(self, words: Words) -> Tokenizer:
        vocab_size, special_tokens = self.config.new_vocab_size, self.config.special_tokens
        num_merges = vocab_size - NUM_BYTES - len(special_tokens)
        with self.reporter.bar(num_merges, "merge", "learning merges") as bar:
            vocab, merges = learn_merges(words, vocab_size, special_tokens, bar.update)
        return Tokenizer(vocab, merges, special_tokens, pattern=self.config.pattern)


def mixture_settings(config: CorpusConfig) -> dict[str, Any]:
    """Return `settings`; of a mixture without its corpora, of whose files there are lines of their own."""
    left_out = ["[data].corpus"] if config.mixture else []
    return {key: value for key, value in settings(config).items() if key not in left_out}


def _recipe(config: TokenizerConfig) -> dict[str, Any]:
    """Return what the config sets of the tokenizer itself."""
    return {key: value for key, value in to_dict(config).items() if key != "tokenizer_dir"}


@dataclass(frozen=True)
class _WantedTokenFiles:
    """The token files that a config describes: used if they exist, else made."""

    data_config: DataConfig
    tokenizer_config: TokenizerConfig
    tokenizer: Tokenizer
    reporter: Reporter
    min_tokens: int = 0

    @property
    def directory(self) -> Path:
        return Path(fill_placeholders(self.data_config.token_dir, self.data_config))

    def exist(self, say: Callable[[str], object] = lambda line: None) -> bool:
        """Return True if all of them exist and need not be made anew; `say` hears what differs.

        Raises:
            DataError: an existing one was made of other text or with other settings, and
                [data].on_change = "stop".
        """
        paths = token_paths(self.data_config, self.directory)
        files = [TokenFile.open(path) for path in paths if sidecar_path(path).exists()]
        # All were made from the same, as a rule, and one line about each difference is enough.
        origins = [(file.made_from, file.fingerprint) for file in files]
        others = [file for file, origin in zip(files, origins, strict=True) if origin != origins[0]]
        lines = [line for file in (*files[:1], *others) for line in self._differences(file)]
        if lines and self.data_config.on_change == "stop":
            advice = "--data.on_change=remake makes them anew, --data.token_dir=... takes another folder"
            what = f"token files in {self.directory}: made with other settings or from other text: {advice}"
            raise DataError([*lines, what])
        for line in lines:
            say(line)
        return not lines and len(files) == len(paths)  # an interrupted build may have left some of them

    def finish(self) -> bool:
        """Finish a build of which only the last renames are missing; return True if all files exist.

        The caller holds the folder's lock.
        """
        put_in_place(self.directory)
        is_whole = self.exist(self.reporter.say)
        if is_whole:
            discard(self.directory)
        return is_whole

    def make(self) -> None:
        """Make the files. The caller holds the folder's lock."""
        corpora = _list_files(self.data_config, self.reporter)
        build = Build(self.data_config, corpora, self.tokenizer, self.directory, min_tokens=self.min_tokens)
        build.run(self.reporter)

    def _differences(self, file: TokenFile) -> list[str]:
        """Return lines about what differs between a token file and the one that would be made now."""
        key = f"tokenizer {fill_placeholders(self.tokenizer_config.tokenizer_dir, self.data_config)}"
        is_merged = MERGED_KEY in file.made_from  # of several corpora, of which the config names one at most
        origin = (
            Origin(file.made_from)
            if is_merged
            else Origin.now(self.data_config, file.made_from, self.directory, self.reporter)
        )
        made_from = {**file.made_from, key: file.fingerprint}
        lines = differences(made_from, {**origin.values, key: self.tokenizer.fingerprint})
        return [f"{file.path}: {line}" for line in lines] + (list(origin.changes) if lines else [])


def _list_files(data_config: CorpusConfig, reporter: Reporter) -> Corpora:
    """List the files of the corpora, and report those that are not read."""
    corpora = find_corpora(data_config)
    for note in corpora.notes(data_config):
        reporter.say(note)
    return corpora
