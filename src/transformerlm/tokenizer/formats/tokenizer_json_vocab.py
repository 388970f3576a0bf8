"""Reading the tokens of a `tokenizer.json`: vocabulary, merges and added tokens."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.tokenizer.added_tokens import AddedToken
from transformerlm.tokenizer.bpe import NUM_BYTES, Vocab
from transformerlm.tokenizer.byte_alphabet import (
    BYTES,
    SpelledLines,
    spelled_lines,
    texts_to_tokens,
    token_to_text,
)
from transformerlm.tokenizer.formats.json_file import JsonFile, JsonObject, describe
from transformerlm.tokenizer.formats.text_file import FileError
from transformerlm.tokenizer.listed_merges import ListedMerges
from transformerlm.tokenizer.reachable import MergeIds, merges_of_lines
from transformerlm.tokenizer.token_table import Strings, TokenTable, lines_of

MAX_ID = (1 << 24) - 1
"""Ids need not be 0 to n - 1, but arrays have a place for each up to the largest."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_FLAGS = AddedToken._fields[1:]


@dataclass(frozen=True)
class Tokens:
    """The tokens of a file."""

    vocab: Vocab
    """id -> token: bytes, or the UTF-8 of the text that the file has; added tokens included."""
    merges: MergeIds | ListedMerges
    added: dict[AddedToken, int]
    outside: frozenset[int]
    """Ids of added tokens that the vocabulary of the file lacks."""
    missing: bytes = b""
    """Of bytes: those that are no tokens."""


def read_tokens(file: JsonFile, *, are_bytes: bool) -> Tokens:
    """Read all tokens.

    Args:
        are_bytes: the vocabulary spells bytes in GPT-2's alphabet.

    Raises:
        DataError: tokens that cannot be used.
    """
    ids, spelled = _read_ids(file, are_bytes=are_bytes)
    added = _read_added_tokens(file, ids)
    merges: MergeIds | ListedMerges
    try:
        merges = listed = _read_merges(file, ids, spelled)
    except FileError:
        if are_bytes:  # of a key that is misspelled, merges are missed too
            _bytes_of_keys(file, ids, None, {token.content for token in added})
        raise
    if are_bytes:
        vocab = _bytes_of_keys(file, ids, spelled, _as_they_are(added, ids, listed))
        byte_ids = _byte_ids(ids, vocab)
        merges = ListedMerges(vocab, byte_ids, lambda: listed)
        missing = bytes(np.flatnonzero(byte_ids < 0).tolist())
    else:
        vocab, missing = {number: key.encode() for key, number in ids.items()}, b""
    for token, number in added.items():
        vocab.setdefault(number, token.content.encode())
    if not vocab:
        raise file.error("expected tokens, got none", "model", "vocab")
    outside = frozenset(added.values()).difference(ids.values())
    return Tokens(vocab, merges, added, outside, missing)


def _read_ids(file: JsonFile, *, are_bytes: bool) -> tuple[dict[str, int], SpelledLines | None]:
    """Return key -> id of the model's vocabulary, and what the keys spell.

    The latter is None for a vocabulary of characters, and if a key has others than those of GPT-2's alphabet.
    """
    members = file.members("model", "vocab")
    ids: dict[str, int] = dict(members)
    spelled = spelled_lines("\n".join([*ids, ""])) if are_bytes else None
    if spelled and (len(spelled.spaces) or len(spelled.ends) != len(ids)):
        spelled = None
    if len(ids) == len(members) and _are_ids([*ids.values()]) and (spelled or _is_text("".join(ids))):
        return ids, spelled
    seen: dict[str, int] = {}
    keys: dict[int, str] = {}
    for index, (key, number) in enumerate(members):
        if type(number) is not int or not 0 <= number <= MAX_ID:
            what = f"expected ids from 0 to {MAX_ID}, got {describe(number):.40} for {key!a:.40}"
        elif number in keys:
            what = f"id {number} is given twice, to {keys[number]!a:.40} and {key!a:.40}"
        elif key in seen:
            what = f"token {key!a:.40} is there twice"
        elif _SURROGATE.search(key):
            what = f"expected text, got {key!a:.40}"
        else:
            seen[key], keys[number] = number, key
            continue
        raise file.error(what, "model", "vocab", index)
    raise AssertionError


def _are_ids(numbers: Sequence[Any]) -> bool:
    """Return True if all are different ids."""
    if set(map(type, numbers)) != {int}:
        return not numbers
    if len(numbers) <= MAX_ID and numbers == [*range(len(numbers))]:
        return True
    return len(set(numbers)) == len(numbers) and min(numbers) >= 0 and max(numbers) <= MAX_ID


def _is_text(text: str) -> bool:
    """Return True if there is no surrogate in a text; a search takes many times as long."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_added_tokens(file: JsonFile, ids: Mapping[str, int]) -> dict[AddedToken, int]:
    """Return the added tokens with their ids. Of two with one content the last counts.

    `tokenizers` ignores the "id" of an added token: it uses that of the vocabulary, else the next free one.
    A file in which these differ was not meant so.
    """
    found: dict[str, tuple[AddedToken, int]] = {}
    following = itertools.count(len(ids))
    for index, item in enumerate(file.items("added_tokens")):
        is_usual = type(item) is JsonObject and len(fields := dict(item)) == len(item)
        if not is_usual:
            fields = file.fields_of(item, "added_tokens", index)  # raises an error
        content = fields.get("content")
        if not isinstance(content, str) or not content or not _is_text(content):
            raise file.error(f"expected text, got {describe(content)}", "added_tokens", index, "content")
        known = found[content][1] if content in found else ids.get(content)
        expected = next(following) if known is None else known
        if type(fields.get("id")) is not int or fields["id"] != expected:
            what = f"expected {expected} for {content!a}, got {describe(fields.get('id'))}"
            raise file.error(what, "added_tokens", index, "id")
        token = AddedToken(content, *map(bool, map(fields.get, _FLAGS)))
        found[content] = token, expected
    return dict(found.values())


def _read_merges(file: JsonFile, ids: Mapping[str, int], spelled: SpelledLines | None) -> MergeIds:
    """Return the merges: parts and results are tokens, and no pair occurs twice."""
    merges = file.items("model", "merges")
    found = _merges_at_once(merges, ids, spelled)
    if found is not None:
        return found
    pairs = [_pair(file, index, merge) for index, merge in enumerate(merges)]
    seen: set[tuple[str, str]] = set()
    for index, (left, right) in enumerate(pairs):
        unknown = [token for token in (left, right, left + right) if token not in ids]
        if unknown:
            what = f"{left!a} + {right!a}: {unknown[0]!a} is not in the vocabulary"
            raise file.error(what, "model", "merges", index)
        if (left, right) in seen:
            raise file.error(f"{left!a} + {right!a} is there twice", "model", "merges", index)
        seen.add((left, right))
    rows = [(ids[left], ids[right], ids[left + right]) for left, right in pairs]
    return MergeIds(*np.array(rows, np.int64).reshape(-1, 3).T)


def _merges_at_once(
    merges: Sequence[Any], ids: Mapping[str, int], spelled: SpelledLines | None
) -> MergeIds | None:
    """Return what `_read_merges` does where all is as usual, in a fraction of the time; else None.

    The format has a merge as "a b" or as a list of two.
    """
    kinds = set(map(type, merges)) if ids else set()
    try:
        if kinds == {list} and set(map(len, merges)) == {2}:
            merges = [*map(" ".join, merges)]
        elif kinds != {str}:
            return None
        lines = spelled_lines("\n".join([*merges, ""])) if spelled else None
        if spelled and lines:
            table = TokenTable(Strings.between(spelled.content, spelled.ends), ids.values())
            return merges_of_lines(*lines, table) if len(lines.ends) == len(merges) else None
        content, ends = lines_of(merges)
    except (TypeError, UnicodeEncodeError):
        return None
    spaces = np.flatnonzero(content == ord(" "))
    return merges_of_lines(content, spaces, ends, TokenTable(Strings.between(*lines_of(ids)), ids.values()))


def _pair(file: JsonFile, index: int, merge: Any) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    is_pair = isinstance(parts, list) and len(parts) == 2
    if not is_pair or not (isinstance(parts[0], str) and isinstance(parts[1], str) and all(parts)):
        what = f"expected two tokens with one space between them or in a list, got {describe(merge)}"
        raise file.error(what, "model", "merges", index)
    return parts[0], parts[1]


def _as_they_are(added: Iterable[AddedToken], ids: Mapping[str, int], merges: MergeIds) -> set[str]:
    """Return the keys that stand for themselves: those of added tokens that no merge uses."""
    contents = {token.content for token in added if token.content in ids} - BYTES.keys()
    if not contents:
        return contents
    is_used = np.zeros(max(ids.values()) + 1, bool)
    for part in merges:
        is_used[part] = True
    return {content for content in contents if not is_used[ids[content]]}


def _bytes_of_keys(
    file: JsonFile, ids: Mapping[str, int], spelled_keys: SpelledLines | None, as_they_are: set[str]
) -> Vocab:
    """Return id -> bytes."""
    if spelled_keys:
        text, ends = spelled_keys.content.tobytes(), itertools.pairwise([-1, *spelled_keys.ends.tolist()])
        tokens = [text[before + 1 : end] for before, end in ends]
        own = {ids[key]: key.encode() for key in as_they_are}
        return dict(zip(ids.values(), tokens, strict=True)) | own
    spelled = [key for key in ids if key not in as_they_are] if as_they_are else [*ids]
    try:
        tokens = texts_to_tokens(spelled)
    except ValueError as error:
        wrong = next(key for key in spelled if not BYTES.keys() >= set(key))
        raise file.error(str(error), "model", "vocab", [*ids].index(wrong)) from None
    if not as_they_are:
        return dict(zip(ids.values(), tokens, strict=True))
    following = iter(tokens)
    return {number: key.encode() if key in as_they_are else next(following) for key, number in ids.items()}


def _byte_ids(ids: Mapping[str, int], vocab: Vocab) -> NDArray[np.int64]:
    """Return byte -> id, `[256]`; -1 for a byte that is no token."""
    numbers = [ids.get(token_to_text(bytes([byte])), -1) for byte in range(NUM_BYTES)]
    are_bytes = [vocab.get(number) == bytes([byte]) for byte, number in enumerate(numbers)]
    return np.where(are_bytes, numbers, -1)
