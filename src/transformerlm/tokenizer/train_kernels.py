"""Training on compiled kernels: counting words on threads, and learning merges from the counts.

Equivalent to the plain Python in `train.py` and `bpe.py`. The kernels are in `transformerlm.kernels.bpe`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import DataError
from transformerlm.kernels.bpe_layout import (
    ARENA_BYTES,
    BEGIN,
    FULL,
    GAP,
    MAX_STRETCH,
    NEEDED,
    NONE,
    NUM_TOKENS,
    NUM_WORDS,
    PADDING,
    PAIR,
    POSITION,
    STATE,
    WINDOW,
    WORD_BYTES,
)
from transformerlm.parallel import ordered_map
from transformerlm.tokenizer.bpe import NUM_BYTES, Merges, Progress, Vocab, new_special_tokens
from transformerlm.tokenizer.kernel_library import Arguments, Array, kernels
from transformerlm.tokenizer.kernel_memory import (
    grow_words,
    pattern_arrays,
    special_arrays,
    utf8_buffer,
    window_arrays,
    word_table,
)
from transformerlm.tokenizer.pretokenize import bytes_of
from transformerlm.tokenizer.splits import Pattern

_FIRST_CAPACITY, _FIRST_PAIRS = 1 << 16, 1 << 17  # initial capacities of the tables of words and of pairs
_MAX_STRETCHES = 1 << 19  # largest capacity of the table of stretches: 16 MB, and 2 MB of long ones
_MERGES_PER_CALL = 256  # between two calls progress is reported and Ctrl-C takes effect
_MAX_BYTES = 1 << 31  # places are stored as uint32
_BYTE_PAIRS = 1 << 16  # counters of all pairs of bytes, in arrays that later hold one entry per token


@dataclass(frozen=True)
class WordList:
    """Words and their counts, in order of falling counts."""

    text: Array
    """u8: the bytes of all words, with a gap of one byte before and after each."""
    gaps: Array
    """i64, `[num_words + 1]`: offsets of the gaps in `text`."""
    counts: Array
    """i64, `[num_words]`."""

    @classmethod
    def from_counts(cls, counts: Mapping[str, int] | Mapping[bytes, int]) -> WordList:
        """Convert a mapping pre-token -> count."""
        words = sorted(counts.items(), key=lambda item: -item[1])
        contents: list[bytes] = [word if isinstance(word, bytes) else str(word).encode() for word, _ in words]
        text = b"\0".join([b"", *contents, b""]) if contents else b"\0"
        ends = np.cumsum([len(content) + 1 for content in contents], dtype=np.int64)
        numbers = np.array([count for _, count in words], np.int64)
        return cls(np.frombuffer(text, np.uint8), np.concatenate([np.zeros(1, np.int64), ends]), numbers)

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Yield (word, count)."""
        content = self.text.tobytes()
        for (start, end), count in zip(pairwise(self.gaps.tolist()), self.counts.tolist(), strict=True):
            yield content[start + 1 : end], count


class WordCounter:
    """Counter of pre-tokens, for one thread.

    With an automaton stretches are counted (`kernels/bpe_automaton.py`); each is divided once, when the words
    are asked for or the table is full.

    Args:
        special_tokens: strings that divide a text and are not counted.
        pattern: `patterns.compile_pattern` has an automaton for it.
    """

    def __init__(self, special_tokens: Sequence[str], pattern: Pattern = GPT2_PATTERN) -> None:
        fixed = {**window_arrays(), **pattern_arrays(pattern)}
        fixed |= special_arrays(dict.fromkeys(special_tokens, 0))
        self._state: Array = fixed["state"]  # type: ignore[assignment]
        self._fixed, self._words = fixed, word_table(_FIRST_CAPACITY)
        self._has_stretches = fixed["end_symbol"] != 0
        self._stretches = word_table(_FIRST_CAPACITY if self._has_stretches else 1)
        self._stretch_state = np.zeros(STATE, np.int64)

    def add(self, text: str | bytes) -> int:
        """Count the pre-tokens of a text, or of any bytes, and return the number of bytes."""
        try:
            address, num_bytes = utf8_buffer(text)
        except DataError:
            return self.add(bytes_of(str(text)))  # surrogates may stand for invalid bytes
        given: Arguments = {"text": address, "stop": num_bytes, "stretch_state": self._stretch_state}
        state = self._state
        state[POSITION] = state[BEGIN] = 0
        while True:
            tables = self._words | {f"stretch_{name}": table for name, table in self._stretches.items()}
            if kernels().count(**given, **self._fixed, **tables) != FULL:
                return num_bytes
            if not self._relieve_stretches():
                self._grow(int(state[NUM_WORDS]) + WINDOW, int(state[NEEDED]))

    def absorb(self, other: WordCounter) -> None:
        """Add the counts of another counter."""
        self._settle()
        other._settle()
        self._grow(int(other._state[NUM_WORDS]), int(other._state[ARENA_BYTES]))
        kernels().add_counts(
            other=other._words["table"],
            other_capacity=other._words["capacity"],
            other_arena=other._words["arena"],
            state=self._state,
            keys=self._fixed["keys"],
            **self._words,
        )

    def words(self) -> WordList:
        """Return the words of at least two bytes: nothing merges in shorter ones."""
        self._settle()
        number, num_bytes = int(self._state[NUM_WORDS]), int(self._state[WORD_BYTES])
        table = {"table": self._words["table"]}
        entries, counts = np.empty(number, np.int64), np.empty(number, np.int64)
        number = kernels().list_words(
            **table, capacity=self._words["capacity"], entries=entries, counts=counts
        )
        order = np.argsort(-counts[:number])
        text, gaps = np.empty(num_bytes + number + PADDING, np.uint8), np.empty(number + 1, np.int64)
        end = kernels().write_words(
            **table,
            arena=self._words["arena"],
            entries=entries[order],
            number=number,
            text=text,
            gaps=gaps,
        )
        return WordList(text[:end], gaps, counts[order])

    def _relieve_stretches(self) -> bool:
        """Enlarge or empty the table of stretches if it is full; return False if it is not."""
        state, capacity = self._stretch_state, int(self._stretches["capacity"])
        used, arena_size = int(state[ARENA_BYTES]), int(self._stretches["arena_size"])
        if 2 * state[NUM_WORDS] < capacity and used + MAX_STRETCH + 16 <= arena_size:
            return False
        if capacity < _MAX_STRETCHES:
            grow_words(self._stretches, capacity, 2 * arena_size, used)
        else:
            self._settle()
        return True

    def _settle(self) -> None:
        """Count the words of all stretches, and forget these."""
        position = int(self._state[POSITION])
        self._state[POSITION] = 0
        names = kernels().settle.parameters.keys() & self._fixed.keys()
        fixed = {name: self._fixed[name] for name in names}
        stretches = {f"stretch_{name}": self._stretches[name] for name in ("table", "capacity", "arena")}
        while self._stretch_state[NUM_WORDS]:
            if kernels().settle(**fixed, **self._words, **stretches) != FULL:
                self._stretches["table"][:] = 0  # type: ignore[index]
                self._stretch_state[:] = 0
            else:
                self._grow(int(self._state[NUM_WORDS]) + WINDOW, int(self._state[NEEDED]))
        self._state[POSITION] = position

    def _grow(self, num_words: int, arena_bytes: int) -> None:
        """Enlarge the table for at least `num_words` more words and `arena_bytes` more bytes of long ones."""
        used, num_words = int(self._state[ARENA_BYTES]), int(self._state[NUM_WORDS]) + num_words
        # Plus space for the words of a whole window, whose lengths the kernel does not report.
        grow_words(self._words, num_words, used + arena_bytes + WINDOW + PADDING, used)


def count_words(
    pieces: Iterable[str],
    special_tokens: Sequence[str],
    num_threads: int,
    progress: Progress | None = None,
    pattern: Pattern = GPT2_PATTERN,
) -> WordList:
    """Count the pre-tokens of independent texts on threads.

    Args:
        pieces: the texts.
        special_tokens: strings that divide a text and are not counted.
        num_threads: number of threads.
        progress: called with the bytes of text counted since its last call.
        pattern: see `WordCounter`.
    """
    idle: deque[WordCounter] = deque()

    def count(piece: str) -> int:
        try:
            counter = idle.pop()
        except IndexError:
            counter = WordCounter(special_tokens, pattern)
        num_bytes = counter.add(piece)
        idle.append(counter)
        return num_bytes

    for num_bytes in ordered_map(count, pieces, num_threads, threads=True):
        if progress:
            progress(num_bytes)
    total = idle.pop() if idle else WordCounter(special_tokens, pattern)
    while idle:
        total.absorb(idle.pop())
    return total.words()


def learn_merges(
    words: WordList, vocab_size: int, special_tokens: Sequence[str] = (), progress: Progress | None = None
) -> tuple[Vocab, Merges]:
    """Learn merges on kernels; arguments and result as in `bpe.train_from_counts`.

    Raises:
        ConfigError: the bytes and the special tokens alone exceed `vocab_size`.
        DataError: more than 2 GiB of distinct words.
    """
    tokens = [bytes([byte]) for byte in range(NUM_BYTES)]
    special = new_special_tokens(special_tokens, tokens, vocab_size)
    merges: Merges = []
    learner = _Learner(words, vocab_size)
    while len(tokens) + len(special) < vocab_size:
        wanted = min(len(tokens) + _MERGES_PER_CALL, vocab_size - len(special))
        pairs = learner.learn(wanted)
        for pair in pairs:
            left, right = tokens[pair >> 32], tokens[pair & 0xFFFFFFFF]
            merges.append((left, right))
            tokens.append(left + right)
            special.pop(left + right, None)
        if progress:
            progress(len(pairs))
        if len(tokens) < wanted:
            break
    return dict(enumerate([*tokens, *special])), merges


class _Learner:
    """A corpus and the merges made in it so far, as memory of the kernel `learn_merges`."""

    def __init__(self, words: WordList, vocab_size: int) -> None:
        length = len(words.text)
        if length > _MAX_BYTES:
            raise DataError(f"expected at most {_MAX_BYTES:,} bytes of different words, got {length:,}")
        ids = words.text.astype(np.int32)
        ids[words.gaps] = GAP
        changes = np.flatnonzero(np.diff(words.counts)) + 1 if len(words.counts) else np.zeros(0, np.int64)
        first = np.concatenate([np.zeros(min(1, len(words.counts)), np.int64), changes])
        self._capacity = _FIRST_PAIRS
        self._state = np.zeros(STATE, np.int64)
        self._merges = np.zeros(vocab_size, np.uint64)
        self._pairs = np.full(PAIR * self._capacity, NONE, np.uint64)
        self._heap = np.empty(2 * self._capacity, np.uint64)
        size = max(vocab_size, _BYTE_PAIRS)
        self._fixed: Arguments = {
            "state": self._state,
            "text": words.text,
            "ids": ids,
            "length": length,
            "groups": np.append(words.gaps[first], length),
            "weights": words.counts[first],
            "num_groups": len(first),
            # A place is added to a list when a pair arises there: two bytes at first, then the result of a
            # merge with its right neighbour. Places of the left neighbour reuse those of the merged pair.
            "places": np.empty(2 * length + PADDING, np.uint32),
            "stash": np.empty(3 * length, np.int64),
            "lengths": np.zeros(vocab_size, np.int32),
            "examples": np.zeros(vocab_size, np.int64),
            "prefixes": np.zeros(vocab_size, np.uint64),
            "merges": self._merges,
            **{f"{side}_touched": np.zeros(size, np.int32) for side in ("left", "right")},
            **{f"{side}_weights": np.zeros(size, np.int64) for side in ("left", "right")},
            **{f"{side}_numbers": np.zeros(size, np.int64) for side in ("left", "right")},
        }

    def learn(self, wanted: int) -> list[int]:
        """Merge until there are `wanted` tokens or no pair is left; return the pairs, left << 32 | right."""
        before = max(int(self._state[NUM_TOKENS]), NUM_BYTES)
        tables: dict[str, Any]
        while True:
            tables = {"pairs": self._pairs, "heap": self._heap, "capacity": self._capacity}
            if kernels().learn_merges(wanted=wanted, **self._fixed, **tables) != FULL:
                return self._merges[before : int(self._state[NUM_TOKENS])].tolist()  # type: ignore[no-any-return]
            self._grow()

    def _grow(self) -> None:
        old, old_capacity = self._pairs, self._capacity
        self._capacity *= 2
        self._pairs = np.full(PAIR * self._capacity, NONE, np.uint64)
        kernels().rehash_pairs(old=old, old_capacity=old_capacity, pairs=self._pairs, capacity=self._capacity)
        heap = np.empty(2 * self._capacity, np.uint64)
        heap[: len(self._heap)] = self._heap
        self._heap = heap
