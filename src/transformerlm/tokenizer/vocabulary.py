"""Checks of vocabularies and lists of merges, fingerprints, and the definition of a tokenizer.

The checks return a `Fault` and raise nothing: the caller knows the place (a line of a file, an argument).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from transformerlm.errors import DataError
from transformerlm.tokenizer.bpe import NUM_BYTES, Merges, Vocab
from transformerlm.tokenizer.form import Form, MissingBytes
from transformerlm.tokenizer.lazy_vocab import AnyVocab, LazyVocab, SpelledVocab, tokens_of
from transformerlm.tokenizer.pretokenize import Pretokenizer
from transformerlm.tokenizer.splits import Pattern, pattern_to_json

Ids = NDArray[np.unsignedinteger[Any]]
"""Token ids, of shape `[num_ids]`."""


class TokenizerDefinition(Protocol):
    """Everything that the ids of a text depend on, and what is kept for other programs.

    `Tokenizer` implements it; exporters need no more.
    """

    form: Form
    tokenizer_config: Mapping[str, Any]

    @property
    def spelled(self) -> Vocab:
        """id -> token, as the merges have it."""

    @property
    def whole_words(self) -> bool:
        """True: a pre-token that is a token is not divided, even if the merges do not produce it."""

    @property
    def merges(self) -> Merges:
        """Pairs of tokens in the order in which they were learned."""

    @property
    def vocab(self) -> Vocab:
        """id -> the bytes that it stands for."""

    @property
    def special_token_ids(self) -> dict[str, int]:
        """Special token -> id."""

    @property
    def added_token_ids(self) -> dict[str, int]:
        """Added token, special or not -> id."""

    @property
    def pretokenizer(self) -> Pretokenizer:
        """What divides a text into pre-tokens."""


@dataclass(frozen=True)
class Fault:
    """The first error in a list of entries."""

    index: int
    """Index of the entry, or 0 if the list as a whole is wrong."""
    what: str
    """Description of the error, one line."""


def find_vocab_fault(entries: Sequence[tuple[bytes, Any]]) -> Fault | None:
    """Check (token, id) entries: ids are 0 to n - 1, tokens differ, and every byte is a token."""
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
    """Return True if the entries have no fault; much faster than searching for the first one."""
    if {type(token_id) for _, token_id in entries} != {int}:
        return False
    tokens, ids = {token for token, _ in entries}, {token_id for _, token_id in entries}
    return (
        len(tokens) == len(ids) == len(entries) >= 256
        and (min(ids), max(ids)) == (0, len(ids) - 1)
        and all(bytes([byte]) in tokens for byte in range(256))
    )


def find_merges_fault(merges: Iterable[tuple[bytes, bytes]], vocab: Mapping[int, bytes]) -> Fault | None:
    """Check merges: both parts and the result are tokens, and no pair occurs twice."""
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


def checked(vocab: Vocab, merges: Merges) -> Vocab:
    """Return a byte-level vocabulary with the ids 0 to n - 1.

    Raises:
        DataError: another vocabulary, or merges that do not belong to it.
    """
    fault = find_vocab_fault([(token, token_id) for token_id, token in vocab.items()])
    if fault:
        raise DataError(f"vocab: {fault.what}")
    fault = find_merges_fault(merges, vocab)
    if fault:
        raise DataError(f"merges[{fault.index}]: {fault.what}")
    return vocab


def with_special_tokens(vocab: AnyVocab, special_tokens: Sequence[str]) -> tuple[AnyVocab, dict[str, int]]:
    """Return the vocabulary with all special tokens, and their ids: those it lacks get the next free ones."""
    if isinstance(vocab, SpelledVocab):
        found, following = vocab.id_of, itertools.count(vocab.max_id + 1)
        known = {token: found(token.encode()) for token in special_tokens}
        ids = {token: next(following) if number is None else number for token, number in known.items()}
        special = {token_id: token.encode() for token, token_id in ids.items()}
        return LazyVocab(max(vocab.max_id, *special, 0), lambda: vocab.tokens() | special), ids
    tokens = tokens_of(vocab)
    id_of = {token: token_id for token_id, token in tokens.items()}
    ids = {token: id_of.setdefault(token.encode(), len(id_of)) for token in special_tokens}
    return tokens | {token_id: token.encode() for token, token_id in ids.items()}, ids


def ids_of(vocab: Vocab, form: Form) -> dict[bytes, int]:
    """Return token -> id of the model's vocabulary; of equal tokens one that is no added token."""
    added = set(form.added_token_ids.values())
    id_of = {token: token_id for token_id, token in vocab.items() if token_id not in added}
    for token_id in added - form.outside:
        id_of.setdefault(vocab[token_id], token_id)
    return id_of


def byte_ids(id_of: Mapping[bytes, int], missing: MissingBytes | None = None) -> list[int]:
    """Return the id of each byte, `[256]`; -1 for those that are missing."""
    lacking = missing.content if missing else b""
    return [-1 if byte in lacking else id_of[bytes([byte])] for byte in range(NUM_BYTES)]


def merges_are_ordered(merges: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return True if each merge makes a new token out of bytes and results of earlier merges.

    This holds for every list that was learned. Merging one occurrence at a time, the earliest-learned pair
    first, then gives the same tokens as merging all occurrences of a pair at once.
    """
    order = {bytes([byte]): -1 for byte in range(256)}
    for rank, (left, right) in enumerate(merges):
        if order.setdefault(left + right, rank) != rank or left not in order or right not in order:
            return False
    return True


def fingerprints(
    pattern: Pattern,
    whole_words: bool,
    special_token_ids: Mapping[str, int],
    tokens: Sequence[bytes],
    merges: Merges,
) -> Iterator[str]:
    """Yield SHA-256 digests, in hexadecimal, of everything that the ids of a text depend on.

    The first is the current one. A second one, if any, is that of the earliest manifests, from before
    `whole_words`.
    """
    value = pattern_to_json(pattern)
    for settings in [[value, "whole words"]] if whole_words else [[value], value]:
        digest = hashlib.sha256(json.dumps([settings, sorted(special_token_ids.items())]).encode())
        for part in (tokens, [left for left, _ in merges], [right for _, right in merges]):
            digest.update(np.fromiter(map(len, part), "<u8").tobytes())  # marks the boundaries
            digest.update(b"".join(part))
        yield digest.hexdigest()


def form_fingerprint(form: Form, whole_words: bool, tokens: Vocab, merges: Merges) -> str:
    """Return the SHA-256 digest of everything that ids depend on, of a tokenizer that changes its texts."""
    added = sorted((number, *token._replace(special=False)) for token, number in form.added_token_ids.items())
    steps = [form.sections.get(name) for name in ("normalizer", "pre_tokenizer")]
    characters = form.characters and astuple(form.characters)
    parts_of_form = [steps, characters, whole_words, added, sorted(tokens), sorted(form.outside)]
    if form.missing:
        parts_of_form.append([form.missing.unk_token, form.missing.fuse_unk])
    settings = json.dumps(parts_of_form, sort_keys=True)
    digest = hashlib.sha256(settings.encode())
    parts = [token for _, token in sorted(tokens.items())]
    for part in (parts, [left for left, _ in merges], [right for _, right in merges]):
        digest.update(np.fromiter(map(len, part), "<u8").tobytes())  # marks the boundaries
        digest.update(b"".join(part))
    return digest.hexdigest()


def is_pretoken(token: bytes) -> bool:
    """Return True if a text can have the token as a pre-token: it is UTF-8."""
    return token.decode(errors="replace").encode() == token


def id_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the smallest dtype for ids: uint16 up to 65,536 ids, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def unknown_id_error(found: Any, vocab_size: int) -> DataError:
    """Return the error for decoding a value that is not an id of the vocabulary."""
    return DataError(f"cannot decode: expected ids from 0 to {vocab_size - 1}, got {found!r:.60}")


def row_of_ids(ids: Any, vocab_size: int) -> list[int] | Ids:
    """Return ids in the form that programs have them as a list or an array, `[num_ids]`.

    Args:
        ids: an iterable of ids, an array or a tensor of any shape (its rows are joined), one id, or a list
            with one such row in it.
        vocab_size: for the error.

    Raises:
        DataError: anything else, such as a list of several rows.
    """
    if isinstance(ids, np.ndarray):
        if ids.size and ids.dtype.kind not in "iu":
            raise unknown_id_error(ids.flat[0].item(), vocab_size)
        return ids.reshape(-1)
    if hasattr(ids, "reshape"):  # a tensor on any device, a number of NumPy's
        ids = ids.reshape(-1).tolist()
    if isinstance(ids, int):
        return [ids]
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise unknown_id_error(ids, vocab_size)
    row = list(ids)
    if len(row) == 1 and isinstance(row[0], list | tuple | np.ndarray):
        return row_of_ids(row[0], vocab_size)
    try:
        return list(map(operator.index, row))
    except TypeError:
        wrong = next(item for item in row if not hasattr(item, "__index__"))
        raise unknown_id_error(wrong, vocab_size) from None
