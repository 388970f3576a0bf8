"""What encoding an item of work gives, and how it travels from rank to rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transformerlm.data.documents import TRAIN, VAL, Split

Ids = NDArray[np.unsignedinteger[Any]]


class Tokens(NamedTuple):
    """Ids for one split."""

    split: Split
    ids: Ids
    num_documents: int
    """Documents that end among them."""
    num_bytes: int
    """UTF-8 bytes of their text."""


class Encoded(NamedTuple):
    """What is made of an item of work, or of several."""

    num_items: int
    num_read: int
    """Bytes of the corpus."""
    parts: list[Tokens]


def to_bytes(block: Sequence[Encoded]) -> bytes:
    """A block of work as one: items, bytes read; of each split its ids, documents, bytes; and the ids."""
    numbers = [sum(encoded.num_items for encoded in block), sum(encoded.num_read for encoded in block)]
    contents = []
    for split in (TRAIN, VAL):
        parts = [part for encoded in block for part in encoded.parts if part.split == split]
        numbers.append(sum(part.ids.size for part in parts))
        numbers.append(sum(part.num_documents for part in parts))
        numbers.append(sum(part.num_bytes for part in parts))
        contents += [part.ids.tobytes() for part in parts]
    return b"".join([np.array(numbers, np.int64).tobytes(), *contents])


def from_bytes(data: bytes, dtype: np.dtype[np.unsignedinteger[Any]]) -> Encoded:
    """The block again, as one, with ids of that type."""
    num_items, num_read, *numbers = np.frombuffer(data, np.int64, count=8).tolist()
    ids = np.frombuffer(data, dtype, offset=8 * 8)
    train, val = Tokens(TRAIN, ids[: numbers[0]], *numbers[1:3]), Tokens(VAL, ids[numbers[0] :], *numbers[4:])
    parts = [tokens for tokens in (train, val) if tokens.num_documents or tokens.ids.size]
    return Encoded(num_items, num_read, parts)
