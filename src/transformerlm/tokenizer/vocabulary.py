"""What makes a vocabulary and a list of merges sound, and what is wrong with one that is not.

Pure checks; the caller says where the fault lies (a line of a file, an argument).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.errors import DataError
from transformerlm.tokenizer.bpe import Merges

Ids = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Fault:
    """The first thing that is wrong with a list of entries."""

    index: int
    """Place in the list; 0 also where nothing particular is to blame."""
    what: str


def vocab_fault(entries: Sequence[tuple[bytes, Any]]) -> Fault | None:
    """What is wrong with (token, id) entries: the ids must be 0 to n - 1, and every byte a token."""
    if _is_sound(entries):
        return None
    seen: dict[int, bytes] = {}
    tokens: set[bytes] = set()
    for index, (token, token_id) in enumerate(entries):
        if type(token_id) is not int or not 0 <= token_id < len(entries):
            expected = f"expected the ids 0 to {len(entries) - 1}, one for each of {len(entries)} tokens"
            return Fault(index, f"{expected}, got {token_id!r:.40} for {token!r}")
        if token_id in seen:
            return Fault(index, f"id {token_id} is given twice, to {seen[token_id]!r} and {token!r}")
        if token in tokens:
            return Fault(index, f"token {token!r} is there twice")
        seen[token_id] = token
        tokens.add(token)
    for byte in range(256):
        if bytes([byte]) not in tokens:
            return Fault(0, f"expected a token for every byte, got none for 0x{byte:02x}")
    return None


def _is_sound(entries: Sequence[tuple[bytes, Any]]) -> bool:
    """Whether nothing is wrong, in a fraction of the time that it takes to say what."""
    if {type(token_id) for _, token_id in entries} != {int}:
        return False
    tokens, ids = {token for token, _ in entries}, {token_id for _, token_id in entries}
    return (
        len(tokens) == len(ids) == len(entries) >= 256
        and (min(ids), max(ids)) == (0, len(ids) - 1)
        and all(bytes([byte]) in tokens for byte in range(256))
    )


def merges_fault(merges: Iterable[tuple[bytes, bytes]], vocab: Mapping[int, bytes]) -> Fault | None:
    """What is wrong with merges: both parts and the result must be tokens, and no pair comes twice."""
    merges, tokens = list(merges), set(vocab.values())
    parts = {part for pair in merges for part in pair}
    if (
        parts <= tokens
        and {left + right for left, right in merges} <= tokens
        and len(set(merges)) == len(merges)
    ):
        return None
    seen: set[tuple[bytes, bytes]] = set()
    for index, (left, right) in enumerate(merges):
        unknown = [token for token in (left, right, left + right) if token not in tokens]
        if unknown:
            return Fault(index, f"{left!r} + {right!r}: {unknown[0]!r} is not in the vocabulary")
        if (left, right) in seen:
            return Fault(index, f"{left!r} + {right!r} is there twice")
        seen.add((left, right))
    return None


def are_in_order(merges: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether each merge makes a new token, of bytes and of what merges before it have made.

    So it is with every list that was learned. Then merging one occurrence at a time, the earliest
    learned pair first, gives what merging all occurrences of a pair at once gives.
    """
    order = {bytes([byte]): -1 for byte in range(256)}
    for rank, (left, right) in enumerate(merges):
        if order.setdefault(left + right, rank) != rank or left not in order or right not in order:
            return False
    return True


def fingerprints(
    pattern: str,
    whole_words: bool,
    special_token_ids: Mapping[str, int],
    tokens: Sequence[bytes],
    merges: Merges,
) -> Iterator[str]:
    """SHA-256, in hexadecimal, of all that decides which ids a text gets.

    The first is today's; where there is a second, the first manifests have it: they knew no whole words.
    """
    for settings in [[pattern, "whole words"]] if whole_words else [[pattern], pattern]:
        digest = hashlib.sha256(json.dumps([settings, sorted(special_token_ids.items())]).encode())
        for part in (tokens, [left for left, _ in merges], [right for _, right in merges]):
            digest.update(np.fromiter(map(len, part), "<u8").tobytes())  # where each begins
            digest.update(b"".join(part))
        yield digest.hexdigest()


def id_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """What ids are kept in: uint16 where the vocabulary allows it, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def no_such_id(found: Any, vocab_size: int) -> DataError:
    """The error for something to decode that is no id."""
    return DataError(f"cannot decode: expected ids from 0 to {vocab_size - 1}, got {found!r:.60}")
