"""Vocabularies of characters as vocabularies of bytes, which the kernels encode with.

A character that is a token becomes merges of its bytes, which come before all others; a byte that is left
over is the token such as <0xE4> that stands for it. What has been merged of a character that is no token is
divided into its bytes again afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from transformerlm.tokenizer.bpe import NUM_BYTES, Merges, Vocab
from transformerlm.tokenizer.encode_kernels import KernelEncoder
from transformerlm.tokenizer.form import Characters
from transformerlm.tokenizer.pretokenize import Pretokenizer
from transformerlm.tokenizer.reachable import MergeIds
from transformerlm.tokenizer.splits import Pattern
from transformerlm.tokenizer.vocabulary import Ids, id_dtype

_NUM_ASCII = 128


@dataclass(frozen=True)
class ByteVocabulary:
    """A vocabulary of bytes that gives the ids of one of characters, with ids behind those for `parts`."""

    vocab: Vocab
    """id -> bytes, for all ids up to the largest."""
    id_of: Mapping[bytes, int]
    merges: Merges
    parts: tuple[bytes, ...]
    """Beginnings of characters. Their ids are the last ones, in order."""


def byte_tokens(id_of: Mapping[bytes, int], characters: Characters) -> list[int] | None:
    """Return the id of each byte that is no character of its own, `[256]`; None if one of them has none.

    Then there are characters that are unknown.
    """
    tokens = [bytes([byte]) if byte < _NUM_ASCII else b"" for byte in range(NUM_BYTES)]
    found = [id_of.get(b"<0x%02X>" % byte, -1) for byte in range(NUM_BYTES)]
    ids = [id_of.get(token, number) for token, number in zip(tokens, found, strict=True)]
    return ids if characters.byte_fallback and min(ids) >= 0 else None


def byte_vocabulary(
    id_of: Mapping[bytes, int], merges: Merges, characters: Characters, vocab_size: int
) -> ByteVocabulary | None:
    """Return the equivalent of a vocabulary of characters; None if some characters are unknown.

    Args:
        id_of: token -> id; a token is UTF-8.
        merges: of these, in the order in which they were learned.
        vocab_size: number of ids.
    """
    byte_ids = byte_tokens(id_of, characters)
    used = set(itertools.chain.from_iterable(merges))
    if byte_ids is None or not used.isdisjoint(b"<0x%02X>" % byte for byte in range(NUM_BYTES)):
        return None
    single = [token for token in id_of if 2 <= len(token) <= 4 and len(token.decode()) == 1]
    parts = tuple(dict.fromkeys(token[:end] for token in single for end in range(2, len(token))))
    ids = {bytes([byte]): token_id for byte, token_id in enumerate(byte_ids)}
    ids |= {part: vocab_size + index for index, part in enumerate(parts)}
    vocab = dict.fromkeys(range(vocab_size + len(parts)), b"")
    vocab |= {token_id: token for token, token_id in {**id_of, **ids}.items()}
    spelling = [(token[:-1], token[-1:]) for token in (*parts, *single)]
    return ByteVocabulary(vocab, {**id_of, **ids}, [*spelling, *merges], parts)


class CharacterEncoder:
    """Encoder of texts by characters on compiled kernels. Threads may share one.

    Args:
        vocabulary: of bytes.
        special_token_ids: special token -> id.
        dtype: of the arrays that `encode` returns.
        pattern: see `KernelEncoder`.
        whole_words: see `Tokenizer`.
    """

    def __init__(
        self,
        vocabulary: ByteVocabulary,
        special_token_ids: Mapping[str, int],
        dtype: np.dtype[np.unsignedinteger],
        pattern: Pattern,
        *,
        whole_words: bool,
    ) -> None:
        self.dtype = dtype
        parts, number = vocabulary.parts, len(vocabulary.vocab)
        self._first_part = number - len(parts)
        self._sizes = np.array([len(part) for part in parts], np.int64)
        rows = [[vocabulary.id_of[bytes([byte])] for byte in part] + [0] * (3 - len(part)) for part in parts]
        self._bytes = np.array(rows, dtype).reshape(-1, 3)
        self._kernels = KernelEncoder(
            vocabulary.vocab,
            vocabulary.id_of,
            MergeIds.of(vocabulary.merges, vocabulary.id_of),
            special_token_ids,
            id_dtype(number),
            pattern,
            whole_words=whole_words,
        )

    def encode(self, text: str | bytes, pretokenizer: Pretokenizer) -> Ids:
        """Return the ids of a text, or of any bytes; `[num_ids]`.

        Raises:
            DataError: an unpaired surrogate in a text.
        """
        ids = self._kernels.encode(text, pretokenizer)
        is_part = ids >= self._first_part
        if not is_part.any():
            return ids.astype(self.dtype, copy=False)
        parts = ids[is_part].astype(np.int64) - self._first_part
        sizes = np.ones(len(ids), np.int64)
        sizes[is_part] = self._sizes[parts]
        divided = np.repeat(ids, sizes).astype(self.dtype)
        starts = (np.cumsum(sizes) - sizes)[is_part]
        for place in range(3):
            has_byte = self._sizes[parts] > place
            divided[starts[has_byte] + place] = self._bytes[parts[has_byte], place]
        return divided

    def decode_bytes(self, ids: Ids) -> memoryview:
        """Return the concatenated bytes of the tokens of `ids`."""
        return self._kernels.decode_bytes(ids)
