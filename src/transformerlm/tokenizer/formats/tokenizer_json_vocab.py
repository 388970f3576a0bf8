"""Reading the tokens of a `tokenizer.json`: vocabulary, merges and added tokens."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformerlm.tokenizer.added_tokens import AddedToken
from transformerlm.tokenizer.bpe import NUM_BYTES, Merges, Vocab
from transformerlm.tokenizer.byte_alphabet import BYTES, text_to_token, token_to_text
from transformerlm.tokenizer.formats.json_file import JsonFile, describe

MAX_ID = (1 << 24) - 1
"""Ids need not be 0 to n - 1, but arrays have a place for each up to the largest."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

SpelledMerges = Sequence[tuple[str, str]]
"""Pairs of tokens as the file spells them."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of a file."""

    vocab: Vocab
    """id -> token: bytes, or the UTF-8 of the text that the file has; added tokens included."""
    merges: Merges
    added: dict[AddedToken, int]
    outside: frozenset[int]
    """Ids of added tokens that the vocabulary of the file lacks."""


def read_tokens(file: JsonFile, *, are_bytes: bool) -> Tokens:
    """Read all tokens.

    Args:
        are_bytes: the vocabulary spells bytes in GPT-2's alphabet.

    Raises:
        DataError: tokens that cannot be used.
    """
    ids = _read_ids(file)
    added = _read_added_tokens(file, ids)
    spelled = _read_merges(file)
    if are_bytes:
        contents = {token.content for token in added}
        used = contents & {*itertools.chain(*spelled), *map("".join, spelled), *BYTES}
        of_key = _bytes_of_keys(file, ids, contents - used)
        _check_bytes(file, of_key)
    else:
        of_key = {key: key.encode() for key in ids}
    _check_merges(file, spelled, ids)
    vocab = {number: of_key[key] for key, number in ids.items()}
    merges = [(of_key[left], of_key[right]) for left, right in spelled]
    for token, number in added.items():
        vocab.setdefault(number, token.content.encode())
    return Tokens(vocab, merges, added, frozenset(added.values()).difference(ids.values()))


def _read_ids(file: JsonFile) -> dict[str, int]:
    """Return key -> id of the model's vocabulary."""
    members = file.members("model", "vocab")
    ids = dict(members)
    if set(map(type, ids.values())) <= {int} and not _SURROGATE.search("".join(ids)):
        numbers = set(ids.values())
        if (
            len(numbers) == len(members)
            and min(numbers, default=0) >= 0
            and max(numbers, default=0) <= MAX_ID
        ):
            return ids
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


def _read_added_tokens(file: JsonFile, ids: Mapping[str, int]) -> dict[AddedToken, int]:
    """Return the added tokens with their ids. Of two with one content the last counts.

    `tokenizers` ignores the "id" of an added token: it uses that of the vocabulary, else the next free one.
    A file in which these differ was not meant so.
    """
    found: dict[str, tuple[AddedToken, int]] = {}
    following = itertools.count(len(ids))
    for index, item in enumerate(file.items("added_tokens")):
        fields = file.fields_of(item, "added_tokens", index)
        content = fields.get("content")
        if not isinstance(content, str) or not content or _SURROGATE.search(content):
            raise file.error(f"expected text, got {describe(content)}", "added_tokens", index, "content")
        known = found[content][1] if content in found else ids.get(content)
        expected = next(following) if known is None else known
        if type(fields.get("id")) is not int or fields["id"] != expected:
            what = f"expected {expected} for {content!a}, got {describe(fields.get('id'))}"
            raise file.error(what, "added_tokens", index, "id")
        token = AddedToken(content, **{flag: bool(fields.get(flag)) for flag in _FLAGS})
        found[content] = token, expected
    return dict(found.values())


def _read_merges(file: JsonFile) -> SpelledMerges:
    """Return the merges in the file's spelling. The format has them as "a b" or as lists of two."""
    merges: list[tuple[str, str]] = []
    for index, merge in enumerate(file.items("model", "merges")):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        is_pair = isinstance(parts, list) and len(parts) == 2
        if not is_pair or not (isinstance(parts[0], str) and isinstance(parts[1], str) and all(parts)):
            what = f"expected two tokens with one space between them or in a list, got {describe(merge)}"
            raise file.error(what, "model", "merges", index)
        merges.append((parts[0], parts[1]))
    return merges


def _check_merges(file: JsonFile, merges: SpelledMerges, ids: Mapping[str, int]) -> None:
    """Check that parts and results are tokens, and that no pair occurs twice."""
    tokens = ids.keys()
    are_known = tokens >= set(itertools.chain(*merges)) and tokens >= set(map("".join, merges))
    if are_known and len(set(merges)) == len(merges):
        return
    seen: set[tuple[str, str]] = set()
    for index, (left, right) in enumerate(merges):
        unknown = [token for token in (left, right, left + right) if token not in tokens]
        if unknown:
            what = f"{left!a} + {right!a}: {unknown[0]!a} is not in the vocabulary"
            raise file.error(what, "model", "merges", index)
        if (left, right) in seen:
            raise file.error(f"{left!a} + {right!a} is there twice", "model", "merges", index)
        seen.add((left, right))


def _bytes_of_keys(file: JsonFile, ids: Mapping[str, int], as_they_are: set[str]) -> dict[str, bytes]:
    """Return key -> bytes. Keys of added tokens that no merge uses stand for themselves."""
    try:
        return {key: key.encode() if key in as_they_are else text_to_token(key) for key in ids}
    except ValueError:
        for index, key in enumerate(ids):
            try:
                _ = key in as_they_are or text_to_token(key)
            except ValueError as error:
                raise file.error(str(error), "model", "vocab", index) from None
        raise


def _check_bytes(file: JsonFile, of_key: Mapping[str, bytes]) -> None:
    for byte in range(NUM_BYTES):
        if of_key.get(token_to_text(bytes([byte]))) != bytes([byte]):
            what = f"expected a token for every byte, got none for 0x{byte:02x}"
            raise file.error(what, "model", "vocab")
