"""Byte-pair encoding as it is defined: slow, obvious, and the judge of everything that is quick.

A word (a pre-token) is a tuple of tokens and a token is a byte string; there are no ids here, no
index and no queue. Nothing but tests and `verify.py` uses it.

Source: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units" (2016),
on bytes as in Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

Pair = tuple[bytes, bytes]
Word = tuple[bytes, ...]


def split_bytes(word: str | bytes) -> Word:
    """A word as the tokens it starts from: its bytes, one by one."""
    content = word.encode() if isinstance(word, str) else word
    return tuple(bytes([byte]) for byte in content)


def count_pairs(words: Mapping[Word, int]) -> Counter[Pair]:
    """How often each pair of tokens stands side by side, overlaps included: `a a a` holds two."""
    pairs: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def merge_word(word: Word, pair: Pair) -> Word:
    """The word with every occurrence of `pair` made one token, from left to right."""
    merged: list[bytes] = []
    position = 0
    while position < len(word):
        length = 2 if word[position : position + 2] == pair else 1
        merged.append(b"".join(word[position : position + length]))
        position += length
    return tuple(merged)


def train_slowly(counts: Mapping[str, int] | Mapping[bytes, int], num_merges: int) -> list[Pair]:
    """The first merges of a corpus given as pre-token -> count; fewer where no pair is left.

    Each is the most frequent pair of its moment, and of equally frequent ones the greatest by bytes.
    """
    words: Counter[Word] = Counter()
    for text, count in counts.items():
        words[split_bytes(text)] += count
    merges: list[Pair] = []
    while len(merges) < num_merges:
        pairs = +count_pairs(words)
        if not pairs:
            break
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        words = _merge_all(words, merges[-1])
    return merges


def _merge_all(words: Mapping[Word, int], pair: Pair) -> Counter[Word]:
    merged: Counter[Word] = Counter()
    for word, count in words.items():
        merged[merge_word(word, pair)] += count
    return merged


def encode_slowly(pretoken: str | bytes, merges: Sequence[Pair]) -> Word:
    """The tokens of one pre-token: time and again the earliest-learned pair in it, wherever it stands."""
    rank = {pair: index for index, pair in reversed(list(enumerate(merges)))}
    word = split_bytes(pretoken)
    while True:
        known = [pair for pair in pairwise(word) if pair in rank]
        if not known:
            return word
        word = merge_word(word, min(known, key=rank.__getitem__))
