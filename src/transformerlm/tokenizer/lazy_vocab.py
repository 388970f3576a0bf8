"""Vocabularies whose tokens become objects when they are first asked for, which makes loading faster."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

import numpy as np

from transformerlm.tokenizer.bpe import Vocab
from transformerlm.tokenizer.byte_alphabet import SpelledLines, spelled_lines, token_to_text
from transformerlm.tokenizer.token_table import Array, Strings


class LazyVocab:
    """A vocabulary, id -> token, that is made when it is first asked for. Threads may share one.

    Args:
        max_id: its largest id.
        make: returns it, and raises nothing.
    """

    def __init__(self, max_id: int, make: Callable[[], Vocab]) -> None:
        self.max_id = max_id
        self._made: Vocab | Callable[[], Vocab] = make

    def tokens(self) -> Vocab:
        """Return id -> token."""
        made = self._made
        if not isinstance(made, dict):
            self._made = made = made()  # frees what it was made of
        return made


AnyVocab = Vocab | LazyVocab


class SpelledVocab(LazyVocab):
    """A vocabulary of bytes in GPT-2's spelling.

    Args:
        ids: key, as a file spells it -> id; not empty, all ids different.
        numbers: the ids, int64, `[num_keys]`.
        lines: what the keys spell, one on each line.
    """

    @classmethod
    def of(cls, ids: Mapping[str, int], numbers: Array) -> Self | None:
        """Return the vocabulary of keys and their ids; None if there are none or one has other letters."""
        lines = spelled_lines("\n".join([*ids, ""])) if ids else None
        if not lines or len(lines.spaces) or len(lines.ends) != len(ids):
            return None
        return cls(ids, numbers, lines)

    def __init__(self, ids: Mapping[str, int], numbers: Array, lines: SpelledLines) -> None:
        super().__init__(int(numbers.max()), functools.partial(_tokens, ids, lines))
        self.ids, self.numbers = ids, numbers
        self.strings = Strings.between(lines.content, lines.ends)

    def id_of(self, token: bytes) -> int | None:
        """Return the id of a token; None if there is no such token."""
        return self.ids.get(token_to_text(token))


def _tokens(ids: Mapping[str, int], lines: SpelledLines) -> Vocab:
    content, ends = lines.content.tobytes(), itertools.pairwise([-1, *lines.ends.tolist()])
    return dict(zip(ids.values(), [content[before + 1 : end] for before, end in ends], strict=True))


def different_ids(values: Collection[Any]) -> Array | None:
    """Return values as an array, int64, if all are different integers from 0 on, else None."""
    if not {int}.issuperset(map(type, values)):
        return None
    try:
        numbers = np.fromiter(values, np.int64, len(values))
    except OverflowError:
        return None
    are_different = np.array_equal(numbers, np.arange(len(numbers))) or np.diff(np.sort(numbers)).all()
    return numbers if are_different and numbers.min(initial=0) >= 0 else None


def strings_of(vocab: AnyVocab) -> tuple[Strings, Array]:
    """Return the tokens of a vocabulary, and the id of each."""
    if isinstance(vocab, SpelledVocab):
        return vocab.strings, vocab.numbers
    tokens = tokens_of(vocab)
    return Strings.of([*tokens.values()]), np.fromiter(tokens, np.int64, len(tokens))


def tokens_of(vocab: AnyVocab) -> Vocab:
    """Return id -> token."""
    return vocab.tokens() if isinstance(vocab, LazyVocab) else vocab


def max_id_of(vocab: AnyVocab) -> int:
    """Return the largest id of a vocabulary that is not empty."""
    return vocab.max_id if isinstance(vocab, LazyVocab) else max(vocab)
