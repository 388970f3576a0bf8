"""From text to a vocabulary: pre-tokens are counted in parallel, then merges are learned from the counts.

The result is a function of the text alone: not of the number of workers, of the chunks that the text
is read in, or of anything random.
"""

from __future__ import annotations

import codecs
import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import DataError
from transformerlm.parallel import available_cores, ordered_map
from transformerlm.tokenizer.bpe import Merges, Progress, Vocab, train_from_counts
from transformerlm.tokenizer.pretokenize import Pretokenizer, utf8

CHUNK_BYTES = 1 << 20
"""Text that one worker counts at a time; the counts come back as a table of its distinct pre-tokens."""

StrPath = str | os.PathLike[str]


def train_bpe(
    input_path: StrPath | Sequence[StrPath],
    vocab_size: int,
    special_tokens: Sequence[str],
    *,
    pattern: str = GPT2_PATTERN,
    num_workers: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
    merge_progress: Progress | None = None,
) -> tuple[Vocab, Merges]:
    """Train on a text file, or on several: each begins anew, nothing merges from one into the next.

    Memory: the distinct pre-tokens of the corpus, and a few chunks of `chunk_bytes`.

    Args:
        vocab_size: ids in all: 256 bytes, the merges' results, the special tokens. Where the corpus
            has too few pairs to merge, the vocabulary is smaller.
        special_tokens: strings that are one id each and part the text; nothing is learned from them.
        num_workers: processes that count. None: one per core.
        progress: called with bytes of text counted since its last call.
        merge_progress: called with 1 after every merge.

    Returns:
        (id -> token, merges in the order learned): what `Tokenizer` takes.

    Raises:
        DataError: a file that cannot be read or is not UTF-8 (its name and the byte's offset).
        ConfigError: when the bytes and the special tokens alone are more than `vocab_size`.
    """
    paths = [input_path] if isinstance(input_path, str | os.PathLike) else input_path
    pretokenizer = Pretokenizer(pattern, special_tokens)
    pieces = (pretokenizer.pieces(read_text(path, chunk_bytes), chunk_bytes) for path in paths)
    counts = _count_all(chain.from_iterable(pieces), pretokenizer, num_workers, chunk_bytes, progress)
    return train_from_counts(counts, vocab_size, special_tokens, merge_progress)


def train_bpe_from_texts(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str],
    *,
    pattern: str = GPT2_PATTERN,
    num_workers: int | None = None,
    progress: Progress | None = None,
    merge_progress: Progress | None = None,
) -> tuple[Vocab, Merges]:
    """Train on texts that are independent of each other: documents, or pieces parted at safe cuts.

    Arguments and result as in `train_bpe`; the texts are drawn one after the other and not kept.
    """
    counts = count_pretokens(
        texts, special_tokens, pattern=pattern, num_workers=num_workers, progress=progress
    )
    return train_from_counts(counts, vocab_size, special_tokens, merge_progress)


def count_pretokens(
    texts: Iterable[str],
    special_tokens: Sequence[str],
    *,
    pattern: str = GPT2_PATTERN,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Counter[str]:
    """How often each pre-token occurs in independent texts: all that training needs to know of them.

    Arguments as in `train_bpe`.
    """
    pretokenizer = Pretokenizer(pattern, special_tokens)
    pieces = chain.from_iterable(pretokenizer.pieces([text], CHUNK_BYTES) for text in texts)
    return _count_all(pieces, pretokenizer, num_workers, CHUNK_BYTES, progress)


def read_text(path: StrPath, chunk_bytes: int = CHUNK_BYTES) -> Iterator[str]:
    """A UTF-8 file's text in chunks of about `chunk_bytes`, line ends as they are in the file.

    Raises:
        DataError: a file that cannot be read, or the offset of its first byte that is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    with _open(path) as file:
        while chunk := file.read(chunk_bytes):
            yield _decode(decoder, chunk, path, position)
            position += len(chunk)
    yield _decode(decoder, b"", path, position)


def _open(path: StrPath) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, path: StrPath, position: int) -> str:
    # The decoder keeps the first bytes of a character that a chunk's end has cut.
    kept = len(decoder.getstate()[0])
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {position - kept + error.start}: {error.reason}"
        ) from None


def _count_all(
    pieces: Iterable[str],
    pretokenizer: Pretokenizer,
    num_workers: int | None,
    batch_size: int,
    progress: Progress | None,
) -> Counter[str]:
    batches = _batches(pieces, batch_size)
    # A corpus of one batch is counted here: starting processes costs more than they save.
    first = list(islice(batches, 2))
    num_workers = 1 if len(first) < 2 else num_workers or available_cores()
    total: Counter[str] = Counter()
    count = functools.partial(_count, pretokenizer)
    for counts, num_bytes in ordered_map(count, chain(first, batches), num_workers):
        total.update(counts)
        if progress:
            progress(num_bytes)
    return total


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Texts in groups of about `size` characters, so that small ones are not sent one by one."""
    batch: list[str] = []
    length = 0
    for text in texts:
        batch.append(text)
        length += len(text)
        # A piece is a little shorter than was asked for, where its cut is; two would be one too many.
        if length > size // 2:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _count(pretokenizer: Pretokenizer, texts: list[str]) -> tuple[dict[str, int], int]:
    counts: Counter[str] = Counter()
    num_bytes = 0
    for text in texts:
        num_bytes += len(utf8(text))
        for segment, is_special in pretokenizer.split_special(text):
            if not is_special:
                counts.update(pretokenizer.pretokens(segment))
    return dict(counts), num_bytes
