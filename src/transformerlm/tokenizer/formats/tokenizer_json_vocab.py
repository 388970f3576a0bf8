"""Reading the tokens of a `tokenizer.json`: vocabulary, merges and added tokens."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from transformerlm.tokenizer.added_tokens import AddedToken
from transformerlm.tokenizer.bpe import NUM_BYTES, Vocab
from transformerlm.tokenizer.byte_alphabet import (
    BYTES,
    spelled_lines,
    texts_to_tokens,
    token_to_text,
)
from transformerlm.tokenizer.formats.json_file import JsonFile, describe
from transformerlm.tokenizer.formats.text_file import FileError
from transformerlm.tokenizer.lazy_vocab import LazyVocab, SpelledVocab, different_ids
from transformerlm.tokenizer.listed_merges import ListedMerges
from transformerlm.tokenizer.reachable import MergeIds, merges_of_lines
from transformerlm.tokenizer.token_table import Array, Strings, TokenTable, lines_of

MAX_ID = (1 << 24) - 1
"""Ids need not be 0 to n - 1, but arrays have a place for each up to the largest."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_FLAGS = AddedToken._fields[1:]
_MEMBERS = [*map(operator.itemgetter, ("id", "content", *_FLAGS))]


@dataclass(frozen=True)
class Tokens:
    """The tokens of a file."""

    vocab: LazyVocab
    """id -> token: bytes, or the UTF-8 of the text that the file has; added tokens included."""
    merges: MergeIds | ListedMerges
    added: dict[AddedToken, int]
    outside: frozenset[int]
    """Ids of added tokens that the vocabulary of the file lacks."""
    ids: Mapping[str, int]
    """Key of that vocabulary -> id."""
    unspelled: Mapping[int, bytes]
    """Tokens that no key spells: those outside, and of bytes those whose key stands for itself."""
    missing: bytes = b""
    """Of bytes: those that are no tokens."""

    @property
    def are_in_a_row(self) -> bool:
        """True if the ids are 0 to n - 1."""
        return self.vocab.max_id == len(self.ids) + len(self.outside) - 1

    @property
    def are_different(self) -> bool:
        """True if no two tokens of bytes are equal. Different keys spell different ones."""
        spelled = {self.ids.get(token_to_text(token)) for token in self.unspelled.values()}
        return self.unspelled.keys() >= spelled - {None}


class _Keys(NamedTuple):
    """Keys of the model's vocabulary."""

    ids: dict[str, int]
    numbers: Array
    """The ids, int64, `[num_keys]`."""
    spelled: SpelledVocab | None
    """The tokens that they spell; None for a vocabulary of characters, and if a key has other letters."""
    texts: Strings | None = None
    """UTF-8 of the keys, if it is known."""

    def table(self) -> TokenTable:
        """Return the ids of the keys."""
        return TokenTable(self.texts or Strings.between(*lines_of(self.ids)), self.numbers)


def read_tokens(file: JsonFile, *, are_bytes: bool) -> Tokens:
    """Read all tokens.

    Args:
        are_bytes: the vocabulary spells bytes in GPT-2's alphabet.

    Raises:
        DataError: tokens that cannot be used.
    """
    keys = _read_keys(file, are_bytes=are_bytes)
    added = _read_added_tokens(file, keys.ids)
    try:
        listed = _read_merges(file, keys)
    except FileError:
        if are_bytes:  # of a key that is misspelled, merges are missed too
            _bytes_of_keys(file, keys, {token.content for token in added})
        raise
    if not keys.ids and not added:
        raise file.error("expected tokens, got none", "model", "vocab")
    as_they_are = _as_they_are(added, keys, listed) if are_bytes else set()
    make = _bytes_of_keys(file, keys, as_they_are) if are_bytes else functools.partial(_texts_of_keys, keys)
    outside = _tokens_outside(added, keys)
    unspelled = {keys.ids[key]: key.encode() for key in as_they_are} | outside
    max_id = max(int(keys.numbers.max(initial=-1)), *outside, -1)
    vocab = LazyVocab(max_id, functools.partial(_joined, make, unspelled))
    others = added, frozenset(outside), keys.ids, unspelled
    if not are_bytes:
        return Tokens(vocab, listed, *others)
    byte_ids = np.array([keys.ids.get(token_to_text(bytes([byte])), -1) for byte in range(NUM_BYTES)])
    missing = bytes(np.flatnonzero(byte_ids < 0).tolist())
    return Tokens(vocab, ListedMerges(vocab, byte_ids, lambda: listed), *others, missing)


def _tokens_outside(added: Mapping[AddedToken, int], keys: _Keys) -> Vocab:
    """Return id -> token of the added tokens whose ids are not in the vocabulary."""
    tokens = {
        number: token.content.encode() for token, number in added.items() if token.content not in keys.ids
    }
    from_there_on = keys.numbers[keys.numbers >= min(tokens, default=MAX_ID + 1)]
    for number in from_there_on.tolist():  # where ids are left out, the next free one may be given already
        tokens.pop(number, None)
    return tokens


def _joined(make: Callable[[], Vocab], others: Vocab) -> Vocab:
    return make() | others


def _texts_of_keys(keys: _Keys) -> Vocab:
    return {number: key.encode() for key, number in keys.ids.items()}


def _read_keys(file: JsonFile, *, are_bytes: bool) -> _Keys:
    """Return the keys of the model's vocabulary with their ids."""
    vocab = file.get("model", "vocab")
    members = vocab if isinstance(vocab, dict) else file.members("model", "vocab")
    ids: dict[str, int] = vocab if isinstance(vocab, dict) else dict(members)
    numbers = different_ids(ids.values())
    if len(ids) == len(members) and numbers is not None and numbers.max(initial=0) <= MAX_ID:
        spelled = SpelledVocab.of(ids, numbers) if are_bytes else None
        if spelled:
            return _Keys(ids, numbers, spelled)
        with contextlib.suppress(UnicodeEncodeError):  # there is a surrogate
            return _Keys(ids, numbers, None, Strings.between(*lines_of(ids)))
    seen: dict[str, int] = {}
    keys: dict[int, str] = {}
    for index, (key, number) in enumerate(file.members("model", "vocab")):
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
    items = file.items("added_tokens")
    at_once = _added_at_once(items, ids)
    if at_once is not None:
        return at_once
    found: dict[str, tuple[AddedToken, int]] = {}
    following = itertools.count(len(ids))
    for index, item in enumerate(items):
        fields = file.fields_of(item, "added_tokens", index)
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


def _added_at_once(items: Sequence[Any], ids: Mapping[str, int]) -> dict[AddedToken, int] | None:
    """Return what `_read_added_tokens` does where all is as usual, in a fraction of the time; else None."""
    try:
        numbers, contents, *flags = ([*map(member, items)] for member in _MEMBERS)
    except (KeyError, TypeError):
        return None
    kinds = [set(map(type, column)) for column in (numbers, contents, itertools.chain(*flags))]
    if any(found - {expected} for found, expected in zip(kinds, (int, str, bool), strict=True)):
        return None
    are_texts = all(contents) and _is_text("".join(contents))
    following = itertools.count(len(ids))
    known = map(ids.get, contents)
    expected = [next(following) if number is None else number for number in known]
    if not are_texts or len(set(contents)) < len(contents) or numbers != expected:
        return None
    # As `AddedToken._make` does, in a third of the time.
    tokens = map(tuple.__new__, itertools.repeat(AddedToken), zip(contents, *flags, strict=True))
    return dict(zip(tokens, expected, strict=True))


def _read_merges(file: JsonFile, keys: _Keys) -> MergeIds:
    """Return the merges: parts and results are tokens, and no pair occurs twice."""
    merges, ids = file.items("model", "merges"), keys.ids
    found = _merges_at_once(merges, keys)
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


def _merges_at_once(merges: Sequence[Any], keys: _Keys) -> MergeIds | None:
    """Return what `_read_merges` does where all is as usual, in a fraction of the time; else None.

    The format has a merge as "a b" or as a list of two.
    """
    spelled = keys.spelled
    if not keys.ids or not merges:
        return None
    try:
        if isinstance(merges[0], list):
            if set(map(type, merges)) != {list} or set(map(len, merges)) != {2}:
                return None
            merges = [*map(" ".join, merges)]
        lines = spelled_lines("\n".join([*merges, ""])) if spelled else None
        if spelled and lines:
            table = TokenTable(spelled.strings, spelled.numbers)
            return merges_of_lines(*lines, table) if len(lines.ends) == len(merges) else None
        content, ends = lines_of(merges)
    except (TypeError, UnicodeEncodeError):
        return None
    return merges_of_lines(content, np.flatnonzero(content == ord(" ")), ends, keys.table())


def _pair(file: JsonFile, index: int, merge: Any) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    is_pair = isinstance(parts, list) and len(parts) == 2
    if not is_pair or not (isinstance(parts[0], str) and isinstance(parts[1], str) and all(parts)):
        what = f"expected two tokens with one space between them or in a list, got {describe(merge)}"
        raise file.error(what, "model", "merges", index)
    return parts[0], parts[1]


def _as_they_are(added: Iterable[AddedToken], keys: _Keys, merges: MergeIds) -> set[str]:
    """Return the keys that stand for themselves: those of added tokens that no merge uses."""
    contents = {token.content for token in added if token.content in keys.ids} - BYTES.keys()
    if not contents:
        return contents
    is_used = np.zeros(keys.numbers.max() + 1, bool)
    for part in merges:
        is_used[part] = True
    return {content for content in contents if not is_used[keys.ids[content]]}


def _bytes_of_keys(file: JsonFile, keys: _Keys, as_they_are: set[str]) -> Callable[[], Vocab]:
    """Return a function that returns id -> bytes, but for those that stand for themselves."""
    if keys.spelled:
        return keys.spelled.tokens
    spelled = {key: number for key, number in keys.ids.items() if key not in as_they_are}
    try:
        tokens = texts_to_tokens([*spelled])
    except ValueError as error:
        wrong = next(key for key in spelled if not BYTES.keys() >= set(key))
        raise file.error(str(error), "model", "vocab", [*keys.ids].index(wrong)) from None
    as_before = dict.fromkeys(keys.ids.values(), b"")
    return lambda: as_before | dict(zip(spelled.values(), tokens, strict=True))
