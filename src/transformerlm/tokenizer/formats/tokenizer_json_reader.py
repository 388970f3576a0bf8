"""Reading Hugging Face's `tokenizer.json` with a byte-level BPE model: texts get the same ids as there.

The format can express much that this package does not support: changes to the text before it is encoded,
several pre-tokenizers in a row, dropout of merges. A setting that would change an id is an error that names
it. Settings that leave the ids of the text itself alone are ignored: `post_processor` (tokens added before or
after a text), truncation, padding.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformerlm.config import GPT2_PATTERN
from transformerlm.tokenizer.bpe import NUM_BYTES, Merges, Vocab
from transformerlm.tokenizer.formats.compatibility import find_pattern_fault, find_unmade_token, select_merges
from transformerlm.tokenizer.formats.gpt2_files import text_to_token, token_to_text
from transformerlm.tokenizer.formats.json_file import JsonFile, JsonPath, describe
from transformerlm.tokenizer.vocabulary import find_merges_fault, find_vocab_fault

TOKENIZER_JSON = "tokenizer.json"

_GPT2_SPELLED_OUT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Digits divides a text at numbers first: a number has no space before it, and white space ends before one.
_GPT2_BETWEEN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
GPT2_BETWEEN_DIGITS = _GPT2_BETWEEN.replace("NUMBER", r"\p{N}")
"""The pattern of `Digits` with individual digits and `ByteLevel`, as of SmolLM and StarCoder."""
_GPT2_BETWEEN_NUMBERS = _GPT2_BETWEEN.replace("NUMBER", r"\p{N}+")

# Settings of the model, and the values that leave plain BPE. Treatment of unknown characters does not matter:
# every byte is a token (this is checked), so nothing is unknown.
_PLAIN_BPE_SETTINGS = {
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
}

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class TokenizerParts:
    """Arguments of `Tokenizer`, checked."""

    vocab: Vocab
    merges: Merges
    special_tokens: list[str]
    pattern: str
    whole_words: bool
    """True: a pre-token that is a token is not divided, even if the merges do not produce it."""


class _AddedToken(NamedTuple):
    content: str
    token_id: Any
    is_normalized: bool


def read_tokenizer_json(path: str | Path) -> TokenizerParts:
    """Read a `tokenizer.json`; ids will equal those of `encode(text, add_special_tokens=False)` there.

    All added tokens become special tokens, since the format finds both kinds anywhere in a text.

    Raises:
        DataError: a damaged file, or a setting that is not supported; one line, `path:line: reason`.
    """
    file = JsonFile(path)
    _check_settings(file)
    pattern = _read_pattern(file)
    added = _read_added_tokens(file)
    spelled = _read_merges(file)
    vocab = _read_vocab(file, added, spelled)
    merges = _decode_merges(file, spelled, vocab)
    special_tokens = [token.content for token in added]
    whole_words = bool(file.get("model", "ignore_merges"))
    whole_words = whole_words and find_unmade_token(vocab, merges, special_tokens) is not None
    return TokenizerParts(vocab, merges, special_tokens, pattern, whole_words)


def _check_settings(file: JsonFile) -> None:
    model = file.fields("model")
    if model.get("type", "BPE") != "BPE":
        raise file.error(f"expected BPE, got {describe(model['type'])}", "model", "type")
    for name, allowed in _PLAIN_BPE_SETTINGS.items():
        if model.get(name) not in allowed:
            what = f"expected {' or '.join(map(describe, allowed))}, got {describe(model[name])}"
            raise file.error(f"{what}: this package has nothing like it", "model", name)
    if file.get("version") not in ("1.0", None):
        raise file.error(f'expected "1.0", got {describe(file.get("version"))}', "version")
    normalizer, decoder = file.get("normalizer"), file.get("decoder")
    if normalizer is not None and file.fields("normalizer").get("normalizers") != []:
        what = f"expected null, got {describe(normalizer)}: text is encoded here as it is"
        raise file.error(f"{what}; set it to null where your text needs none", "normalizer")
    if decoder is not None and file.fields("decoder").get("type") != "ByteLevel":
        what = f"expected ByteLevel, got {describe(decoder)}: tokens are bytes here"
        raise file.error(what, "decoder")


def _read_pattern(file: JsonFile) -> str:
    """Return one pattern that divides text as the file's pre-tokenizers do together."""
    places = list(_steps(file, "pre_tokenizer"))
    steps = [file.fields(*place) for place in places]
    kinds = [step.get("type") for step in steps]
    if kinds[-1:] == ["ByteLevel"] and steps[-1].get("add_prefix_space") is not False:
        found = describe(steps[-1].get("add_prefix_space"))
        what = f"expected false, got {found}: text is encoded here as it is"
        raise file.error(what, *places[-1], "add_prefix_space")
    match kinds, steps and steps[-1].get("use_regex", True):
        case ["ByteLevel"], True:
            return GPT2_PATTERN
        case ["Digits", "ByteLevel"], True:
            return GPT2_BETWEEN_DIGITS if steps[0].get("individual_digits") else _GPT2_BETWEEN_NUMBERS
        case ["Split", "ByteLevel"], False:
            return _read_split(file, *places[0])
    what = "expected ByteLevel, alone or after Digits, or one Split and ByteLevel without its own regex"
    found = f"{what}, got {describe(file.get('pre_tokenizer'))}"
    raise file.error(f"{found}: text is divided here by one pattern", "pre_tokenizer")


def _steps(file: JsonFile, *place: str | int) -> Iterator[tuple[str | int, ...]]:
    """Yield the places of the pre-tokenizers in the order in which they are applied."""
    if file.fields(*place).get("type") != "Sequence":
        yield place
        return
    for index in range(len(file.items(*place, "pretokenizers"))):
        yield from _steps(file, *place, "pretokenizers", index)


def _read_split(file: JsonFile, *place: str | int) -> str:
    step = file.fields(*place)
    if step.get("behavior") != "Isolated" or step.get("invert"):
        found = f"{step.get('behavior')!a:.20} and {describe(step.get('invert'))}"
        raise file.error(f"expected behavior 'Isolated' and invert false, got {found}", *place)
    pattern = file.fields(*place, "pattern").get("Regex")
    if not isinstance(pattern, str):
        raise file.error(f"expected a Regex, got {describe(file.get(*place, 'pattern'))}", *place, "pattern")
    if pattern == _GPT2_SPELLED_OUT:
        return GPT2_PATTERN
    what = find_pattern_fault(pattern)
    if what:
        raise file.error(what, *place, "pattern", "Regex")
    return pattern


def _read_added_tokens(file: JsonFile) -> list[_AddedToken]:
    added: list[_AddedToken] = []
    for index in range(len(file.items("added_tokens"))):
        token = file.fields("added_tokens", index)
        content = token.get("content")
        if not isinstance(content, str) or not content or _SURROGATE.search(content):
            raise file.error(f"expected text, got {describe(content)}", "added_tokens", index, "content")
        for flag in ("single_word", "lstrip", "rstrip"):
            if token.get(flag):
                what = f"expected false, got true: {content!a} is found here wherever it stands, and alone"
                raise file.error(what, "added_tokens", index, flag)
        added.append(_AddedToken(content, token.get("id"), bool(token.get("normalized"))))
    _check_overlaps(file, added)
    return added


def _check_overlaps(file: JsonFile, added: Sequence[_AddedToken]) -> None:
    """Refuse overlapping tokens of which one is normalized.

    tokenizers searches for normalized ones only between the others; this package searches for all at once.
    """
    normalized = [token.content for token in added if token.is_normalized]
    unchanged = [token.content for token in added if not token.is_normalized]
    for one, other in itertools.product(normalized, unchanged):
        if _can_overlap(one, other):
            what = f"{one!a} and {other!a} overlap, and one is normalized: expected both to be, or neither"
            raise file.error(what, "added_tokens")


def _can_overlap(one: str, other: str) -> bool:
    """Return True if occurrences of both in a text can share characters."""
    sizes = range(1, min(len(one), len(other)))
    ends = ((a[-size:], b[:size]) for a, b in ((one, other), (other, one)) for size in sizes)
    return one in other or other in one or any(end == beginning for end, beginning in ends)


def _read_merges(file: JsonFile) -> list[tuple[str, str]]:
    """Return the merges in the file's spelling. The format has them as "a b" or as lists of two."""
    merges: list[tuple[str, str]] = []
    for index, merge in enumerate(file.items("model", "merges")):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        is_pair = isinstance(parts, list) and len(parts) == 2
        if not is_pair or not all(isinstance(part, str) and part for part in parts):
            what = f"expected two tokens with one space between them or in a list, got {describe(merge)}"
            raise file.error(what, "model", "merges", index)
        merges.append((parts[0], parts[1]))
    return merges


def _read_vocab(file: JsonFile, added: Sequence[_AddedToken], merges: Sequence[tuple[str, str]]) -> Vocab:
    """Return the model's vocabulary, followed by the added tokens that are not in it."""
    contents = {token.content for token in added}
    ordinary = {token_to_text(bytes([byte])) for byte in range(NUM_BYTES)}
    ordinary.update(itertools.chain(*merges), map("".join, merges))
    listed = file.members("model", "vocab")
    ids = dict(listed)
    rows: list[tuple[str, Any, JsonPath]] = [
        (key, token_id, ("model", "vocab", index)) for index, (key, token_id) in enumerate(listed)
    ]
    for index, new in enumerate(added):
        if new.content not in ids:
            rows.append((new.content, new.token_id, ("added_tokens", index, "id")))
    entries: list[tuple[bytes, Any]] = []
    for key, token_id, place in rows:
        try:
            entries.append((_token_of(key, key in contents, key in ordinary), token_id))
        except ValueError as error:
            raise file.error(str(error), *place) from None
    fault = find_vocab_fault(entries)
    if fault:
        raise file.error(fault.what, *rows[fault.index][2])
    # tokenizers ignores the "id" of an added token: it uses that of the vocabulary, else the next free one.
    following = itertools.count(len(listed))
    for index, new in enumerate(added):
        expected = ids[new.content] if new.content in ids else next(following)
        if new.token_id != expected:
            what = f"expected {expected} for {new.content!a}, got {describe(new.token_id)}"
            raise file.error(what, "added_tokens", index, "id")
    return {token_id: token for token, token_id in entries}


def _token_of(key: str, is_added: bool, is_ordinary: bool) -> bytes:
    """Return the bytes of the token that a key of the vocabulary spells; ValueError if it is ambiguous."""
    if not is_added:
        return text_to_token(key)
    if is_ordinary and text_to_token(key) != key.encode():
        what = f"{key!a} is the spelling of {text_to_token(key)!r} and an added token"
        raise ValueError(f"{what}: here these are two tokens, which cannot have one id")
    return key.encode()


def _decode_merges(file: JsonFile, spelled: Sequence[tuple[str, str]], vocab: Vocab) -> Merges:
    """Return the merges as bytes, without those that are known never to be applied."""
    merges: Merges = []
    for index, parts in enumerate(spelled):
        try:
            merges.append((text_to_token(parts[0]), text_to_token(parts[1])))
        except ValueError as error:
            raise file.error(str(error), "model", "merges", index) from None
    fault = find_merges_fault(merges, vocab)
    if fault:
        raise file.error(fault.what, "model", "merges", fault.index)
    kept, order_fault = select_merges(merges)
    return merges if order_fault else [merges[index] for index in kept]
