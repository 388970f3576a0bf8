"""Safe cuts of texts that are changed before they are encoded; see `Pretokenizer.safe_cut`."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import regex

from transformerlm.tokenizer.bpe import Merges
from transformerlm.tokenizer.form import Form, crosses
from transformerlm.tokenizer.form_encoder import Allowed, FormEncoder
from transformerlm.tokenizer.pretokenize import Pretokenizer
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
WORDS = f"{META}*[^{META}]+|{META}+"
"""Division of such texts into words; right where no merge joins a word and the space after it."""

_MAX_TRIES = 20  # cuts that are tried in a window before it is given up


class FormCuts:
    """Finds cuts at which a text may be divided before it is encoded.

    Args:
        encoder: finds the added tokens.
        bare: pre-tokenizer without added tokens.
        allowed: contents of the special tokens that count; None: all.
        words_are_apart: pre-tokens end before each space.
    """

    def __init__(
        self, encoder: FormEncoder, bare: Pretokenizer, allowed: Allowed, *, words_are_apart: bool
    ) -> None:
        self._form, self._encoder, self._bare, self._allowed = encoder.form, encoder, bare, allowed
        form = encoder.form
        self._steps = [step for step in (*form.normalizer, *form.prepare) if not isinstance(step, Prepend)]
        self._words_are_apart = words_are_apart
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
            end = self._cut_of_changed(changed[:end])
            cut = origins[end] if 0 < end < len(origins) else 0
            if not cut or (self._is_boundary(text, cut) and origins[end - 1] < cut):
                return cut
        return 0

    def _cut_of_changed(self, changed: str) -> int:
        if not self._words_are_apart:
            return self._bare.safe_cut(changed)
        found = _BETWEEN_WORDS.search(changed)
        return found.start() + 1 if found else 0

    def _changed(self, text: str) -> tuple[str, Sequence[int]]:
        if apply_steps(self._steps, text) == text:
            return text, range(len(text))
        return align_steps(self._steps, text)

    def _is_boundary(self, text: str, cut: int) -> bool:
        forms = any(isinstance(step, Normalize) for step in self._steps)
        return not forms or _begins_anew(text[cut])


_BETWEEN_WORDS = regex.compile(f"(?r)[^{META}]{META}")


def are_words_apart(form: Form, id_of: Mapping[bytes, int], merges: Merges, whole_words: bool) -> bool:
    """Return True if texts of characters may be divided by `WORDS`: no token goes on behind a word."""
    is_undivided = form.characters is not None and not form.late and form.pattern == ()
    return is_undivided and not whole_words and META.encode() in id_of and not crosses(merges, META)


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
