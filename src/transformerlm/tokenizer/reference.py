"""Definition of byte-pair encoding: slow and obviously correct, the oracle for the fast implementations.

A word (a pre-token) is a tuple of tokens and a token is a byte string; there are no ids, indices or queues.
Used by `verify.py` and by tests only.

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
    """Return the initial tokens of a word: its single bytes."""
    content = word.encode() if isinstance(word, str) else word
    return tuple(bytes([byte]) for byte in content)


def count_pairs(words: Mapping[Word, int]) -> Counter[Pair]:
    """Count adjacent pairs of tokens. Overlapping ones count: `a a a` holds two."""
    pairs: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def merge_word(word: Word, pair: Pair) -> Word:
    """Return the word with every occurrence of `pair` replaced by one token, from left to right."""
    merged: list[bytes] = []
    position = 0
    while position < len(word):
        length = 2 if word[position : position + 2] == pair else 1
        merged.append(b"".join(word[position : position + length]))
        position += length
    return tuple(merged)


def train_slowly(counts: Mapping[str, int] | Mapping[bytes, int], num_merges: int) -> list[Pair]:
    """Learn merges from a corpus given as pre-token -> count; fewer than `num_merges` if no pair is left.

    Each merge is of the most frequent pair at that time, of equally frequent ones the greatest pair of byte
    strings.
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
    """Encode one pre-token: repeatedly merge the leftmost occurrence of its earliest-learned pair.

    With learned merges it makes no difference if all occurrences of the pair are merged at once. With other
    lists, such as every division of every token in two, it may; tokenizers and llama.cpp merge one at a time.
    """
    rank = {pair: index for index, pair in reversed(list(enumerate(merges)))}
    word = split_bytes(pretoken)
    while known := [(rank[pair], place) for place, pair in enumerate(pairwise(word)) if pair in rank]:
        _, place = min(known)
        word = (*word[:place], word[place] + word[place + 1], *word[place + 2 :])
    return word
