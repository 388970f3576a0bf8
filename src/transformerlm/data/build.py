"""From a corpus to token files, through worker threads or processes, in bounded memory.

The result is a function of the text, the settings and the tokenizer: not of the number of workers or of
ranks, nor of how the text is divided into work. The items of work are a function of the text as well:
every rank lists them all and encodes its share, and rank 0 writes.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transformerlm.config import CorpusConfig
from transformerlm.data.corpus import Corpora, find_corpora, settings
from transformerlm.data.documents import TRAIN, VAL, Document, Piece, Split, documents_of
from transformerlm.data.format import TokenFile, TokenWriter
from transformerlm.data.pieces import PIECE_BYTES, SafeCut, pieces, work_items
from transformerlm.data.share import blocks, check_same_files, num_workers, own_items
from transformerlm.data.split import has_validation, nothing_left, regions
from transformerlm.distributed import agreement, gathered
from transformerlm.errors import DataError
from transformerlm.parallel import ordered_map
from transformerlm.progress import Bar, Reporter, SilentReporter
from transformerlm.tokenizer import Tokenizer
from transformerlm.world import ALONE, World

WORKER_BYTES = 2 * 2**20
"""Text that is worth a worker: with less than twice this, none is started."""

_MAX_LISTED = 1000  # files that a sidecar names; the summary of their names and sizes covers them all

Ids = NDArray[np.unsignedinteger[Any]]
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
        return cls(files[0], files[1] if len(files) > 1 else None)


class Tokens(NamedTuple):
    """Ids for one split."""

    split: Split
    ids: Ids
    num_documents: int
    """Documents that end among them."""
    num_bytes: int
    """UTF-8 bytes of their text."""


Encoded = tuple[int, list[Tokens]]
"""What a worker makes of it: bytes read, and tokens for each split."""


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
    world: World = ALONE,
) -> TokenData:
    """Encode a corpus into `directory`: train.memmap and, where the config asks for it, val.memmap.

    Each document is followed by the id of `config.document_separator`. The files appear when all is
    done, and replace older ones.

    Args:
        piece_bytes: about how much text a worker gets at a time; the result does not depend on it.
        world: ranks that do this together, each seeing the whole corpus, and `directory` as well.

    Raises:
        DataError: a corpus that cannot be read, a split in which nothing is left, or a tokenizer that
            does not know the separator.
    """
    with agreement(world):
        corpora = find_corpora(config)
    encode_corpora(config, corpora, tokenizer, directory, reporter, piece_bytes=piece_bytes, world=world)
    with agreement(world):
        return TokenData.open(config, directory)


def encode_corpora(
    config: CorpusConfig,
    corpora: Corpora,
    tokenizer: Tokenizer,
    directory: Path,
    reporter: Reporter | None = None,
    *,
    piece_bytes: int = PIECE_BYTES,
    world: World = ALONE,
) -> None:
    """`make_data`, from files that are listed already; only rank 0 needs `directory`."""
    check_same_files(world, corpora)
    with agreement(world):
        _check_separator(config, tokenizer)
        items = own_items(world, corpus_items(config, corpora, tokenizer.pretokenizer.safe_cut, piece_bytes))
        encoded = _encode_all(config, tokenizer, items, corpora.num_bytes // world.size, world)
        if world.is_main:
            with (reporter or SilentReporter()).bar(corpora.num_bytes, "B", "encoding") as bar:
                _write_all(config, corpora, tokenizer, directory, _in_order(world, encoded, tokenizer), bar)
        else:
            deque(_in_order(world, encoded, tokenizer), maxlen=0)


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
    directory: Path,
    encoded: Iterable[Encoded],
    bar: Bar,
) -> None:
    left = corpora.num_bytes
    with contextlib.ExitStack() as stack:
        writers = _open_writers(stack, config, corpora, tokenizer, directory)
        for num_read, parts in encoded:
            for split, ids, num_documents, num_bytes in parts:
                writers[split].write(ids, num_documents=num_documents, num_bytes=num_bytes)
            bar.update(num_read)
            left -= num_read
        bar.update(left)  # what was passed over: separators, byte order marks
        for split, writer in writers.items():
            if not writer.num_tokens:
                raise nothing_left(config, split)


def _in_order(world: World, own: Iterator[Encoded], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """On rank 0 what all ranks have encoded, in the order of the text; on the others nothing."""
    if world.size == 1:
        return own
    received = gathered(world, map(_to_bytes, blocks(own)))
    return (_from_bytes(data, tokenizer.dtype) for data in received)


def _to_bytes(block: Sequence[Encoded]) -> bytes:
    """A block of work as one: bytes read; of each split its ids, documents, bytes of text; and the ids."""
    numbers, contents = [sum(num_read for num_read, _ in block)], []
    for split in (TRAIN, VAL):
        parts = [part for _, parts in block for part in parts if part.split == split]
        numbers.append(sum(part.ids.size for part in parts))
        numbers.append(sum(part.num_documents for part in parts))
        numbers.append(sum(part.num_bytes for part in parts))
        contents += [part.ids.tobytes() for part in parts]
    return b"".join([np.array(numbers, np.int64).tobytes(), *contents])


def _from_bytes(data: bytes, dtype: np.dtype[np.unsignedinteger[Any]]) -> Encoded:
    num_read, *numbers = np.frombuffer(data, np.int64, count=7).tolist()
    ids = np.frombuffer(data, dtype, offset=7 * 8)
    train, val = Tokens(TRAIN, ids[: numbers[0]], *numbers[1:3]), Tokens(VAL, ids[numbers[0] :], *numbers[4:])
    return num_read, [tokens for tokens in (train, val) if tokens.num_documents or tokens.ids.size]


def corpus_items(
    config: CorpusConfig, corpora: Corpora, safe_cut: SafeCut, piece_bytes: int = PIECE_BYTES
) -> Iterator[Item]:
    """The whole corpus as items of work, in order."""
    parts = regions(config, corpora)
    return work_items((p for part in parts for p in pieces(part, config, safe_cut, piece_bytes)), piece_bytes)


def encode_item(tokenizer: Tokenizer, config: CorpusConfig, item: Item) -> Encoded:
    """Read and encode one item of work, in any process: bytes read, and tokens for each split."""
    documents = [document for piece in item for document in documents_of(piece, config)]
    parts = []
    for split in (TRAIN, VAL):
        own = [document for document in documents if document.split == split]
        num_bytes = sum(len(document.utf8) for document in own)
        if own:
            ids = _encode(tokenizer, own, config.document_separator)
            parts.append(Tokens(split, ids, sum(document.is_end for document in own), num_bytes))
    return sum(piece.stop - piece.start for piece in item), parts


def _encode(tokenizer: Tokenizer, documents: Sequence[Document], separator: str) -> Ids:
    """The ids of documents in order, each that ends followed by the separator's id."""
    if separator and stands_alone(separator, tokenizer.special_token_ids):
        # One call instead of one a document: the separator is a special token, so nothing merges across it.
        ends = separator.encode()
        return tokenizer.encode_utf8(b"".join(part.utf8 + ends * part.is_end for part in documents))
    end = np.array([tokenizer.special_token_ids[separator]] if separator else [], tokenizer.dtype)
    arrays = [(tokenizer.encode_utf8(part.utf8), end[: part.is_end]) for part in documents]
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
        raise DataError(
            f'[data].document_separator: {what}; add it to [tokenizer].special_tokens, or take ""'
        )


def _open_writers(
    stack: contextlib.ExitStack, config: CorpusConfig, corpora: Corpora, tokenizer: Tokenizer, directory: Path
) -> dict[Split, TokenWriter]:
    # What is opened last is committed first: where train.memmap is whole, val.memmap is too.
    sources = {TRAIN: corpora.main.sources, VAL: (corpora.validation or corpora.main).sources}
    made_from = {**settings(config), **corpora.summary()}
    writers: dict[Split, TokenWriter] = {}
    for split, path in zip(_splits(config), token_paths(config, directory), strict=True):
        listed = [{"name": s.name, "num_bytes": s.num_bytes} for s in sources[split][:_MAX_LISTED]]
        writer = TokenWriter.create(path, tokenizer.vocab_size, tokenizer.fingerprint, made_from, listed)
        writers[split] = stack.enter_context(writer)
    return writers
