"""Safe cuts of texts that are changed before they are encoded; see `Pretokenizer.safe_cut`."""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import regex

from transformerlm.tokenizer.bpe import Vocab
from transformerlm.tokenizer.character_bytes import byte_tokens
from transformerlm.tokenizer.form import Form
from transformerlm.tokenizer.form_encoder import Allowed, FormEncoder
from transformerlm.tokenizer.pretokenize import Pretokenizer
from transformerlm.tokenizer.reachable import Array, MergeIds
from transformerlm.tokenizer.text_steps import (
    Lowercase,
    Normalize,
    Prepend,
    Replace,
    TextStep,
    align_steps,
    apply_steps,
)

META = "\u2581"
"""The sign that stands for a space in vocabularies of characters."""

_MAX_TRIES = 20  # cuts that are tried in a window before it is given up


class FormCuts:
    """Finds cuts at which a text may be divided before it is encoded.

    Args:
        encoder: finds the added tokens.
        bare: pre-tokenizer without added tokens.
        allowed: contents of the special tokens that count; None: all.
    """

    def __init__(self, encoder: FormEncoder, bare: Pretokenizer, allowed: Allowed) -> None:
        self._form, self._encoder, self._bare, self._allowed = encoder.form, encoder, bare, allowed
        form = encoder.form
        self._steps = [step for step in (*form.normalizer, *form.prepare) if not isinstance(step, Prepend)]
        self._has_cuts = form.finds_at_once and all(map(_is_local, self._steps))
        self._reach = max((len(token.content) for token in form.added_token_ids), default=0)

    def safe_cut(self, text: str, *, is_tail: bool = False) -> int:
        """Return the last cut at which both parts may be encoded separately, 0 if none is known."""
        return 0 if self._form.depends_on_beginning else self.continued_cut(text, is_tail=is_tail)

    def continued_cut(self, text: str, *, is_tail: bool = False) -> int:
        """Return the last cut at which the second part may be encoded as one that goes on (`is_first`)."""
        if not self._has_cuts:
            return 0
        least = self._reach if is_tail else 0  # the text may begin within an added token
        final = len(text) - self._reach  # after that one may begin whose end is not known
        for part in reversed(list(self._encoder.find_all(text, self._allowed))):
            if part.token:
                is_known = part.end <= final and not self._form.depends_on_beginning
                cut = part.end if is_known else 0
            else:
                within = self._cut_within(text[part.start : max(part.start, min(part.end, final))])
                cut = within and part.start + within
            if cut > least:
                return cut
        return 0

    def _cut_within(self, text: str) -> int:
        """Return the last cut of a text without added tokens."""
        changed, origins = self._changed(text)
        if changed != text and self._form.finds_normalized:
            return 0  # the changed text may have added tokens
        end = len(changed)
        for _ in range(_MAX_TRIES):
            end = self._bare.safe_cut(changed[:end])
            cut = origins[end] if 0 < end < len(origins) else 0
            if not cut or (self._is_boundary(text, cut) and origins[end - 1] < cut):
                return cut
        return 0

    def _changed(self, text: str) -> tuple[str, Sequence[int]]:
        if apply_steps(self._steps, text) == text:
            return text, range(len(text))
        return align_steps(self._steps, text)

    def _is_boundary(self, text: str, cut: int) -> bool:
        forms = any(isinstance(step, Normalize) for step in self._steps)
        return not forms or _begins_anew(text[cut])


def word_pattern(
    form: Form, id_of: Mapping[bytes, int], tokens: Vocab, merges: MergeIds, *, whole_words: bool
) -> str | None:
    """Return a pattern that divides texts of characters where no merge joins the characters on both sides.

    Words begin with the signs before them, and a character that no merge joins to another stands alone. None
    if the form divides texts itself, or no such pattern is known.
    """
    if form.characters is None or form.late or not _is_undivided(form):
        return None
    if whole_words:  # a whole text may be one token
        return r"[\s\S]+"
    pairs = _joined_characters(tokens, merges)
    before_signs = {one for one, other in pairs if other == META} - {META}
    if byte_tokens(id_of, form.characters) is None:  # unknown characters in a row may be one token
        return None if before_signs or META.encode() not in id_of else f"{META}*[^{META}]+|{META}+"
    inner = {*itertools.chain(*pairs)} - {META}
    if not inner:
        return f"{META}+|[^{META}]"
    inside = _set(inner)
    if before_signs:
        inside = f"(?:{inside}|(?<={_set(before_signs)}){META}+)"
    return f"{META}*{inside}+|{META}+|{_set({*inner, META}, is_negated=True)}"


def _joined_characters(tokens: Vocab, merges: MergeIds) -> set[tuple[str, str]]:
    """Return the characters that merges join: the last of the left part, the first of the right one."""
    lefts, rights = _codes(tokens, merges.left, -1), _codes(tokens, merges.right, 0)
    pairs = np.unique(lefts[merges.left] << 32 | rights[merges.right]).tolist()
    return {(chr(pair >> 32), chr(pair & 0xFFFFFFFF)) for pair in pairs}


def _codes(tokens: Vocab, ids: Array, index: int) -> Array:
    """Return the code of the first or last character of each token of `ids`, `[largest id + 1]`."""
    codes = np.zeros(1 + int(ids.max(initial=0)), np.int64)
    for number in np.flatnonzero(np.bincount(ids)).tolist():
        codes[number] = ord(tokens[number].decode()[index])
    return codes


def _is_undivided(form: Form) -> bool:
    """Return True if a form does not divide texts: it has no splits, or only at what it has replaced."""
    replaced = {
        step.pattern
        for step in (*form.normalizer, *form.prepare)
        if isinstance(step, Replace) and step.pattern not in step.content
    }
    return isinstance(form.pattern, tuple) and all(
        split.pattern in replaced and split.behavior != "removed" and not split.invert
        for split in form.pattern
    )


def _set(characters: Iterable[str], *, is_negated: bool = False) -> str:
    """Return a set of a regular expression, with ranges."""
    codes = sorted(map(ord, characters))
    starts = [code for index, code in enumerate(codes) if index == 0 or codes[index - 1] < code - 1]
    ends = [code for code, after in itertools.zip_longest(codes, codes[1:]) if after != code + 1]
    ranges = (
        _escaped(start) if start == end else f"{_escaped(start)}-{_escaped(end)}"
        for start, end in zip(starts, ends, strict=True)
    )
    return f"[{'^' * is_negated}{''.join(ranges)}]"


def _escaped(code: int) -> str:
    return chr(code) if code > 0xFF or chr(code).isalnum() else f"\\x{code:02x}"


def pieces_of(chunks: Iterable[str], size: int, cut_of: Callable[[str], int]) -> Iterator[str]:
    """Yield the text of all chunks in pieces of about `size` characters, divided where `cut_of` says."""
    text, wanted = "", size
    for chunk in chunks:
        for start in range(0, len(chunk), size):
            text += chunk[start : start + size]
            if len(text) >= wanted:
                cut = cut_of(text)
                if cut:
                    yield text[:cut]
                text = text[cut:]
                wanted = max(size, 2 * len(text))  # a text without cuts is searched only log(n) times
    if text:
        yield text


def _is_local(step: TextStep) -> bool:
    """Return True if a step changes each character by itself, or in a normal form."""
    is_single = isinstance(step, Replace) and len(regex.sub(r"\\(.)", r"\1", step.pattern)) == 1
    return isinstance(step, Normalize | Lowercase) or is_single


def _begins_anew(character: str) -> bool:
    """Return True if no normal form joins this character to those before it, or moves it."""
    first = unicodedata.normalize("NFKD", character)[0]
    return not unicodedata.combining(first) and first not in _second_characters()


@functools.cache
def _second_characters() -> frozenset[str]:
    """Return the starters that are composed with a character before them."""
    mappings = (unicodedata.decomposition(chr(code)).split() for code in range(0x110000))
    seconds = {chr(int(codes[1], 16)) for codes in mappings if len(codes) == 2 and codes[0][0] != "<"}
    return frozenset(seconds).union(map(chr, (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))))
