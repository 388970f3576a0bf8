"""Encode one item of work: read some chunks of a corpus and return the ids of each split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transformerlm.config import CorpusConfig
from transformerlm.data.documents import TRAIN, VAL, Document, Piece, Split, documents_of
from transformerlm.errors import DataError
from transformerlm.tokenizer import Tokenizer

Ids = NDArray[np.unsignedinteger[Any]]


class SplitTokens(NamedTuple):
    """The ids of one split, and the text that they stand for."""

    split: Split
    ids: Ids
    num_documents: int
    """Documents that end among them."""
    num_bytes: int
    """UTF-8 bytes of their text, separators not counted."""


class EncodedItem(NamedTuple):
    """The result of one item of work."""

    num_read: int
    """Bytes of the corpus."""
    parts: list[SplitTokens]
    """At most one of each split."""


def encode_item(tokenizer: Tokenizer, config: CorpusConfig, item: Sequence[Piece]) -> EncodedItem:
    """Read and encode one item of work.

    Raises:
        DataError: the text cannot be read as the config says it is.
    """
    documents = [document for piece in item for document in documents_of(piece, config)]
    parts = []
    for split in (TRAIN, VAL):
        own = [document for document in documents if document.split == split]
        num_bytes = sum(len(document.utf8) for document in own)
        if own:
            ids = _encode(tokenizer, own, config.document_separator)
            parts.append(SplitTokens(split, ids, sum(document.is_end for document in own), num_bytes))
    return EncodedItem(sum(piece.stop - piece.start for piece in item), parts)


def _encode(tokenizer: Tokenizer, documents: Sequence[Document], separator: str) -> Ids:
    """Return the ids of documents in order, each that ends followed by the separator's id."""
    if separator and stands_alone(separator, tokenizer.special_token_ids):
        # One call instead of one a document: the separator is a special token, so nothing merges across it.
        end = separator.encode()
        return tokenizer.encode_bytes(b"".join(part.utf8 + end * part.is_end for part in documents))
    end_ids = np.array([tokenizer.special_token_ids[separator]] if separator else [], tokenizer.dtype)
    arrays = [(tokenizer.encode_bytes(part.utf8), end_ids[: part.is_end]) for part in documents]
    return np.concatenate([array for pair in arrays for array in pair])


def stands_alone(separator: str, special_tokens: Iterable[str]) -> bool:
    """Return whether a separator between any two texts is always found there, and no other special token.

    It is not where another token contains the separator, or can begin in the text before it and end within
    it. "||" does the latter to itself: "a|" + "||" begins with "a||".
    """
    return not any(
        (separator in token and separator != token)
        or any(token.endswith(separator[:length]) for length in range(1, min(len(token), len(separator))))
        for token in special_tokens
    )


def check_separator(config: CorpusConfig, tokenizer: Tokenizer) -> None:
    """Check that the tokenizer knows the document separator.

    Raises:
        DataError: it is not one of its special tokens.
    """
    separator, known = config.document_separator, tokenizer.special_token_ids
    if separator and separator not in known:
        what = f"expected one of the tokenizer's special tokens, {sorted(known)}, got {separator!r}"
        raise DataError(
            f'[data].document_separator: {what}; add it to [tokenizer].special_tokens, or take ""'
        )
