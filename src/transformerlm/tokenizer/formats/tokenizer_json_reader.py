"""Reads Hugging Face's `tokenizer.json` where it holds a byte-level BPE, to the ids that it gives there.

The file can ask for much that this package does not do: to change text before it is encoded, to divide
it in several steps, to leave merges out at random. Whatever would change an id is refused in one line
that names it. What stands around a text's own ids is passed over: tokens put before or behind them
(`post_processor`), truncation, padding.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformerlm.config import GPT2_PATTERN
from transformerlm.tokenizer.bpe import NUM_BYTES, MergeRules, Merges, Vocab, apply_merges
from transformerlm.tokenizer.formats.compatibility import one_merge_a_token, pattern_fault
from transformerlm.tokenizer.formats.gpt2_files import text_to_token, token_to_text
from transformerlm.tokenizer.formats.json_file import JsonFile, Place, kind
from transformerlm.tokenizer.vocabulary import merges_fault, vocab_fault

TOKENIZER_JSON = "tokenizer.json"

_GPT2_SPELLED_OUT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# GPT-2's pattern between numbers, which stand alone: none takes a space along, white space ends before it.
_GPT2_BETWEEN_NUMBERS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"

# Settings of the model, and the values with which it does what ours does. What it does with unknown
# characters does not matter: every byte is a token, as is checked, and so nothing is unknown.
_USUAL = {
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
}

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class TokenizerParts:
    """All that makes a tokenizer, checked."""

    vocab: Vocab
    merges: Merges
    special_tokens: list[str]
    pattern: str
    whole_words: bool
    """Whether a pre-token that is a token is that token, whatever merges make of it."""


class _AddedToken(NamedTuple):
    content: str
    token_id: Any
    is_normalized: bool


def read_tokenizer_json(path: str | Path) -> TokenizerParts:
    """Read a `tokenizer.json`; ids are those of `encode(text, add_special_tokens=False)` there.

    Every added token, special or not, is a special token here: both are found wherever they stand.

    Raises:
        DataError: `file:line: what`, for a damaged file and for one that asks for what we do not do.
    """
    file = JsonFile(path)
    _check_settings(file)
    pattern = _read_pattern(file)
    added = _read_added_tokens(file)
    spelled = _read_merges(file)
    vocab = _read_vocab(file, added, spelled)
    merges = _settle_merges(file, spelled, vocab)
    whole_words = bool(file.get("model", "ignore_merges")) and _needs_whole_words(vocab, merges, added)
    return TokenizerParts(vocab, merges, [token.content for token in added], pattern, whole_words)


def _check_settings(file: JsonFile) -> None:
    model = file.fields("model")
    if model.get("type", "BPE") != "BPE":
        raise file.fault(f"expected BPE, got {kind(model['type'])}", "model", "type")
    for name, allowed in _USUAL.items():
        if model.get(name) not in allowed:
            what = f"expected {' or '.join(map(kind, allowed))}, got {kind(model[name])}"
            raise file.fault(f"{what}: this package has nothing like it", "model", name)
    if file.get("version") not in ("1.0", None):
        raise file.fault(f'expected "1.0", got {kind(file.get("version"))}', "version")
    normalizer, decoder = file.get("normalizer"), file.get("decoder")
    if normalizer is not None and file.fields("normalizer").get("normalizers") != []:
        what = f"expected null, got {kind(normalizer)}: text is encoded here as it is"
        raise file.fault(f"{what}; set it to null where your text needs none", "normalizer")
    if decoder is not None and file.fields("decoder").get("type") != "ByteLevel":
        what = f"expected ByteLevel, got {kind(decoder)}: tokens are bytes here"
        raise file.fault(what, "decoder")


def _read_pattern(file: JsonFile) -> str:
    """The one pattern that divides text as all of the file's pre-tokenizers do."""
    places = list(_steps(file, "pre_tokenizer"))
    steps = [file.fields(*place) for place in places]
    kinds = [step.get("type") for step in steps]
    if kinds[-1:] == ["ByteLevel"] and steps[-1].get("add_prefix_space") is not False:
        what = f"expected false, got {kind(steps[-1].get('add_prefix_space'))}: text is encoded here as it is"
        raise file.fault(what, *places[-1], "add_prefix_space")
    match kinds, steps and steps[-1].get("use_regex", True):
        case ["ByteLevel"], True:
            return GPT2_PATTERN
        case ["Digits", "ByteLevel"], True:
            number = r"\p{N}" if steps[0].get("individual_digits") else r"\p{N}+"
            return _GPT2_BETWEEN_NUMBERS.replace("NUMBER", number)
        case ["Split", "ByteLevel"], False:
            return _read_split(file, *places[0])
    what = "expected ByteLevel, alone or after Digits, or one Split and ByteLevel without its own regex"
    found = f"{what}, got {kind(file.get('pre_tokenizer'))}"
    raise file.fault(f"{found}: text is divided here by one pattern", "pre_tokenizer")


def _steps(file: JsonFile, *place: str | int) -> Iterator[tuple[str | int, ...]]:
    """Where the pre-tokenizers are, in the order in which text goes through them."""
    if file.fields(*place).get("type") != "Sequence":
        yield place
        return
    for index in range(len(file.items(*place, "pretokenizers"))):
        yield from _steps(file, *place, "pretokenizers", index)


def _read_split(file: JsonFile, *place: str | int) -> str:
    step = file.fields(*place)
    if step.get("behavior") != "Isolated" or step.get("invert"):
        found = f"{step.get('behavior')!a:.20} and {kind(step.get('invert'))}"
        raise file.fault(f"expected behavior 'Isolated' and invert false, got {found}", *place)
    pattern = file.fields(*place, "pattern").get("Regex")
    if not isinstance(pattern, str):
        raise file.fault(f"expected a Regex, got {kind(file.get(*place, 'pattern'))}", *place, "pattern")
    if pattern == _GPT2_SPELLED_OUT:
        return GPT2_PATTERN
    what = pattern_fault(pattern)
    if what:
        raise file.fault(what, *place, "pattern", "Regex")
    return pattern


def _read_added_tokens(file: JsonFile) -> list[_AddedToken]:
    added: list[_AddedToken] = []
    for index in range(len(file.items("added_tokens"))):
        token = file.fields("added_tokens", index)
        content = token.get("content")
        if not isinstance(content, str) or not content or _SURROGATE.search(content):
            raise file.fault(f"expected text, got {kind(content)}", "added_tokens", index, "content")
        for flag in ("single_word", "lstrip", "rstrip"):
            if token.get(flag):
                what = f"expected false, got true: {content!a} is found here wherever it stands, and alone"
                raise file.fault(what, "added_tokens", index, flag)
        added.append(_AddedToken(content, token.get("id"), bool(token.get("normalized"))))
    _check_overlaps(file, added)
    return added


def _check_overlaps(file: JsonFile, added: Sequence[_AddedToken]) -> None:
    """Where some are normalized, those are looked for in what the others leave; here all are at once."""
    normalized = [token.content for token in added if token.is_normalized]
    as_it_is = [token.content for token in added if not token.is_normalized]
    for one, other in itertools.product(normalized, as_it_is):
        if _can_overlap(one, other):
            what = f"{one!a} and {other!a} overlap, and one is normalized: expected both to be, or neither"
            raise file.fault(what, "added_tokens")


def _can_overlap(one: str, other: str) -> bool:
    """Whether a text can hold both so that they share characters."""
    sizes = range(1, min(len(one), len(other)))
    ends = ((a[-size:], b[:size]) for a, b in ((one, other), (other, one)) for size in sizes)
    return one in other or other in one or any(end == beginning for end, beginning in ends)


def _read_merges(file: JsonFile) -> list[tuple[str, str]]:
    """The merges as the file spells them: "a b", or a list of two."""
    merges: list[tuple[str, str]] = []
    for index, merge in enumerate(file.items("model", "merges")):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        is_pair = isinstance(parts, list) and len(parts) == 2
        if not is_pair or not all(isinstance(part, str) and part for part in parts):
            what = f"expected two tokens with one space between them or in a list, got {kind(merge)}"
            raise file.fault(what, "model", "merges", index)
        merges.append((parts[0], parts[1]))
    return merges


def _read_vocab(file: JsonFile, added: Sequence[_AddedToken], merges: Sequence[tuple[str, str]]) -> Vocab:
    """The model's vocabulary and, after it, the added tokens that are not in it."""
    contents = {token.content for token in added}
    ordinary = {token_to_text(bytes([byte])) for byte in range(NUM_BYTES)}
    ordinary.update(itertools.chain(*merges), map("".join, merges))
    listed = file.members("model", "vocab")
    ids = dict(listed)
    rows: list[tuple[str, Any, Place]] = [
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
            raise file.fault(str(error), *place) from None
    fault = vocab_fault(entries)
    if fault:
        raise file.fault(fault.what, *rows[fault.index][2])
    # There they get the id that they have in the vocabulary, or else the next one, whatever is said here.
    following = itertools.count(len(listed))
    for index, new in enumerate(added):
        expected = ids[new.content] if new.content in ids else next(following)
        if new.token_id != expected:
            what = f"expected {expected} for {new.content!a}, got {kind(new.token_id)}"
            raise file.fault(what, "added_tokens", index, "id")
    return {token_id: token for token, token_id in entries}


def _token_of(key: str, is_added: bool, is_ordinary: bool) -> bytes:
    """The bytes that a key of the vocabulary stands for; ValueError where that is not clear."""
    if not is_added:
        return text_to_token(key)
    if is_ordinary and text_to_token(key) != key.encode():
        what = f"{key!a} is the spelling of {text_to_token(key)!r} and an added token"
        raise ValueError(f"{what}: here these are two tokens, which cannot have one id")
    return key.encode()


def _settle_merges(file: JsonFile, spelled: Sequence[tuple[str, str]], vocab: Vocab) -> Merges:
    merges: Merges = []
    for index, parts in enumerate(spelled):
        try:
            merges.append((text_to_token(parts[0]), text_to_token(parts[1])))
        except ValueError as error:
            raise file.fault(str(error), "model", "merges", index) from None
    fault = merges_fault(merges, vocab)
    kept, order_fault = ([], fault) if fault else one_merge_a_token(merges)
    if order_fault:
        raise file.fault(order_fault.what, "model", "merges", order_fault.index)
    return [merges[index] for index in kept]


def _needs_whole_words(vocab: Vocab, merges: Merges, added: Sequence[_AddedToken]) -> bool:
    """Whether `ignore_merges` changes anything: only for tokens that no merges lead to."""
    id_of = {token: token_id for token_id, token in vocab.items()}
    ranks = {(id_of[left], id_of[right]): rank for rank, (left, right) in enumerate(merges)}
    rules = MergeRules(ranks, [id_of[left + right] for left, right in merges])
    special = {token.content.encode() for token in added}
    return any(
        token not in special
        and apply_merges([id_of[bytes([byte])] for byte in token], rules) != [token_id]
        and token.decode(errors="replace").encode() == token  # else no text has it as a pre-token
        for token, token_id in id_of.items()
    )
