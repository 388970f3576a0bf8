"""Merges as a file lists them, which may have some that are never applied.

With those a text gets the same ids as without, so that small texts are encoded with the list as it is. Which
are applied is worked out when it is first asked for: by the kernels, for a file or for a fingerprint.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.tokenizer.bpe import NUM_BYTES, MergeRules, Vocab
from transformerlm.tokenizer.lazy_vocab import AnyVocab, tokens_of
from transformerlm.tokenizer.reachable import MergeIds, applied_merges
from transformerlm.tokenizer.token_table import EMPTY, Strings, TokenTable
from transformerlm.tokenizer.vocabulary import is_pretoken


class ListedMerges:
    """A list of merges, of bytes, and those of it that are applied.

    Args:
        vocab: id -> token, of all ids that the merges have.
        byte_ids: byte -> id, `[256]`; -1 for one that is no token.
        listed: returns the list, with each pair once.
    """

    def __init__(self, vocab: AnyVocab, byte_ids: NDArray[Any], listed: Callable[[], MergeIds]) -> None:
        self._vocab, self._byte_ids, self._listed = vocab, byte_ids, listed

    @property
    def applied(self) -> MergeIds:
        """The merges that are ever applied."""
        return self._found[0]

    def leaves_undivided(self, added: Collection[bytes]) -> bool:
        """Return True if a text can have a pre-token that is a token which no merge makes.

        Args:
            added: tokens that do not count.
        """
        return any(is_pretoken(token) and token not in added for token in self._found[1])

    def rules(self) -> MergeRules:
        """Return rules by which every pre-token gets the ids that it gets by those that are applied."""
        return self._listed().rules()

    @functools.cached_property
    def _found(self) -> tuple[MergeIds, tuple[bytes, ...]]:
        return applied_merges(tokens_of(self._vocab), self._listed(), self._byte_ids)


class RankedTokens(ListedMerges):
    """The merges of tiktoken: every division of each token in two, in the order of ids.

    Args:
        ranks: token -> id; every byte is a token, and no two have one id.
    """

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        self._ranks = ranks
        ids = [*ranks.values()]
        if ids == sorted(ids):
            self.vocab = dict(zip(ids, ranks, strict=True))
        else:
            self.vocab = {ranks[token]: token for token in sorted(ranks, key=ranks.__getitem__)}
        byte_ids = np.array([ranks[bytes([byte])] for byte in range(NUM_BYTES)])
        super().__init__(self.vocab, byte_ids, functools.partial(divisions, self.vocab))

    def rules(self) -> MergeRules:
        """Return rules that look up the joined bytes of two tokens, as tiktoken does, without any list."""
        return MergeRules(_RankOfJoined(self._ranks, self.vocab), range(max(self.vocab) + 1))


class _RankOfJoined:
    """Ranks of pairs of tokens: the id of the token that both are together."""

    def __init__(self, ranks: Mapping[bytes, int], tokens: Vocab) -> None:
        self._ranks, self._tokens = ranks, tokens

    def get(self, pair: tuple[int, int], /) -> int | None:
        """Return the rank of a pair of ids."""
        left, right = pair
        return self._ranks.get(self._tokens[left] + self._tokens[right]) if right >= 0 else None


def divisions(vocab: Vocab) -> MergeIds:
    """Return every division of each token into two tokens, in the order of the tokens."""
    strings, ids = Strings.of([*vocab.values()]), np.fromiter(vocab, np.int64)
    table, cuts = TokenTable(strings, ids), np.maximum(strings.sizes - 1, 0)
    wholes = np.repeat(np.arange(len(ids)), cuts)
    sizes = np.arange(1, len(wholes) + 1) - np.repeat(np.cumsum(cuts) - cuts, cuts)
    left = table.find(Strings(strings.content, strings.starts[wholes], sizes))
    is_known = left != EMPTY
    left, wholes, sizes = left[is_known], wholes[is_known], sizes[is_known]
    rest = strings.take(wholes)
    right = table.find(Strings(rest.content, rest.starts + sizes, rest.sizes - sizes))
    is_known = right != EMPTY
    return MergeIds(*(part[is_known] for part in (left, right, ids[wholes])))
