"""Reading the steps of a `tokenizer.json`: normalizer, pre-tokenizer, decoder and post-processor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import regex

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import DataError
from transformerlm.tokenizer.added_tokens import WORD_CHARACTER
from transformerlm.tokenizer.decode_steps import (
    AlphabetToText,
    Fuse,
    JoinBytes,
    MakeDecodeStep,
    Metaspaces,
    PutSpaces,
    ReplaceInTokens,
    StripBeginning,
)
from transformerlm.tokenizer.form import PretokenStep
from transformerlm.tokenizer.formats.compatibility import find_pattern_fault
from transformerlm.tokenizer.formats.json_file import JsonFile, describe
from transformerlm.tokenizer.splits import Behavior, Split
from transformerlm.tokenizer.text_steps import (
    ByteAlphabet,
    Lowercase,
    Normalize,
    Prepend,
    Replace,
    Strip,
    TextStep,
)

Place = tuple[str | int, ...]

_GPT2_SPELLED_OUT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BLOOM_PATTERN = r" ?[^(\s|.,!?…。，、।۔،)]+"
_SAME_PATTERNS = {
    _GPT2_SPELLED_OUT: GPT2_PATTERN,
    # BLOOM's: a set within a set, which Oniguruma joins to the outer one.
    r" ?[^(\s|[.,!?…。，、।۔،])]+": BLOOM_PATTERN,
}
"""Patterns that the syntax of `regex` has in another way -> the equivalent there."""

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern of Llama 3, and of GPT-4."""
QWEN_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")
_COVERING = (LLAMA3_PATTERN, QWEN_PATTERN)
"""Patterns whose matches leave nothing between them: keeping these alone (Phi-4, OLMo 2) drops nothing."""

# Digits divides a text at numbers first: a number has no space before it, and white space ends before one.
_GPT2_BETWEEN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
GPT2_BETWEEN_DIGITS = _GPT2_BETWEEN.replace("NUMBER", r"\p{N}")
"""The pattern of `Digits` with individual digits and `ByteLevel`, as of SmolLM and StarCoder."""
_GPT2_BETWEEN_NUMBERS = _GPT2_BETWEEN.replace("NUMBER", r"\p{N}+")
_ONE_PATTERN = {
    (Split(r"\p{N}"), Split(GPT2_PATTERN)): GPT2_BETWEEN_DIGITS,
    (Split(r"\p{N}", "contiguous"), Split(GPT2_PATTERN)): _GPT2_BETWEEN_NUMBERS,
}
"""Rows of splits that one pattern is equal to."""

_PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
_WORDS = rf"[{WORD_CHARACTER}]+|[^{WORD_CHARACTER}\s]+"
_BEHAVIORS: dict[str, Behavior] = {
    "Isolated": "isolated",
    "Removed": "removed",
    "MergedWithPrevious": "merged_with_previous",
    "MergedWithNext": "merged_with_next",
    "Contiguous": "contiguous",
}


def places_of(file: JsonFile, key: str, *place: str | int) -> Iterator[Place]:
    """Yield the places of the steps at a place, in order, those of sequences in sequences too.

    Args:
        key: of the steps of a sequence.
    """
    if file.get(*place) is None:
        return
    if file.fields(*place).get("type") != "Sequence":
        yield place
        return
    for index in range(len(file.items(*place, key))):
        yield from places_of(file, key, *place, key, index)


def read_normalizer(file: JsonFile) -> tuple[TextStep, ...]:
    """Return the steps of the normalizer.

    Raises:
        DataError: one that is not supported.
    """
    places = places_of(file, "normalizers", "normalizer")
    return tuple(_read_normalizer(file, *place) for place in places)


def _read_normalizer(file: JsonFile, *place: str | int) -> TextStep:
    fields = file.fields(*place)
    match fields.get("type"):
        case "NFC" | "NFD" | "NFKC" | "NFKD" as form:
            return Normalize(form)
        case "Lowercase":
            return Lowercase()
        case "StripAccents":
            return Replace(r"\p{M}", "")
        case "Strip":
            return Strip(bool(fields.get("strip_left")), bool(fields.get("strip_right")))
        case "Prepend":
            return Prepend(_text(file, *place, "prepend"))
        case "Replace":
            return Replace(_read_pattern(file, *place), _text(file, *place, "content"))
    known = "NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, Replace or a Sequence of them"
    raise file.error(f"expected {known}, got {describe(file.get(*place))}", *place)


def read_pretokenizer(file: JsonFile) -> tuple[PretokenStep, ...]:
    """Return the steps of the pre-tokenizer; rows of splits that one pattern is equal to are that pattern.

    Raises:
        DataError: one that is not supported.
    """
    steps: tuple[PretokenStep, ...] = ()
    for place in places_of(file, "pretokenizers", "pre_tokenizer"):
        own = _read_pretokenizer(file, *place)
        if ByteAlphabet() in steps and not all(isinstance(step, Split) for step in own):
            found = describe(file.get(*place))
            raise file.error(f"expected only divisions of the text after ByteLevel, got {found}", *place)
        steps += tuple(own)
    for row, pattern in _ONE_PATTERN.items():
        if steps[:-1] == row:
            return (Split(pattern), *steps[len(row) :])
    return steps


def _read_pretokenizer(file: JsonFile, *place: str | int) -> list[PretokenStep]:
    fields = file.fields(*place)
    match fields.get("type"):
        case "ByteLevel":
            prefix = [Prepend(" ", unless_there=True)] if fields.get("add_prefix_space", True) else []
            division = [Split(GPT2_PATTERN)] if fields.get("use_regex", True) else []
            return [*prefix, *division, ByteAlphabet()]
        case "Split":
            pattern, behavior = _read_pattern(file, *place), _read_behavior(file, *place)
            invert = bool(fields.get("invert"))
            keeps_all = pattern in _COVERING and (behavior, invert) == ("removed", True)
            return [Split(pattern) if keeps_all else Split(pattern, behavior, invert)]
        case "Digits":
            return [Split(r"\p{N}", "isolated" if fields.get("individual_digits") else "contiguous")]
        case "Punctuation":
            return [Split(_PUNCTUATION, _read_behavior(file, *place))]
        case "Whitespace":
            return [Split(_WORDS, "removed", invert=True)]
        case "WhitespaceSplit":
            return [Split(r"\s", "removed")]
        case "BertPreTokenizer":
            return [Split(r"\s", "removed"), Split(_PUNCTUATION)]
        case "CharDelimiterSplit":
            return [Split(regex.escape(_text(file, *place, "delimiter")), "removed")]
        case "Metaspace":
            return _read_metaspace(file, *place)
    known = "ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace or a Sequence"
    raise file.error(f"expected {known}, got {describe(file.get(*place))}", *place)


def _read_metaspace(file: JsonFile, *place: str | int) -> list[PretokenStep]:
    sign, fields = _text(file, *place, "replacement"), file.fields(*place)
    scheme = prepend_scheme(file, *place)
    steps: list[PretokenStep] = [Replace(" ", sign)]
    if scheme != "never":
        steps.append(Prepend(sign, unless_there=True, first_only=scheme == "first"))
    is_divided = fields.get("split") in (True, None)
    return steps + [Split(regex.escape(sign), "merged_with_next")] * is_divided


def prepend_scheme(file: JsonFile, *place: str | int) -> str:
    """Return when a `Metaspace` puts its sign before a text: "always", "first" or "never"."""
    fields = file.fields(*place)
    given = fields.get("prepend_scheme", "always")
    scheme = "never" if fields.get("add_prefix_space") is False else given
    if scheme not in ("always", "first", "never"):
        raise file.error(f"expected always, first or never, got {describe(given)}", *place, "prepend_scheme")
    return str(scheme)


def _read_behavior(file: JsonFile, *place: str | int) -> Behavior:
    name = file.fields(*place).get("behavior", "Isolated")
    if not isinstance(name, str) or name not in _BEHAVIORS:
        expected = f"expected one of {', '.join(_BEHAVIORS)}, got {describe(name)}"
        raise file.error(expected, *place, "behavior")
    return _BEHAVIORS[name]


def _read_pattern(file: JsonFile, *place: str | int) -> str:
    """Return a "pattern" in the syntax of the `regex` package."""
    fields = file.fields(*place, "pattern")
    if isinstance(fields.get("String"), str):
        return regex.escape(_text(file, *place, "pattern", "String"), special_only=True, literal_spaces=True)
    pattern = fields.get("Regex")
    if not isinstance(pattern, str):
        found = describe(file.get(*place, "pattern"))
        raise file.error(f"expected a Regex or a String, got {found}", *place, "pattern")
    try:
        return pattern_of(pattern)
    except DataError as error:
        raise file.error(str(error), *place, "pattern", "Regex") from None


def pattern_of(expression: str) -> str:
    """Return another program's regular expression in the syntax of the `regex` package.

    Raises:
        DataError: one that may mean something else here.
    """
    if expression in _SAME_PATTERNS:
        return _SAME_PATTERNS[expression]
    what = find_pattern_fault(expression)
    if what:
        raise DataError(what)
    return expression


def _text(file: JsonFile, *place: str | int) -> str:
    found = file.get(*place)
    if not isinstance(found, str) or (not found and place[-1] != "content"):
        raise file.error(f"expected text, got {describe(found)}", *place)
    return found


def read_decoder(file: JsonFile, *, are_bytes: bool) -> tuple[MakeDecodeStep, ...] | None:
    """Return the steps of the decoder; None for `ByteLevel` alone, which joins the bytes of tokens.

    Without a decoder there are spaces between tokens; those that are bytes are joined all the same.

    Args:
        are_bytes: the vocabulary spells bytes in GPT-2's alphabet.

    Raises:
        DataError: one that is not supported.
    """
    places = list(places_of(file, "decoders", "decoder"))
    kinds = [file.fields(*place).get("type") for place in places]
    if kinds == ["ByteLevel"] or (are_bytes and not kinds):
        return None
    if not kinds:
        return (MakeDecodeStep(PutSpaces),)
    steps: list[MakeDecodeStep] = []
    for place, kind in zip(places, kinds, strict=True):
        is_fused = "Fuse" in kinds[: len(steps) + 1]
        steps.append(_read_decoder(file, kind, is_fused, *place))
    return tuple(steps)


def _read_decoder(file: JsonFile, kind: Any, is_fused: bool, *place: str | int) -> MakeDecodeStep:
    fields = file.fields(*place)
    match kind:
        case "ByteLevel":
            return MakeDecodeStep(AlphabetToText)
        case "ByteFallback":
            return MakeDecodeStep(JoinBytes)
        case "Fuse":
            return MakeDecodeStep(Fuse)
        case "Replace" if not is_fused:
            pattern, content = _read_pattern(file, *place), _text(file, *place, "content")
            return MakeDecodeStep(ReplaceInTokens, (pattern, content))
        case "Strip" if not fields.get("stop"):
            number, content = fields.get("start"), _text(file, *place, "content")
            if type(number) is not int or len(content) != 1:
                raise file.error(f"expected a number and a character, got {describe(number)}", *place)
            return MakeDecodeStep(StripBeginning, (content, number, not is_fused))
        case "Metaspace" if not is_fused:
            is_prepended = prepend_scheme(file, *place) != "never"
            return MakeDecodeStep(Metaspaces, (_text(file, *place, "replacement"), is_prepended))
    known = "ByteLevel, ByteFallback, Replace, Fuse, Strip of the beginning, Metaspace or a Sequence of them"
    raise file.error(f"expected {known}, got {describe(file.get(*place))}", *place)


@dataclass(frozen=True)
class PostProcessor:
    """What is done with the ids of a text."""

    before: tuple[str, ...] = ()
    """Special tokens that are put before a text."""
    after: tuple[str, ...] = ()
    trim_offsets: bool = False
    keeps_prefix_space: bool = False


def read_post_processor(file: JsonFile) -> PostProcessor:
    """Return what the post-processor does with a single text; pairs of texts are not encoded here.

    Raises:
        DataError: one that is not supported.
    """
    before: list[str] = []
    after: list[str] = []
    trimming: dict[str, bool] = {}
    for place in places_of(file, "processors", "post_processor"):
        fields = file.fields(*place)
        match fields.get("type"):
            case "ByteLevel":
                own: tuple[list[str], list[str]] = [], []
            case "RobertaProcessing":
                own = [str(*file.items(*place, "cls")[:1])], [str(*file.items(*place, "sep")[:1])]
            case "TemplateProcessing":
                own = _tokens_of_template(file, *place)
            case _:
                known = "ByteLevel, TemplateProcessing, RobertaProcessing or a Sequence of them"
                raise file.error(f"expected {known}, got {describe(file.get(*place))}", *place)
        if fields.get("type") in ("ByteLevel", "RobertaProcessing") and fields.get("trim_offsets", True):
            keeps = bool(fields.get("add_prefix_space", True))
            trimming = {"trim_offsets": True, "keeps_prefix_space": keeps}
        # Each step wraps what the steps before it have made.
        before, after = own[0] + before, after + own[1]
    return PostProcessor(tuple(before), tuple(after), **trimming)


def _tokens_of_template(file: JsonFile, *place: str | int) -> tuple[list[str], list[str]]:
    before: list[str] = []
    after: list[str] = []
    side = before
    for index in range(len(file.items(*place, "single"))):
        item = file.fields(*place, "single", index)
        if "Sequence" in item:
            side = after
        else:
            side.append(str(file.get(*place, "single", index, "SpecialToken", "id")))
    return before, after
