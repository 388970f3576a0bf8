"""Encoding of one item of work: some chunks of a corpus, to the ids of each split."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from transformerlm.config import CorpusConfig
from transformerlm.data.documents import TRAIN, VAL, Chunk, Document, Place, Split, documents_of
from transformerlm.errors import DataError, Key
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.vocabulary import Ids


class SplitTokens(NamedTuple):
    """The ids of one split, and counts of the text that they stand for."""

    split: Split
    ids: Ids
    num_documents: int
    """Documents that end among them."""
    num_bytes: int
    """UTF-8 bytes of their text, separators not counted."""


class EncodedItem(NamedTuple):
    """The result of one item of work."""

    num_read: int
    """Bytes of the corpus' files."""
    num_text: int
    """Bytes of its text: as many, where files are plain."""
    end: Place
    """Place after the item in the corpus."""
    parts: list[SplitTokens]
    """At most one of each split."""


def encode_item(tokenizer: Tokenizer, config: CorpusConfig, item: Sequence[Chunk]) -> EncodedItem:
    """Read and encode one item of work.

    Raises:
        DataError: the text does not have the format that the config describes.
    """
    documents = [document for chunk in item for document in documents_of(chunk, config)]
    parts = []
    for split in (TRAIN, VAL):
        own = [document for document in documents if document.split == split]
        num_bytes = sum(len(document.utf8) for document in own)
        if own:
            ids = _encode(tokenizer, own, config.document_separator)
            parts.append(SplitTokens(split, ids, sum(document.is_end for document in own), num_bytes))
    num_read, num_text = sum(chunk.num_read for chunk in item), sum(chunk.num_bytes for chunk in item)
    return EncodedItem(num_read, num_text, item[-1].end, parts)


def _encode(tokenizer: Tokenizer, documents: Sequence[Document], separator: str) -> Ids:
    """Return the ids of documents in order, each that ends followed by the separator's id."""
    joins = separator and stands_alone(separator, tokenizer.special_token_ids)
    if joins and not any(_hides_special(part, tokenizer) for part in documents):
        # One call instead of one per document: the separator is a special token, so nothing merges across it.
        end = separator.encode()
        return tokenizer.encode_bytes(b"".join(part.utf8 + end * part.is_end for part in documents))
    end_ids = np.array([tokenizer.special_token_ids[separator]] if separator else [], dtype=tokenizer.dtype)
    arrays = [
        (tokenizer.encode_bytes(part.utf8, allowed_special=part.allowed_special), end_ids[: part.is_end])
        for part in documents
    ]
    return np.concatenate([array for pair in arrays for array in pair])


def _hides_special(document: Document, tokenizer: Tokenizer) -> bool:
    """Return True if a special token stands in the document as ordinary text."""
    tokens = tuple(tokenizer.special_token_ids) if document.allowed_special == "none" else ()
    return bool(tokens and _any_of(tokens).search(document.utf8))


@functools.lru_cache
def _any_of(tokens: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(re.escape(token.encode()) for token in tokens))


def stands_alone(separator: str, special_tokens: Iterable[str]) -> bool:
    """Return True if a separator between any two texts is always found there, and no other special token.

    False if another token contains the separator, or a token can begin in the text before the separator and
    end within it. "||" does so itself: in "a|" + "||" the first occurrence is at 1.
    """
    return not any(
        (separator in token and separator != token)
        or any(token.endswith(separator[:length]) for length in range(1, min(len(token), len(separator))))
        for token in special_tokens
    )


def check_separator(config: CorpusConfig, special_tokens: Collection[str]) -> None:
    """Check that the document separator is one of the tokenizer's special tokens.

    Raises:
        DataError: it is not.
    """
    separator = config.document_separator
    if separator and separator not in special_tokens:
        what = f"expected one of the tokenizer's special tokens, {sorted(special_tokens)}, got {separator!r}"
        advice = 'add it to [tokenizer].special_tokens, or take ""'
        raise DataError(f"{what}; {advice}", key=Key("data", "document_separator"))
