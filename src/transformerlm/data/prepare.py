"""What every command does first: a tokenizer and token files, reused where they fit, else made.

What exists is compared, key by key, with what the config asks for. What does not fit is neither used
nor overwritten. Of several processes that want the same, one makes it and the others wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from transformerlm.config import CorpusConfig, DataConfig, TokenizerConfig
from transformerlm.data.build import TokenData, corpus_items, encode_corpora, token_paths
from transformerlm.data.build_journal import discard, is_unfinished, put_in_place
from transformerlm.data.build_lock import held
from transformerlm.data.chunks import SafeCut
from transformerlm.data.corpus import Corpora, MissingCorpusError, find_corpora, refuse_overlap, settings
from transformerlm.data.documents import TRAIN, documents_of
from transformerlm.data.rank_shards import blocks, check_same_files, num_workers, own_items, shared_tokenizer
from transformerlm.data.sidecar import sidecar_path
from transformerlm.data.split import nothing_left
from transformerlm.data.token_file import TokenFile
from transformerlm.distributed.collectives import (
    all_gather_bytes,
    broadcast_bytes,
    collective_errors,
    gathered,
    heartbeat,
)
from transformerlm.distributed.world import SINGLE_PROCESS, World
from transformerlm.errors import DataError, Key
from transformerlm.progress import Bar, Reporter, SilentReporter
from transformerlm.schema import to_dict
from transformerlm.storage.files import remove_dead_temporaries
from transformerlm.tokenizer import Pretokenizer, Tokenizer
from transformerlm.tokenizer.bpe import NUM_BYTES
from transformerlm.tokenizer.files import MANIFEST_FILE, MERGES_FILE, VOCAB_FILE, read_manifest
from transformerlm.tokenizer.tokenizer_json import TOKENIZER_JSON
from transformerlm.tokenizer.train import Words, count_words, learn_merges, sum_words, words_to_bytes


def fill_placeholders(path: str, data: CorpusConfig) -> str:
    """A path from the config, with the corpus' name for `{corpus}` and the user's own folder for `~`."""
    return str(Path(path.replace("{corpus}", data.corpus_name)).expanduser())


def prepare_tokenizer(
    data: CorpusConfig,
    config: TokenizerConfig,
    reporter: Reporter | None = None,
    world: World = SINGLE_PROCESS,
) -> Tokenizer:
    """The tokenizer in `config.tokenizer_dir`; where there is none, one is trained on the training split.

    One that this package has not made (GPT-2's own files, for instance) is taken as it is. Of several
    ranks only the first needs the folder; all train and all get the tokenizer. Where another process is at
    work in the folder around it, that one is waited for first.

    Raises:
        ConfigError: a file of the corpus would be replaced.
        DataError: one that was made from another corpus or with other settings; a corpus that cannot
            be read; damaged files.
    """
    reporter = reporter or SilentReporter()
    directory = Path(fill_placeholders(config.tokenizer_dir, data))
    tokenizer = _existing_tokenizer(data, config, directory, reporter, world)
    if tokenizer is None:
        Pretokenizer(config.pattern, config.special_tokens)  # what cannot be used is refused before all else
        # Its own folder cannot be held: it appears with all that is in it, in one step.
        with held(directory.parent, reporter, world):
            tokenizer = _existing_tokenizer(data, config, directory, reporter, world)
            if tokenizer is None:
                tokenizer = _train_tokenizer(data, config, directory, reporter, world)
    return tokenizer


def prepare_data(
    data: DataConfig,
    config: TokenizerConfig,
    tokenizer: Tokenizer,
    reporter: Reporter | None = None,
    world: World = SINGLE_PROCESS,
) -> TokenData:
    """The token files in `data.token_dir`; where they are missing, they are made from the corpus.

    What was begun and interrupted is gone on with; who makes them in another process is waited for.

    Raises:
        ConfigError: a file of the corpus would be replaced.
        DataError: ones that were made from another corpus, with other settings or with another
            tokenizer; a corpus that cannot be read; damaged files.
        OutputError: the disk has not enough room.
    """
    make_token_files(data, config, tokenizer, reporter, world)
    with collective_errors(world):
        return TokenData.open(data, Path(fill_placeholders(data.token_dir, data)))


def make_token_files(
    data: DataConfig,
    config: TokenizerConfig,
    tokenizer: Tokenizer,
    reporter: Reporter | None = None,
    world: World = SINGLE_PROCESS,
) -> None:
    """`prepare_data`, without opening the files: of several ranks only the first needs their folder."""
    reporter = reporter or SilentReporter()
    directory = Path(fill_placeholders(data.token_dir, data))
    is_whole = _says_rank_0(
        world, lambda: _fits(data, config, tokenizer, directory, reporter) and not is_unfinished(directory)
    )
    if not is_whole:
        with held(directory, reporter, world):
            is_whole = _says_rank_0(world, lambda: _is_finished(data, config, tokenizer, directory, reporter))
            if not is_whole:
                corpora = _list_files(data, reporter, world)
                encode_corpora(data, corpora, tokenizer, directory, reporter, world=world)
    if world.is_main:
        found = TokenData.open(data, directory)
        numbers = " + ".join(f"{file.num_tokens:,}" for file in (found.train, found.val) if file)
        reporter.say(f"token files in {directory}: {'reused' if is_whole else 'made'} ({numbers} tokens)")


def training_texts(
    data: CorpusConfig,
    corpora: Corpora,
    safe_cut: SafeCut,
    bar: Bar | None = None,
    world: World = SINGLE_PROCESS,
) -> Iterator[str]:
    """The text of the training split: documents, and parts of long ones that can be encoded apart.

    Each of several ranks gets its share of them, and all go forward in step: what one of them cannot
    read soon ends all.

    Raises:
        DataError: a corpus that cannot be read, or one of which nothing is left to train on.
    """
    found = b""
    rounds = blocks(corpus_items(data, corpora, safe_cut), world.size)
    while True:
        with collective_errors(world):
            items = next(rounds, [])
            for piece in chain.from_iterable(own_items(world, items)):
                for document in documents_of(piece, data):
                    if document.split == TRAIN:
                        found = b"text"
                        yield document.text
        if not items:
            break
        if bar:
            bar.update(sum(piece.stop - piece.start for item in items for piece in item))
    if not any(all_gather_bytes(world, found)):
        raise nothing_left(data, TRAIN)


def _existing_tokenizer(
    data: CorpusConfig, config: TokenizerConfig, directory: Path, reporter: Reporter, world: World
) -> Tokenizer | None:
    """The tokenizer that is there, on all ranks; None where there is none."""
    tokenizer = None
    with collective_errors(world):
        if world.is_main:
            tokenizer = _read_tokenizer(data, config, directory, reporter)
    return shared_tokenizer(world, tokenizer)


def _read_tokenizer(
    data: CorpusConfig, config: TokenizerConfig, directory: Path, reporter: Reporter
) -> Tokenizer | None:
    if not any((directory / name).exists() for name in (VOCAB_FILE, TOKENIZER_JSON)):
        return None
    tokenizer = Tokenizer.from_dir(directory)
    manifest = read_manifest(directory)
    if manifest and manifest.made_from:
        asked = {**_tokenizer_settings(config), **_recipe(data, manifest.made_from, reporter)}
        _check(manifest.made_from, asked, directory, "--tokenizer.tokenizer_dir")
    reporter.say(f"tokenizer {directory}: reused ({tokenizer.vocab_size} ids)")
    return tokenizer


def _fits(
    data: DataConfig, config: TokenizerConfig, tokenizer: Tokenizer, directory: Path, reporter: Reporter
) -> bool:
    """Whether the token files are all there; DataError where they are not those that are asked for."""
    paths = token_paths(data, directory)
    files = [TokenFile.open(path) for path in paths if sidecar_path(path).exists()]
    key = f"tokenizer {fill_placeholders(config.tokenizer_dir, data)}"
    recipe = _recipe(data, files[0].made_from, reporter) if files else {}
    for file in files:
        made_from = {**file.made_from, key: file.fingerprint}
        _check(made_from, {**recipe, key: tokenizer.fingerprint}, file.path, "--data.token_dir")
    # Fewer than all are what an interrupted build has left.
    return len(files) == len(paths)


def _is_finished(
    data: DataConfig, config: TokenizerConfig, tokenizer: Tokenizer, directory: Path, reporter: Reporter
) -> bool:
    """Whether they are all there once what only had to be put in place is; for who holds the folder."""
    put_in_place(directory)
    is_whole = _fits(data, config, tokenizer, directory, reporter)
    if is_whole:
        discard(directory)
    return is_whole


def _says_rank_0(world: World, question: Callable[[], bool]) -> bool:
    """What rank 0 finds, on all: others may not see its files, or not yet."""
    with collective_errors(world):
        answer = world.is_main and question()
    return bool(broadcast_bytes(world, b"yes" * answer))


def _train_tokenizer(
    data: CorpusConfig, config: TokenizerConfig, directory: Path, reporter: Reporter, world: World
) -> Tokenizer:
    """Count on all ranks; on rank 0 learn and save; the tokenizer on all."""
    corpora = _list_files(data, reporter, world)
    check_same_files(world, corpora)
    with collective_errors(world):
        if world.is_main:
            remove_dead_temporaries(directory)
            outputs = [directory / name for name in (VOCAB_FILE, MERGES_FILE, MANIFEST_FILE)]
            refuse_overlap(corpora, outputs, Key("tokenizer", "tokenizer_dir"))
    words = _count_words(data, config, corpora, reporter, world)
    tokenizer = None
    with collective_errors(world):
        if world.is_main:
            tokenizer = _learn(words, config, reporter, heartbeat(world))
            recipe = {**settings(data), **corpora.summary()}
            tokenizer.save(directory, made_from={**_tokenizer_settings(config), **recipe})
            short = config.vocab_size - tokenizer.vocab_size
            note = f"; {short} fewer than asked for, the text has no more to merge" if short else ""
            reporter.say(f"tokenizer {directory}: made ({tokenizer.vocab_size} ids{note})")
    tokenizer = shared_tokenizer(world, tokenizer)
    assert tokenizer
    return tokenizer


def _count_words(
    data: CorpusConfig, config: TokenizerConfig, corpora: Corpora, reporter: Reporter, world: World
) -> Words:
    """The pre-tokens of the training split and how often each occurs: on rank 0, elsewhere of no use."""
    safe_cut = Pretokenizer(config.pattern, config.special_tokens).safe_cut
    with collective_errors(world), reporter.bar(corpora.num_bytes, "B", "counting words") as bar:
        texts = training_texts(data, corpora, safe_cut, bar, world)
        words = count_words(
            texts, config.special_tokens, pattern=config.pattern, num_workers=num_workers(data, world)
        )
    return words if world.size == 1 else sum_words(gathered(world, words_to_bytes(words)))


def _learn(words: Words, config: TokenizerConfig, reporter: Reporter, beat: Callable[[], None]) -> Tokenizer:
    num_merges = config.vocab_size - NUM_BYTES - len(config.special_tokens)
    with reporter.bar(num_merges, "merge", "learning merges") as bar:

        def progress(number: int) -> None:
            bar.update(number)
            beat()

        vocab, merges = learn_merges(words, config.vocab_size, config.special_tokens, progress)
    return Tokenizer(vocab, merges, config.special_tokens, pattern=config.pattern)


def _list_files(data: CorpusConfig, reporter: Reporter, world: World) -> Corpora:
    with collective_errors(world):
        corpora = find_corpora(data)
    for name, corpus in ((data.corpus, corpora.main), (data.validation_corpus, corpora.validation)):
        if corpus and (corpus.num_hidden or corpus.num_binary):
            passed_over = f"passed over: {corpus.num_hidden} hidden, {corpus.num_binary} binary"
            reporter.say(f"{name}: {corpus.summary()}; {passed_over}")
    return corpora


def _tokenizer_settings(config: TokenizerConfig) -> dict[str, Any]:
    values = to_dict(config)
    return {f"[tokenizer].{key}": value for key, value in values.items() if key != "tokenizer_dir"}


def _recipe(data: CorpusConfig, made_from: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    """What decides the text today. Of files that are gone, what they were is taken for granted."""
    try:
        files: dict[str, Any] = {**find_corpora(data).summary()}
    except MissingCorpusError as error:
        reporter.say(f"{error}; going on with what was made from it before")
        files = {key: value for key, value in made_from.items() if key.startswith("files of ")}
    return {**settings(data), **files}


def _check(made_from: Mapping[str, Any], asked: Mapping[str, Any], path: Path, option: str) -> None:
    keys = [*asked, *(key for key in made_from if key not in asked)]
    changes = [(key, made_from.get(key, "none"), asked.get(key, "none")) for key in keys]
    lines = [f"{path}: {key}: {old} -> {new}" for key, old, new in changes if old != new]
    if lines:
        advice = f"choose another folder with {option}=..., or remove it to have it made anew"
        raise DataError([*lines, f"{path}: made with other settings or from other text: {advice}"])
