"""From text to a vocabulary: pre-tokens are counted in parallel, then merges are learned from the counts.

The result is a function of the text alone: not of the number of workers, of the chunks that the text
is read in, of whether the compiled kernels are used, or of anything random.
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

import numpy as np

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import DataError
from transformerlm.parallel import available_cores, ordered_map
from transformerlm.tokenizer import kernel_library, train_kernels
from transformerlm.tokenizer.bpe import Merges, Progress, Vocab, train_from_counts
from transformerlm.tokenizer.pretokenize import Pretokenizer, bytes_of

CHUNK_BYTES = 1 << 20
"""Text that one worker counts at a time; the counts come back as a table of its distinct pre-tokens."""

_PLAIN_BYTES_PER_SECOND = 1e6  # of text, counting and learning
_PLAIN_WORD_BYTES_PER_SECOND = 3e5  # of different words, learning alone
_PART_WORDS = 1 << 18  # that travel together
_LOOKAHEAD = 1 << 25  # characters of an iterator that are kept until it is clear how to go on

StrPath = str | os.PathLike[str]
Words = Counter[bytes] | train_kernels.WordList
"""Pre-tokens, and how often each occurs; in their order is no meaning."""


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
        num_workers: threads that count on the kernels, or processes that do without. None: one per core.
        progress: called with bytes of text counted since its last call.
        merge_progress: called with the number of merges learned since its last call.

    Returns:
        (id -> token, merges in the order learned): what `Tokenizer` takes.

    Raises:
        DataError: a file that cannot be read or is not UTF-8 (its name and the byte's offset).
        ConfigError: when the bytes and the special tokens alone are more than `vocab_size`.
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
    pattern: str = GPT2_PATTERN,
    num_workers: int | None = None,
    progress: Progress | None = None,
    merge_progress: Progress | None = None,
) -> tuple[Vocab, Merges]:
    """Train on texts that are independent of each other: documents, or pieces parted at safe cuts.

    Arguments and result as in `train_bpe`; the texts are drawn one after the other and not kept. Bytes that
    are not UTF-8 may be in them as `bytes.decode(errors="surrogateescape")` has them.
    """
    words = count_words(texts, special_tokens, pattern=pattern, num_workers=num_workers, progress=progress)
    return learn_merges(words, vocab_size, special_tokens, merge_progress)


def count_words(
    texts: Iterable[str],
    special_tokens: Sequence[str],
    *,
    pattern: str = GPT2_PATTERN,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Words:
    """What `learn_merges` needs to know of independent texts: their pre-tokens, and how often each occurs.

    Arguments as in `train_bpe`.
    """
    pretokenizer = Pretokenizer(pattern, special_tokens)
    pieces = chain.from_iterable(pretokenizer.pieces([text], CHUNK_BYTES) for text in texts)
    return _count_all(pieces, pretokenizer, num_workers, CHUNK_BYTES, progress)


def learn_merges(
    words: Words, vocab_size: int, special_tokens: Sequence[str] = (), progress: Progress | None = None
) -> tuple[Vocab, Merges]:
    """`bpe.train_from_counts`, on the kernels where they make it quicker."""
    if isinstance(words, Mapping):
        if not kernel_library.are_worth(sum(map(len, words)) / _PLAIN_WORD_BYTES_PER_SECOND):
            return train_from_counts(words, vocab_size, special_tokens, progress)
        words = train_kernels.WordList.from_counts(words)
    return train_kernels.learn_merges(words, vocab_size, special_tokens, progress)


def words_to_bytes(words: Words) -> Iterator[bytes]:
    """Words and their counts in parts of some megabytes that `sum_words` understands, in any process.

    Each is the number of its words; how often each occurs; where the gaps between them are; and the words,
    with a gap of one byte before and behind each: int64, int64, int64, UTF-8.
    """
    if isinstance(words, Mapping):
        words = train_kernels.WordList.from_counts(words)
    for first in range(0, len(words.counts), _PART_WORDS):
        counts, gaps = words.counts[first : first + _PART_WORDS], words.gaps[first : first + _PART_WORDS + 1]
        text = words.text[gaps[0] : gaps[-1] + 1]
        numbers = np.concatenate([[len(counts)], counts, gaps - gaps[0]])
        yield numbers.astype(np.int64).tobytes() + text.tobytes()


def sum_words(parts: Iterable[bytes]) -> Counter[bytes]:
    """The sum of counts from several processes, or one's: what `words_to_bytes` has made of them."""
    total: Counter[bytes] = Counter()
    for part in parts:
        number = int(np.frombuffer(part, np.int64, 1)[0])
        numbers = np.frombuffer(part, np.int64, 2 * number + 2)
        text = np.frombuffer(part, np.uint8, offset=numbers.nbytes)
        words = train_kernels.WordList(text, gaps=numbers[number + 1 :], counts=numbers[1 : number + 1])
        total.update(dict(words.items()))
    return total


def count_pretokens(
    texts: Iterable[str],
    special_tokens: Sequence[str],
    *,
    pattern: str = GPT2_PATTERN,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Counter[bytes]:
    """How often each pre-token occurs in independent texts, counted in plain Python.

    Arguments as in `train_bpe`.
    """
    pretokenizer = Pretokenizer(pattern, special_tokens)
    pieces = chain.from_iterable(pretokenizer.pieces([text], CHUNK_BYTES) for text in texts)
    return _count_plainly(pieces, pretokenizer, num_workers, CHUNK_BYTES, progress)


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


def _size(path: StrPath) -> int:
    with _open(path) as file:
        return os.fstat(file.fileno()).st_size


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
    pieces: Iterator[str],
    pretokenizer: Pretokenizer,
    num_workers: int | None,
    batch_size: int,
    progress: Progress | None,
    num_bytes: float | None = None,
) -> Words:
    """Count on the kernels if there is enough text, which an iterator's first pieces must tell."""
    head: list[str] = []
    is_fast = False
    if pretokenizer.pattern == GPT2_PATTERN and kernel_library.are_worth(math.inf):
        if num_bytes is None:
            head, num_bytes = _look_ahead(pieces)
        is_fast = kernel_library.are_worth(num_bytes / _PLAIN_BYTES_PER_SECOND)
    pieces = chain(head, pieces)
    if is_fast:
        num_workers = num_workers or available_cores()
        return train_kernels.count_words(pieces, pretokenizer.special_tokens, num_workers, progress)
    return _count_plainly(pieces, pretokenizer, num_workers, batch_size, progress)


def _look_ahead(pieces: Iterator[str]) -> tuple[list[str], float]:
    """The first pieces, and about how much text there is: more than can be looked at is endless."""
    head: list[str] = []
    size = 0
    for piece in pieces:
        head.append(piece)
        size += len(piece)
        if size > _LOOKAHEAD:
            return head, math.inf
        if kernel_library.are_worth(size / _PLAIN_BYTES_PER_SECOND):
            break
    return head, size


def _count_plainly(
    pieces: Iterable[str],
    pretokenizer: Pretokenizer,
    num_workers: int | None,
    batch_size: int,
    progress: Progress | None,
) -> Counter[bytes]:
    batches = _batches(pieces, batch_size)
    # A corpus of one batch is counted here: starting processes costs more than they save.
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


def _count(pretokenizer: Pretokenizer, texts: list[str]) -> tuple[dict[bytes, int], int]:
    counts: Counter[str] = Counter()
    num_bytes = 0
    for text in texts:
        num_bytes += len(bytes_of(text))
        for segment, is_special in pretokenizer.split_special(text):
            if not is_special:
                counts.update(pretokenizer.pretokens(segment))
    return {bytes_of(word): count for word, count in counts.items()}, num_bytes
