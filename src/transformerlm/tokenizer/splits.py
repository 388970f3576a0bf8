"""Splits: the steps by which a text is divided into pre-tokens, one after the other.

Hugging Face's `tokenizer.json` writes them as a sequence of `Split` pre-tokenizers; its `Digits`,
`Punctuation` and `Whitespace` are splits too. `split_text` is their definition, in plain Python.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import regex

Behavior = Literal["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]
"""What becomes of a match; the names are those of Hugging Face's `tokenizers`, in lower case."""


@dataclass(frozen=True)
class Split:
    """One division of a text by a regular expression."""

    pattern: str
    """In the syntax of the `regex` package."""
    behavior: Behavior = "isolated"
    """isolated: each match, and each text between two matches, is a part. removed: matches are left out.
    merged_with_previous, merged_with_next: a match is joined to the part before or after it, unless that is a
    match too. contiguous: matches that follow each other directly are one part."""
    invert: bool = False
    """What lies between the matches counts as matches, and the matches as what lies between."""


Pattern = str | tuple[Split, ...]
"""A pre-tokenizer: a regular expression, which stands for one isolated split, or several splits in order."""


def splits_of(pattern: str | Sequence[Split]) -> tuple[Split, ...]:
    """Return the splits of a pre-tokenizer."""
    return (Split(pattern),) if isinstance(pattern, str) else tuple(pattern)


def as_pattern(pattern: str | Sequence[Split]) -> Pattern:
    """Return the one form of equal pre-tokenizers: a single isolated split is its regular expression."""
    splits = splits_of(pattern)
    return splits[0].pattern if len(splits) == 1 and splits == splits_of(splits[0].pattern) else splits


def pattern_to_json(pattern: Pattern) -> str | list[list[Any]]:
    """Return a pre-tokenizer as JSON: its regular expression, or a list of [pattern, behavior, invert]."""
    if isinstance(pattern, str):
        return pattern
    return [[split.pattern, split.behavior, split.invert] for split in pattern]


def pattern_from_json(value: str | list[list[Any]]) -> Pattern:
    """Return the pre-tokenizer of a value of `pattern_to_json`."""
    return value if isinstance(value, str) else tuple(Split(*items) for items in value)


def split_text(splits: Sequence[Split], text: str) -> list[str]:
    """Return the pre-tokens of a text: each split divides the parts that the one before it has made."""
    parts = [text] if text else []
    for split in splits:
        parts = [piece for part in parts for piece in _divided(split, part)]
    return parts


def _divided(split: Split, text: str) -> list[str]:
    pieces = _matches_and_gaps(split, text)
    match split.behavior:
        case "isolated":
            groups = [[piece] for piece in pieces]
        case "removed":
            groups = [[piece] for piece in pieces if not piece.is_match]
        case "contiguous":
            groups = [list(group) for _, group in itertools.groupby(pieces, lambda piece: piece.is_match)]
        case "merged_with_previous":
            groups = _with_previous(pieces)
        case "merged_with_next":
            groups = [group[::-1] for group in reversed(_with_previous(pieces[::-1]))]
    parts = ("".join(piece.text for piece in group) for group in groups)
    return [part for part in parts if part]


class _Piece(NamedTuple):
    text: str
    is_match: bool


def _matches_and_gaps(split: Split, text: str) -> list[_Piece]:
    """Return the matches, of which some may be empty, and the texts between them, in order."""
    pieces: list[_Piece] = []
    end = 0
    for found in regex.finditer(split.pattern, text):
        if pieces and found.span() == (end, end):
            continue  # an empty match directly after another is none there
        if found.start() > end:
            pieces.append(_Piece(text[end : found.start()], split.invert))
        pieces.append(_Piece(found[0], not split.invert))
        end = found.end()
    return pieces + [_Piece(text[end:], split.invert)] * (end < len(text))


def _with_previous(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    groups: list[list[_Piece]] = []
    for before, piece in zip([None, *pieces], pieces, strict=False):
        if before and piece.is_match and not before.is_match:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups
