"""Training: pre-tokens are counted in parallel, then merges are learned from the counts.

The result is a function of the text and the arguments alone. It does not depend on the number of workers, the
size of chunks, the use of compiled kernels, or anything random.
"""

from __future__ import annotations

import codecs
import functools
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import DataError
from transformerlm.limits import available_cores
from transformerlm.parallel import ordered_map
from transformerlm.tokenizer import kernel_library, train_kernels
from transformerlm.tokenizer.bpe import Merges, Progress, Vocab, train_from_counts
from transformerlm.tokenizer.formats.text_file import FileError
from transformerlm.tokenizer.patterns.compiled import has_kernels
from transformerlm.tokenizer.pretokenize import Pretokenizer, bytes_of
from transformerlm.tokenizer.splits import Split

CHUNK_BYTES = 1 << 20
"""Bytes of text that a worker counts at a time."""

_PYTHON_BYTES_PER_SECOND = 1e6  # rough speed in plain Python of counting and learning, in bytes of text
_PYTHON_WORD_BYTES_PER_SECOND = 3e5  # and of learning alone, in bytes of distinct words
_LOOKAHEAD = 1 << 25  # characters of an iterator that are kept until it is decided whether kernels are used

StrPath = str | os.PathLike[str]
Words = Counter[bytes] | train_kernels.WordList
"""Pre-tokens and their counts, in any order."""


def train_bpe(
    input_path: StrPath | Sequence[StrPath],
    vocab_size: int,
    special_tokens: Sequence[str],
    *,
    pattern: str | Sequence[Split] = GPT2_PATTERN,
    num_workers: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
    merge_progress: Progress | None = None,
) -> tuple[Vocab, Merges]:
    """Train on a text file, or on several, which are independent: no pre-token extends from one to the next.

    Memory: the distinct pre-tokens of the corpus, and a few chunks of `chunk_bytes`.

    Args:
        input_path: one path or several.
        vocab_size: number of ids: 256 bytes, the results of merges, the special tokens. The vocabulary is
            smaller if the corpus has too few pairs to merge.
        special_tokens: strings that are one id each. They divide the text; nothing is learned from them.
        pattern: pre-tokenization pattern, in the syntax of the `regex` package, or several splits.
        num_workers: number of threads (with kernels) or processes (without) that count. None: one per core.
        chunk_bytes: bytes of text that a worker counts at a time.
        progress: called with the bytes of text counted since its last call.
        merge_progress: called with the number of merges learned since its last call.

    Returns:
        id -> token, and the merges in the order learned: the arguments of `Tokenizer`.

    Raises:
        DataError: a file that cannot be read or is not UTF-8 (with the offset of the byte).
        ConfigError: the bytes and the special tokens alone exceed `vocab_size`.
    """
    paths = [input_path] if isinstance(input_path, str | os.PathLike) else input_path
    pretokenizer = Pretokenizer(pattern, special_tokens)
    pieces = (pretokenizer.pieces(read_text(path, chunk_bytes), chunk_bytes) for path in paths)
    num_bytes = sum(map(_size, paths))
    words = _count_all(
        chain.from_iterable(pieces), pretokenizer, num_workers, chunk_bytes, progress, num_bytes
    )
    return learn_merges(words, vocab_size, special_tokens, merge_progress)


def train_bpe_from_texts(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str],
    *,
    pattern: str | Sequence[Split] = GPT2_PATTERN,
    num_workers: int | None = None,
    progress: Progress | None = None,
    merge_progress: Progress | None = None,
) -> tuple[Vocab, Merges]:
    """Train on independent texts: documents, or the pieces of a text divided at safe cuts.

    Arguments, result and errors as in `train_bpe`. The texts are consumed one by one and not kept. They may
    contain invalid bytes as decoded by `bytes.decode(errors="surrogateescape")`. One text in place of several
    is a DataError.
    """
    words = count_words(texts, special_tokens, pattern=pattern, num_workers=num_workers, progress=progress)
    return learn_merges(words, vocab_size, special_tokens, merge_progress)


def count_words(
    texts: Iterable[str],
    special_tokens: Sequence[str],
    *,
    pattern: str | Sequence[Split] = GPT2_PATTERN,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Words:
    """Count the pre-tokens of independent texts, for `learn_merges`; arguments as in `train_bpe`."""
    if isinstance(texts, str):  # would be a text for each character
        raise DataError(f"expected several texts, such as [text], got {texts!r:.60}")
    pretokenizer = Pretokenizer(pattern, special_tokens)
    pieces = chain.from_iterable(pretokenizer.pieces([text], CHUNK_BYTES) for text in texts)
    return _count_all(pieces, pretokenizer, num_workers, CHUNK_BYTES, progress)


def learn_merges(
    words: Words, vocab_size: int, special_tokens: Sequence[str] = (), progress: Progress | None = None
) -> tuple[Vocab, Merges]:
    """Learn merges from counts, as `bpe.train_from_counts` does, on kernels where they save time."""
    if isinstance(words, Mapping):
        if not kernel_library.should_use(sum(map(len, words)) / _PYTHON_WORD_BYTES_PER_SECOND):
            return train_from_counts(words, vocab_size, special_tokens, progress)
        words = train_kernels.WordList.from_counts(words)
    return train_kernels.learn_merges(words, vocab_size, special_tokens, progress)


def count_pretokens(
    texts: Iterable[str],
    special_tokens: Sequence[str],
    *,
    pattern: str | Sequence[Split] = GPT2_PATTERN,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Counter[bytes]:
    """Count the pre-tokens of independent texts in plain Python; arguments as in `train_bpe`."""
    pretokenizer = Pretokenizer(pattern, special_tokens)
    pieces = chain.from_iterable(pretokenizer.pieces([text], CHUNK_BYTES) for text in texts)
    return _count_in_python(pieces, pretokenizer, num_workers, CHUNK_BYTES, progress)


def read_text(path: StrPath, chunk_bytes: int = CHUNK_BYTES) -> Iterator[str]:
    """Yield the text of a UTF-8 file in chunks of about `chunk_bytes`, line ends unchanged.

    Raises:
        DataError: a file that cannot be read or is not UTF-8 (with the offset of the byte).
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    with _open(path) as file:
        while chunk := file.read(chunk_bytes):
            yield _decode(decoder, chunk, path, position)
            position += len(chunk)
    yield _decode(decoder, b"", path, position)


def _size(path: StrPath) -> int:
    with _open(path) as file:
        return os.fstat(file.fileno()).st_size


def _open(path: StrPath) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise FileError(path, error.strerror or str(error)) from None


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, path: StrPath, position: int) -> str:
    # The decoder holds the first bytes of a character that continues in this chunk.
    kept = len(decoder.getstate()[0])
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        offset = position - kept + error.start
        raise FileError(path, f"not UTF-8 at byte {offset}: {error.reason}") from None


def _count_all(
    pieces: Iterator[str],
    pretokenizer: Pretokenizer,
    num_workers: int | None,
    batch_size: int,
    progress: Progress | None,
    num_bytes: float | None = None,
) -> Words:
    """Count on kernels if there is enough text; of an iterator, the first pieces show whether there is."""
    head: list[str] = []
    with_kernels = False
    if kernel_library.should_use(math.inf) and has_kernels(pretokenizer.pattern):
        if num_bytes is None:
            head, num_bytes = _look_ahead(pieces)
        with_kernels = kernel_library.should_use(num_bytes / _PYTHON_BYTES_PER_SECOND)
    pieces = chain(head, pieces)
    if with_kernels:
        num_workers = num_workers or available_cores()
        special_tokens, pattern = pretokenizer.special_tokens, pretokenizer.pattern
        return train_kernels.count_words(pieces, special_tokens, num_workers, progress, pattern)
    return _count_in_python(pieces, pretokenizer, num_workers, batch_size, progress)


def _look_ahead(pieces: Iterator[str]) -> tuple[list[str], float]:
    """Return the first pieces and an estimate of the amount of text, infinite if beyond `_LOOKAHEAD`."""
    head: list[str] = []
    size = 0
    for piece in pieces:
        head.append(piece)
        size += len(piece)
        if size > _LOOKAHEAD:
            return head, math.inf
        if kernel_library.should_use(size / _PYTHON_BYTES_PER_SECOND):
            break
    return head, size


def _count_in_python(
    pieces: Iterable[str],
    pretokenizer: Pretokenizer,
    num_workers: int | None,
    batch_size: int,
    progress: Progress | None,
) -> Counter[bytes]:
    batches = _batches(pieces, batch_size)
    # A single batch is counted in this process: starting others costs more than they save.
    first = list(islice(batches, 2))
    num_workers = 1 if len(first) < 2 else num_workers or available_cores()
    total: Counter[bytes] = Counter()
    count = functools.partial(_count, pretokenizer)
    for counts, num_bytes in ordered_map(count, chain(first, batches), num_workers):
        total.update(counts)
        if progress:
            progress(num_bytes)
    return total


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Group texts into batches of about `size` characters, so that small ones are not sent one by one."""
    batch: list[str] = []
    length = 0
    for text in texts:
        batch.append(text)
        length += len(text)
        # Half is enough: a piece is a little shorter than `size`, and a second one would double the batch.
        if length > size // 2:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _count(pretokenizer: Pretokenizer, texts: list[str]) -> tuple[dict[bytes, int], int]:
    counts: Counter[str] = Counter()
    num_bytes = 0
    for text in texts:
        num_bytes += len(bytes_of(text))
        for segment, is_special in pretokenizer.split_special(text):
            if not is_special:
                counts.update(pretokenizer.pretokens(segment))
    return {bytes_of(word): count for word, count in counts.items()}, num_bytes
