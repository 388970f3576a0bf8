"""From a corpus to token files, through worker threads or processes, in bounded memory.

The result is a function of the text, the settings and the tokenizer: not of the number of workers or of
ranks, nor of how the text is divided into work. The items of work are a function of the text as well:
every rank lists them all and encodes its share, and rank 0 writes. So what was interrupted is gone on with
by passing over as many items as are done (`unfinished.py`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transformerlm import __version__
from transformerlm.config import CorpusConfig
from transformerlm.data.build_journal import COMMIT_BYTES, Unfinished
from transformerlm.data.build_lock import held
from transformerlm.data.chunks import PIECE_BYTES, SafeCut, pieces, work_items
from transformerlm.data.corpus import Corpora, find_corpora, refuse_overlap, settings
from transformerlm.data.documents import TRAIN, VAL, Document, Piece, Split, documents_of
from transformerlm.data.encoded import Encoded, Ids, Tokens, from_bytes, to_bytes
from transformerlm.data.rank_shards import blocks, check_same_files, num_workers, own_items
from transformerlm.data.sidecar import FORMAT_VERSION, sidecar_path
from transformerlm.data.split import has_validation, nothing_left, regions
from transformerlm.data.token_file import TokenFile
from transformerlm.distributed.collectives import broadcast_bytes, collective_errors, gathered
from transformerlm.distributed.world import SINGLE_PROCESS, World
from transformerlm.errors import DataError, Key
from transformerlm.parallel import ordered_map
from transformerlm.progress import Reporter, SilentReporter
from transformerlm.storage.files import require_free_bytes
from transformerlm.tokenizer import Tokenizer

WORKER_BYTES = 2 * 2**20
"""Text that is worth a worker: with less than twice this, none is started."""
BYTES_PER_TOKEN = 2
"""Of text, by which the room that the disk must have is reckoned. With some thousands of ids, learned from
the corpus itself, it is 3 to 5; with a few hundred, or in a script that was hardly seen, 1 to 2: the disk may
still become full, and then what is done is not lost."""

_MAX_LISTED = 1000  # files that a sidecar names; the summary of their names and sizes covers them all

Item = tuple[Piece, ...]
"""What a worker gets at a time."""


@dataclass(frozen=True)
class TokenData:
    """The token files to train and to validate on."""

    train: TokenFile
    val: TokenFile | None

    @classmethod
    def open(cls, config: CorpusConfig, directory: Path) -> TokenData:
        """Open train.memmap and, where the config asks for validation, val.memmap."""
        files = [TokenFile.open(path) for path in token_paths(config, directory)]
        for file in files[1:]:
            if (file.made_from, file.fingerprint) != (files[0].made_from, files[0].fingerprint):
                what = "made from other text, with other settings or another tokenizer than"
                raise DataError(f"{file.path}: {what} {files[0].path.name} beside it; make both again")
        return cls(files[0], files[1] if len(files) > 1 else None)


def token_paths(config: CorpusConfig, directory: Path) -> list[Path]:
    """The token files that the config asks for: train.memmap and, where there is validation, val.memmap."""
    return [directory / f"{split}.memmap" for split in _splits(config)]


def _splits(config: CorpusConfig) -> tuple[Split, ...]:
    return (TRAIN, VAL) if has_validation(config) else (TRAIN,)


def make_data(
    config: CorpusConfig,
    tokenizer: Tokenizer,
    directory: Path,
    reporter: Reporter | None = None,
    *,
    piece_bytes: int = PIECE_BYTES,
    commit_bytes: int = COMMIT_BYTES,
    world: World = SINGLE_PROCESS,
) -> TokenData:
    """Encode a corpus into `directory`: train.memmap and, where the config asks for it, val.memmap.

    Each document is followed by the id of `config.document_separator`. The files appear when all is
    done, and replace older ones. What was begun in the same way and interrupted is gone on with.

    Args:
        piece_bytes: about how much text a worker gets at a time; the result does not depend on it.
        commit_bytes: after how much text progress is recorded.
        world: ranks that do this together, each seeing the whole corpus, and `directory` as well.

    Raises:
        ConfigError: a file of the corpus would be replaced.
        DataError: a corpus that cannot be read, a split in which nothing is left, or a tokenizer that
            does not know the separator.
        OutputError: the disk has not enough room.
    """
    reporter = reporter or SilentReporter()
    with collective_errors(world):
        corpora = find_corpora(config)
    with held(directory, reporter, world):
        encode_corpora(
            config,
            corpora,
            tokenizer,
            directory,
            reporter,
            piece_bytes=piece_bytes,
            commit_bytes=commit_bytes,
            world=world,
        )
    with collective_errors(world):
        return TokenData.open(config, directory)


def encode_corpora(
    config: CorpusConfig,
    corpora: Corpora,
    tokenizer: Tokenizer,
    directory: Path,
    reporter: Reporter | None = None,
    *,
    piece_bytes: int = PIECE_BYTES,
    commit_bytes: int = COMMIT_BYTES,
    world: World = SINGLE_PROCESS,
) -> None:
    """`make_data`, from files that are listed already; only rank 0 needs `directory`, and holds it."""
    reporter = reporter or SilentReporter()
    check_same_files(world, corpora)
    with contextlib.ExitStack() as stack:
        work = None
        with collective_errors(world):
            _check_separator(config, tokenizer)
            if world.is_main:
                refuse_overlap(corpora, _outputs(config, directory), Key("data", "token_dir"))
                recipe = _recipe(config, corpora, tokenizer, piece_bytes)
                opened = Unfinished.open(
                    directory, _splits(config), tokenizer.vocab_size, recipe, reporter, commit_bytes
                )
                work = stack.enter_context(opened)
                _check_room(directory, corpora.num_bytes - work.num_read, tokenizer)
        num_done, num_read = _shared_numbers(world, work)
        with collective_errors(world):
            items = corpus_items(config, corpora, tokenizer.pretokenizer.safe_cut, piece_bytes)
            own = own_items(world, itertools.islice(items, num_done, None))
            num_left = (corpora.num_bytes - num_read) // world.size
            encoded = _in_order(world, _encode_all(config, tokenizer, own, num_left, world), tokenizer)
            if work:
                _write_all(config, corpora, tokenizer, work, encoded, reporter)
            else:
                deque(encoded, maxlen=0)


def _shared_numbers(world: World, work: Unfinished | None) -> tuple[int, int]:
    """How many items, and bytes of the corpus, are done, as rank 0 knows."""
    data = broadcast_bytes(world, f"{work.num_items} {work.num_read}".encode() if work else b"")
    num_items, num_read = map(int, data.split())
    return num_items, num_read


def _encode_all(
    config: CorpusConfig, tokenizer: Tokenizer, items: Iterable[Item], num_bytes: int, world: World
) -> Iterator[Encoded]:
    """Encode items of about `num_bytes` in all, in order."""
    workers = min(num_workers(config, world), max(1, num_bytes // WORKER_BYTES))
    threads = tokenizer.uses_kernels(num_bytes)  # else other threads would only wait for this one
    return ordered_map(functools.partial(encode_item, tokenizer, config), items, workers, threads=threads)


def _write_all(
    config: CorpusConfig,
    corpora: Corpora,
    tokenizer: Tokenizer,
    work: Unfinished,
    encoded: Iterable[Encoded],
    reporter: Reporter,
) -> None:
    if work.num_read:
        done, total = work.num_read / 1e6, corpora.num_bytes / 1e6
        reporter.say(f"{work.directory}: going on after {done:.1f} of {total:.1f} MB")
    with reporter.bar(corpora.num_bytes, "B", "encoding") as bar:
        bar.update(work.num_read)
        for tokens in encoded:
            work.write(tokens)
            bar.update(tokens.num_read)
        bar.update(corpora.num_bytes - work.num_read)  # what was passed over: separators, byte order marks
    for split, writer in work.writers.items():
        if not writer.num_tokens:
            raise nothing_left(config, split)
    sources = {TRAIN: corpora.main.sources, VAL: (corpora.validation or corpora.main).sources}
    made_from = {**settings(config), **corpora.summary()}
    sidecars = {}
    for split, writer in work.writers.items():
        listed = [{"name": s.name, "num_bytes": s.num_bytes} for s in sources[split][:_MAX_LISTED]]
        sidecars[split] = writer.sidecar(tokenizer.fingerprint, made_from, listed)
    work.finish(sidecars)


def _in_order(world: World, own: Iterator[Encoded], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """On rank 0 what all ranks have encoded, in the order of the text; on the others nothing."""
    if world.size == 1:
        return own
    received = gathered(world, map(to_bytes, blocks(own)))
    return (from_bytes(data, tokenizer.dtype) for data in received)


def corpus_items(
    config: CorpusConfig, corpora: Corpora, safe_cut: SafeCut, piece_bytes: int = PIECE_BYTES
) -> Iterator[Item]:
    """The whole corpus as items of work, in order."""
    parts = regions(config, corpora)
    return work_items((p for part in parts for p in pieces(part, config, safe_cut, piece_bytes)), piece_bytes)


def encode_item(tokenizer: Tokenizer, config: CorpusConfig, item: Item) -> Encoded:
    """Read and encode one item of work, in any process."""
    documents = [document for piece in item for document in documents_of(piece, config)]
    parts = []
    for split in (TRAIN, VAL):
        own = [document for document in documents if document.split == split]
        num_bytes = sum(len(document.utf8) for document in own)
        if own:
            ids = _encode(tokenizer, own, config.document_separator)
            parts.append(Tokens(split, ids, sum(document.is_end for document in own), num_bytes))
    return Encoded(1, sum(piece.stop - piece.start for piece in item), parts)


def _encode(tokenizer: Tokenizer, documents: Sequence[Document], separator: str) -> Ids:
    """The ids of documents in order, each that ends followed by the separator's id."""
    if separator and stands_alone(separator, tokenizer.special_token_ids):
        # One call instead of one a document: the separator is a special token, so nothing merges across it.
        ends = separator.encode()
        return tokenizer.encode_bytes(b"".join(part.utf8 + ends * part.is_end for part in documents))
    end = np.array([tokenizer.special_token_ids[separator]] if separator else [], tokenizer.dtype)
    arrays = [(tokenizer.encode_bytes(part.utf8), end[: part.is_end]) for part in documents]
    return np.concatenate([array for pair in arrays for array in pair])


def stands_alone(separator: str, special_tokens: Iterable[str]) -> bool:
    """Whether a separator put between any two texts is found there, and not some other special token.

    Not so where one holds the separator, or may begin in the text before and end within the separator;
    "||" does the latter to itself: "a|" + "||" begins with "a||".
    """
    return not any(
        (separator in token and separator != token)
        or any(token.endswith(separator[:length]) for length in range(1, min(len(token), len(separator))))
        for token in special_tokens
    )


def _check_separator(config: CorpusConfig, tokenizer: Tokenizer) -> None:
    separator, known = config.document_separator, tokenizer.special_token_ids
    if separator and separator not in known:
        what = f"expected one of the tokenizer's special tokens, {sorted(known)}, got {separator!r}"
        advice = 'add it to [tokenizer].special_tokens, or take ""'
        raise DataError(f"{what}; {advice}", key=Key("data", "document_separator"))


def _outputs(config: CorpusConfig, directory: Path) -> list[Path]:
    paths = token_paths(config, directory)
    return [*paths, *map(sidecar_path, paths)]


def _recipe(config: CorpusConfig, corpora: Corpora, tokenizer: Tokenizer, piece_bytes: int) -> dict[str, Any]:
    """All that decides what is in the files and in which steps they are made."""
    return {
        **settings(config),
        **corpora.summary(),
        "times of files": corpora.times(),
        "tokenizer": tokenizer.fingerprint,
        "piece_bytes": piece_bytes,
        "format_version": FORMAT_VERSION,
        "transformerlm": __version__,
    }


def _check_room(directory: Path, num_bytes: int, tokenizer: Tokenizer) -> None:
    """Refuse to begin what the disk will hardly hold; older token files stay until the new ones are whole."""
    needed = num_bytes * tokenizer.dtype.itemsize // BYTES_PER_TOKEN
    require_free_bytes(directory, needed, f"the token files of {num_bytes:,} bytes of text")
