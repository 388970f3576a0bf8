"""Make or reuse a tokenizer and token files: what the commands do first, and a program can do too.

Files that exist are compared, key by key, with what the config asks for. Files that do not match are neither
used nor overwritten. Of several processes that want the same files, one makes them and the others wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformerlm.config import CorpusConfig, DataConfig, TokenizerConfig
from transformerlm.data.build import Build, TokenData, corpus_items, token_paths
from transformerlm.data.build_journal import discard, is_unfinished, put_in_place
from transformerlm.data.build_lock import build_lock
from transformerlm.data.chunks import SafeCut
from transformerlm.data.corpus import Corpora, MissingCorpusError, find_corpora, refuse_overlap, settings
from transformerlm.data.documents import TRAIN, documents_of
from transformerlm.data.sidecar import sidecar_path
from transformerlm.data.split import nothing_left
from transformerlm.data.token_file import TokenFile
from transformerlm.errors import DataError
from transformerlm.parallel import available_cores
from transformerlm.progress import Bar, Reporter, SilentReporter
from transformerlm.schema import to_dict
from transformerlm.storage.files import remove_dead_temporaries
from transformerlm.tokenizer import Pretokenizer, Tokenizer
from transformerlm.tokenizer.bpe import NUM_BYTES
from transformerlm.tokenizer.files import MANIFEST_FILE, MERGES_FILE, VOCAB_FILE, read_manifest
from transformerlm.tokenizer.tokenizer_json import TOKENIZER_JSON
from transformerlm.tokenizer.train import Words, count_words, learn_merges


def fill_placeholders(path: str, data: CorpusConfig) -> str:
    """Return a path of the config with `{corpus}` replaced by the corpus' name, and `~` expanded."""
    return str(Path(path.replace("{corpus}", data.corpus_name)).expanduser())


def prepare_tokenizer(
    data: CorpusConfig, config: TokenizerConfig, reporter: Reporter | None = None
) -> Tokenizer:
    """Load the tokenizer in `config.tokenizer_dir`; if there is none, train it on the training split.

    A tokenizer that this package has not made (GPT-2's own files, for instance) is used as it is. If another
    process is at work in the parent folder, that one is waited for first.

    Raises:
        ConfigError: a file of the corpus would be replaced.
        DataError: the tokenizer there was made from another corpus or with other settings; a corpus that
            cannot be read; damaged files.
    """
    reporter = reporter or SilentReporter()
    directory = Path(fill_placeholders(config.tokenizer_dir, data))
    tokenizer = _existing_tokenizer(data, config, directory, reporter)
    if tokenizer is None:
        Pretokenizer(config.pattern, config.special_tokens)  # refuse unusable settings before anything else
        # The tokenizer's own folder cannot be locked: it appears with all its files in one step.
        with build_lock(directory.parent, reporter):
            tokenizer = _existing_tokenizer(data, config, directory, reporter)
            if tokenizer is None:
                tokenizer = _train_tokenizer(data, config, directory, reporter)
    return tokenizer


def prepare_data(
    data: DataConfig, config: TokenizerConfig, tokenizer: Tokenizer, reporter: Reporter | None = None
) -> TokenData:
    """Open the token files in `data.token_dir`; if they are missing, make them from the corpus.

    An interrupted build is continued. If another process makes the files, that one is waited for.

    Raises:
        ConfigError: a file of the corpus would be replaced.
        DataError: the files there were made from another corpus, with other settings or with another
            tokenizer; a corpus that cannot be read; damaged files.
        OutputError: the disk has not enough room.
    """
    reporter = reporter or SilentReporter()
    directory = Path(fill_placeholders(data.token_dir, data))
    is_made = False
    if not _fits(data, config, tokenizer, directory, reporter) or is_unfinished(directory):
        with build_lock(directory, reporter):
            if not _is_finished(data, config, tokenizer, directory, reporter):
                Build(data, _list_files(data, reporter), tokenizer, directory).run(reporter)
                is_made = True
    found = TokenData.open(data, directory)
    numbers = " + ".join(f"{file.num_tokens:,}" for file in (found.train, found.val) if file)
    reporter.say(f"token files in {directory}: {'made' if is_made else 'reused'} ({numbers} tokens)")
    return found


def training_texts(
    data: CorpusConfig, corpora: Corpora, safe_cut: SafeCut, bar: Bar | None = None
) -> Iterator[str]:
    """Yield the text of the training split: documents, and parts of long ones that can be encoded apart.

    Raises:
        DataError: a corpus that cannot be read, or one that leaves nothing to train on.
    """
    is_empty = True
    for item in corpus_items(data, corpora, safe_cut):
        for piece in item:
            for document in documents_of(piece, data):
                if document.split == TRAIN:
                    is_empty = False
                    yield document.text
        if bar:
            bar.update(sum(piece.stop - piece.start for piece in item))
    if is_empty:
        raise nothing_left(data, TRAIN)


def _existing_tokenizer(
    data: CorpusConfig, config: TokenizerConfig, directory: Path, reporter: Reporter
) -> Tokenizer | None:
    if not any((directory / name).exists() for name in (VOCAB_FILE, TOKENIZER_JSON)):
        return None
    tokenizer = Tokenizer.from_dir(directory)
    manifest = read_manifest(directory)
    if manifest and manifest.made_from:
        asked = {**_tokenizer_settings(config), **_text_settings(data, manifest.made_from, reporter)}
        _check_made_from(manifest.made_from, asked, directory, "--tokenizer.tokenizer_dir")
    reporter.say(f"tokenizer {directory}: reused ({tokenizer.vocab_size} ids)")
    return tokenizer


def _fits(
    data: DataConfig, config: TokenizerConfig, tokenizer: Tokenizer, directory: Path, reporter: Reporter
) -> bool:
    """Return whether all token files exist; raise DataError if they are not those that are asked for."""
    paths = token_paths(data, directory)
    files = [TokenFile.open(path) for path in paths if sidecar_path(path).exists()]
    key = f"tokenizer {fill_placeholders(config.tokenizer_dir, data)}"
    asked = (
        {**_text_settings(data, files[0].made_from, reporter), key: tokenizer.fingerprint} if files else {}
    )
    for file in files:
        made_from = {**file.made_from, key: file.fingerprint}
        _check_made_from(made_from, asked, file.path, "--data.token_dir")
    # If only some exist, an interrupted build has left them.
    return len(files) == len(paths)


def _is_finished(
    data: DataConfig, config: TokenizerConfig, tokenizer: Tokenizer, directory: Path, reporter: Reporter
) -> bool:
    """Finish a build that is complete but for the last renames, and return whether all files exist.

    The caller holds the folder's lock.
    """
    put_in_place(directory)
    is_whole = _fits(data, config, tokenizer, directory, reporter)
    if is_whole:
        discard(directory)
    return is_whole


def _train_tokenizer(
    data: CorpusConfig, config: TokenizerConfig, directory: Path, reporter: Reporter
) -> Tokenizer:
    corpora = _list_files(data, reporter)
    remove_dead_temporaries(directory)
    outputs = [directory / name for name in (VOCAB_FILE, MERGES_FILE, MANIFEST_FILE)]
    refuse_overlap(corpora, outputs, "[tokenizer].tokenizer_dir")
    tokenizer = _learn(_count_words(data, config, corpora, reporter), config, reporter)
    tokenizer.save(
        directory, made_from={**_tokenizer_settings(config), **settings(data), **corpora.summary()}
    )
    missing = config.vocab_size - tokenizer.vocab_size
    note = f"; {missing} fewer than asked for, the text has no more to merge" if missing else ""
    reporter.say(f"tokenizer {directory}: made ({tokenizer.vocab_size} ids{note})")
    return tokenizer


def _count_words(data: CorpusConfig, config: TokenizerConfig, corpora: Corpora, reporter: Reporter) -> Words:
    """Return the pre-tokens of the training split and how often each occurs."""
    safe_cut = Pretokenizer(config.pattern, config.special_tokens).safe_cut
    with reporter.bar(corpora.num_bytes, "B", "counting words") as bar:
        return count_words(
            training_texts(data, corpora, safe_cut, bar),
            config.special_tokens,
            pattern=config.pattern,
            num_workers=data.num_workers or available_cores(),
        )


def _learn(words: Words, config: TokenizerConfig, reporter: Reporter) -> Tokenizer:
    num_merges = config.vocab_size - NUM_BYTES - len(config.special_tokens)
    with reporter.bar(num_merges, "merge", "learning merges") as bar:
        vocab, merges = learn_merges(words, config.vocab_size, config.special_tokens, bar.update)
    return Tokenizer(vocab, merges, config.special_tokens, pattern=config.pattern)


def _list_files(data: CorpusConfig, reporter: Reporter) -> Corpora:
    """List the files of the corpora, and report those that are passed over."""
    corpora = find_corpora(data)
    for name, corpus in ((data.corpus, corpora.main), (data.validation_corpus, corpora.validation)):
        if corpus and (corpus.num_hidden or corpus.num_binary):
            passed_over = f"passed over: {corpus.num_hidden} hidden, {corpus.num_binary} binary"
            reporter.say(f"{name}: {corpus.summary()}; {passed_over}")
    return corpora


def _tokenizer_settings(config: TokenizerConfig) -> dict[str, Any]:
    values = to_dict(config)
    return {f"[tokenizer].{key}": value for key, value in values.items() if key != "tokenizer_dir"}


def _text_settings(data: CorpusConfig, made_from: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Return what decides the text today. If the corpus is gone, its files are taken to be unchanged."""
    try:
        files: dict[str, Any] = {**find_corpora(data).summary()}
    except MissingCorpusError as error:
        reporter.say(f"{error}; going on with what was made from it before")
        files = {key: value for key, value in made_from.items() if key.startswith("files of ")}
    return {**settings(data), **files}


def _check_made_from(made_from: Mapping[str, Any], asked: Mapping[str, Any], path: Path, option: str) -> None:
    """Raise DataError with a line for each key in which `path` was made otherwise than is asked for."""
    keys = [*asked, *(key for key in made_from if key not in asked)]
    changes = [(key, made_from.get(key, "none"), asked.get(key, "none")) for key in keys]
    lines = [f"{path}: {key}: {old} -> {new}" for key, old, new in changes if old != new]
    if lines:
        advice = f"choose another folder with {option}=..., or remove it to have it made anew"
        raise DataError([*lines, f"{path}: made with other settings or from other text: {advice}"])
