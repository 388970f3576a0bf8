"""Checks that other tokenizers interpret a pattern and a list of merges in the same way as this package.

Regular expressions have dialects: this package uses `regex`, Hugging Face's tokenizers Oniguruma, tiktoken
fancy-regex. The check accepts constructs that are known to be interpreted alike and refuses the rest, some of
which may be harmless. Differences between Unicode versions are not checked. Merges are applied in the same
order by Hugging Face's tokenizers and llama.cpp; tiktoken has none and goes by ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import regex

from transformerlm.errors import DataError
from transformerlm.tokenizer.bpe import Merges, Vocab
from transformerlm.tokenizer.reachable import UNMADE, last_merges, reachable_merges
from transformerlm.tokenizer.splits import Pattern
from transformerlm.tokenizer.vocabulary import is_pretoken, merges_are_ordered

# The parts of which an accepted pattern consists.
_PROPERTY = (
    r"\\[pP]\{(?:[LMNPSZ][a-z]?|Arabic|Cyrillic|Greek|Han|Hangul|Hebrew|Hiragana|Katakana|Latin|Thai)\}"
)
_ESCAPE = r"""\\[dDsSnrt]|\\[-\\.^$*+?()\[\]{}|/&~#!@%=:;,"]"""
_IN_SET = r"(?:[^-\[\]\\&~]|&(?!&)|~(?!~))"
_PARTS = [
    r"\\s\+\+\$",  # no line ends behind white space that is all taken: the end of the text for every program
    _PROPERTY,
    _ESCAPE,
    rf"\[\^?(?:{_PROPERTY}|{_ESCAPE}|{_IN_SET}-{_IN_SET}|{_IN_SET})+\]",
    r"\(\?i:(?:(?!ss|st|ff|fl)[a-hj-z'|]|\[[a-hj-z]+\])+\)",
    r"\(\?[:=!>]|\((?!\?)|\)|\|",
    r"[*+?][+?]?|\{\d+(?:,\d*)?\}(?![*+?])",
    r"[^\\\[\](){}*+?|^$]",
]
_IDLE_POSSESSIVE = re.compile(r"\\.|\[(?:\\.|[^\]])*\]|[()]|\{\d+(?:,\d*)?\}\+(?=\||$)")
# Not accepted: \w and \b (Oniguruma counts U+00B2 and others as letters), ^ and $ (they match at every line
# in Oniguruma), {2,3}+ (possessive in regex, repeated in Oniguruma), sets within sets, one-letter properties
# such as \pL, look-behind, flags, references. Ignoring case is accepted in contractions alone: Oniguruma lets
# "ss" match a sharp s and "fl" a ligature, and regex lets "i" match a dotted capital I.
_PART = re.compile("|".join(_PARTS))


class IncompatibleTokenizerError(DataError):
    """A tokenizer that another program cannot represent."""

    def __init__(self, program: str, reason: str) -> None:
        super().__init__(f"{program} cannot hold this tokenizer: {reason}")
        self.program, self.reason = program, reason


def check_pattern(pattern: Pattern, program: str) -> str:
    """Return the pattern; raise `IncompatibleTokenizerError` if it may mean something else to `program`."""
    if not isinstance(pattern, str):
        raise IncompatibleTokenizerError(program, f"text is divided in {len(pattern)} steps here")
    fault = find_pattern_fault(pattern)
    if fault:
        raise IncompatibleTokenizerError(program, f"pattern: {fault}")
    return pattern


def merges_for(program: str, merges: Merges) -> Merges:
    """Return the merges that are ever applied, for a program that goes by the ids of their results.

    Raises:
        IncompatibleTokenizerError: a merge that comes before one that makes a part of it.
    """
    reachable = reachable_merges(merges)
    if not merges_are_ordered(reachable):
        raise IncompatibleTokenizerError(program, "merges: one comes before another that makes a part of it")
    return reachable


def find_pattern_fault(pattern: str) -> str | None:
    """Return why a pre-tokenisation pattern may divide a text differently elsewhere; None if it does not."""
    try:
        regex.compile(pattern)
    except regex.error as error:
        return f"{error}: {pattern}"
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        part = _PART.match(pattern, position)
        if not part:
            what = "may mean something else to another program's regular expressions"
            return f"{pattern[position : position + 12]!r} at character {position} {what}"
        parts.append(part.group())
        position = part.end()
    if _can_be_empty(parts):
        return f"expected that it, and all that is repeated in it, match at least a character: {pattern}"
    return None


def without_idle_possessives(pattern: str) -> str:
    """Return a pattern with `{1,3}` for each `{1,3}+` at the end of an alternative that no group holds.

    Nothing follows that it could give back to, so that both match the same, in every program.
    """
    depth = 0

    def replaced(match: re.Match[str]) -> str:
        nonlocal depth
        part = match.group()
        depth += (part == "(") - (part == ")")
        return part[:-1] if part.startswith("{") and not depth else part

    return _IDLE_POSSESSIVE.sub(replaced, pattern)


def _can_be_empty(parts: Sequence[str]) -> bool:
    """Return True if the pattern or a repeated part of it can match the empty string.

    Lookahead counts as always true.
    """
    taken: list[str] = []
    groups: list[tuple[int, str]] = []
    repeatable = ""
    for part in parts:
        if part == ")":
            start, end = groups.pop()
            taken.append(end)
            repeatable = "".join(taken[start:])
        elif part in ("(", "(?:", "(?>"):
            groups.append((len(taken), ")"))
            taken.append(part)
        elif part in ("(?=", "(?!"):
            groups.append((len(taken), "){0})"))
            taken.append("(?:(?:")
        else:
            if part[0] in "*+?{" and regex.fullmatch(repeatable, ""):
                return True
            taken.append(part)
            repeatable = part
    return bool(regex.fullmatch("".join(taken), ""))


def find_unmade_token(vocab: Vocab, merges: Merges, special_tokens: Iterable[str]) -> bytes | None:
    """Return a token that is not what its own bytes are merged to; None if there is none.

    Without one it makes no difference if a pre-token that is a token is taken as it is (`whole_words`).
    Special tokens, and tokens that no text has as a pre-token, do not count.
    """
    special = {token.encode() for token in special_tokens}
    tokens = [token for token in vocab.values() if token not in special]
    found = last_merges(tokens, merges)
    unmade = (tokens[index] for index in np.flatnonzero(found == UNMADE))
    return next(filter(is_pretoken, unmade), None)
