"""When do a pattern and a list of merges mean the same to other programs as to this one?

Regular expressions come in dialects: `regex` reads ours, Oniguruma those of Hugging Face's tokenizers,
fancy-regex those of tiktoken. Merges are applied in one order here and in another one there, which is
the same only where no merge waits for a later one. This file knows the common ground of all of them;
what is outside is refused, though it may be harmless. Unicode versions are not its business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

import regex

from transformerlm.tokenizer.bpe import NUM_BYTES, MergeRules, apply_merges
from transformerlm.tokenizer.vocabulary import Fault

Merge = tuple[bytes, bytes]

_PROPERTY = (
    r"\\[pP]\{(?:[LMNPSZ][a-z]?|Arabic|Cyrillic|Greek|Han|Hangul|Hebrew|Hiragana|Katakana|Latin|Thai)\}"
)
_ESCAPE = r"""\\[dDsSnrt]|\\[-\\.^$*+?()\[\]{}|/&~#!@%=:;,"]"""
_IN_SET = r"[^-\[\]\\^&~]"
_PARTS = [
    _PROPERTY,
    _ESCAPE,
    rf"\[\^?(?:{_PROPERTY}|{_ESCAPE}|{_IN_SET}-{_IN_SET}|{_IN_SET})+\]",
    r"\(\?i:(?:(?!ss|st|ff|fl)[a-hj-z'|]|\[[a-hj-z]+\])+\)",
    r"\(\?[:=!>]|\((?!\?)|\)|\|",
    r"[*+?][+?]?|\{\d+(?:,\d*)?\}(?![*+?])",
    r"[^\\\[\](){}*+?|^$]",
]
# Left out on purpose: \w and \b (Oniguruma counts U+00B2 and others among letters), ^ and $ (there they
# match at every line), {2,3}+ (possessive here, repeated there), sets within sets, single letters as in
# \pL, look-behind, flags, references. Upper and lower case may be the same in contractions; elsewhere
# Oniguruma lets "ss" match a sharp s and "fl" a ligature, and `regex` lets "i" match a dotted capital I.
_PART = re.compile("|".join(_PARTS))


def pattern_fault(pattern: str) -> str | None:
    """What may keep a pre-tokenisation pattern from dividing every text in the same way everywhere."""
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


def _can_be_empty(parts: Sequence[str]) -> bool:
    """Whether a pattern, or something repeated in it, can match no character; lookahead is taken for true."""
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


def one_merge_a_token(merges: Sequence[Merge], *, check_all: bool = False) -> tuple[list[int], Fault | None]:
    """The merges that do all the work, if each token is made in one way and of what is made before it.

    Then no merge waits for a later one, and it does not matter whether all places of a pair are merged
    before the next pair is looked for (as here) or one place at a time, the leftmost first (as in
    tokenizers and tiktoken). Lists that others have made from tiktoken's files hold every division of a
    token in two. Only one of these is ever used: the one to which the merges before it lead, since what
    stands between two ends of tokens has always been merged as if it stood alone.

    Args:
        merges: both parts and the result of each are tokens, and none is there twice.
        check_all: whether also a token with one merge has to be what its own bytes are merged to.

    Returns:
        The places of those merges in the list, and the first fault.
    """
    tokens = [bytes([byte]) for byte in range(NUM_BYTES)]
    id_of = {token: token_id for token_id, token in enumerate(tokens)}
    rules = MergeRules({}, [])
    kept: list[int] = []
    for result, group in groupby(enumerate(merges), key=lambda item: b"".join(item[1])):
        ways: dict[tuple[bytes, ...], int] = {pair: index for index, pair in group}
        parts = next(iter(ways))
        if check_all or len(ways) > 1:
            parts = tuple(tokens[token_id] for token_id in apply_merges(list(result), rules))
        what = _merge_fault(parts, result, ways, id_of)
        if what:
            return kept, Fault(min(ways.values()), what)
        rules.ranks[id_of[parts[0]], id_of[parts[1]]] = len(kept)
        rules.results.append(len(tokens))
        id_of[result] = len(tokens)
        tokens.append(result)
        kept.append(ways[parts])
    return kept, None


def _merge_fault(
    parts: tuple[bytes, ...], result: bytes, ways: Mapping[tuple[bytes, ...], int], id_of: Mapping[bytes, int]
) -> str | None:
    if result in id_of:
        return f"{result!r} is made a second time, and not just after the first"
    if parts not in ways:
        return f"no merge of {result!r} fits what the merges before it make of these bytes, {parts!r:.100}"
    unmade = [part for part in parts if part not in id_of]
    return f"{parts[0]!r} + {parts[1]!r}: no merge before this one makes {unmade[0]!r}" if unmade else None
