"""Encoding with a form: added tokens in two searches, changes of the text between them, then the pre-tokens.

`FormEncoder` works on segments between added tokens, quickly; `encode_aligned` follows each character through
all steps, which offsets need.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import regex

from transformerlm.tokenizer.added_tokens import AddedToken, Finder, Found
from transformerlm.tokenizer.form import Form
from transformerlm.tokenizer.model import Model
from transformerlm.tokenizer.pretokenize import Pretokenizer, bytes_of
from transformerlm.tokenizer.splits import Split, split_text
from transformerlm.tokenizer.text_steps import Prepend, TextStep, align_steps, apply_steps
from transformerlm.tokenizer.vocabulary import Ids

Allowed = frozenset[str] | None
"""Contents of the special tokens that are found in a text; None: all."""


class Encoder(Protocol):
    """Encoder of texts that are not changed."""

    def encode(self, text: str | bytes, pretokenizer: Pretokenizer) -> Ids:
        """Return the ids of a text, or of any bytes; `[num_ids]`."""


class FormEncoder:
    """Encoder of texts by a form."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self._raw = Finder((token.content, token) for token in form.added_token_ids if not token.normalized)
        self._normalized = Finder(
            (apply_steps(form.normalizer, token.content), token)
            for token in form.added_token_ids
            if token.normalized
        )
        self._needs_origins = bool(form.normalizer) and any(
            isinstance(step, Prepend) and step.first_only for step in form.prepare
        )

    def encode(
        self,
        text: str,
        encoder: Encoder,
        pretokenizer: Pretokenizer,
        allowed: Allowed,
        *,
        is_first: bool = True,
    ) -> Ids:
        """Return the ids of a text, `[num_ids]`.

        Args:
            text: bytes that are not UTF-8 are surrogates in it.
            encoder: of segments without added tokens.
            pretokenizer: of the same.
            is_first: False if the text goes on one that was encoded before.
        """
        parts = [np.zeros(0, np.uint16)]
        for segment in self.segments(text, allowed, is_first=is_first):
            if isinstance(segment, AddedToken):
                parts.append(np.array([self.form.added_token_ids[segment]], np.uint32))
            else:
                content = bytes_of(segment)
                parts.append(encoder.encode(content, pretokenizer))
        return np.concatenate(parts)

    def segments(self, text: str, allowed: Allowed, *, is_first: bool = True) -> Iterator[str | AddedToken]:
        """Yield the added tokens of a text, and what the texts between them are changed to."""
        form = self.form
        for part in self._raw.find(text, allowed=allowed):
            if part.token:
                yield part.token
                continue
            segment = text[part.start : part.end]
            begins, goes_on = is_first and part.start == 0, not is_first and part.start == 0
            normalizer = _without_prefixes(form.normalizer) if goes_on else form.normalizer
            normalized = apply_steps(normalizer, segment)
            origins = align_steps(normalizer, segment)[1] if self._needs_origins and begins else None
            for inner in self._normalized.find(normalized, allowed=allowed):
                if inner.token:
                    yield inner.token
                else:
                    prepare = _without_prefixes(form.prepare) if goes_on and not inner.start else form.prepare
                    first = begins and (origins[inner.start] if origins else inner.start) == 0
                    yield apply_steps(prepare, normalized[inner.start : inner.end], is_first=first)

    def find_all(self, text: str, allowed: Allowed) -> Iterator[Found]:
        """Yield the parts of a text in order, by one search for all added tokens (`Form.finds_at_once`)."""
        return self._all.find(text, allowed=allowed)

    @functools.cached_property
    def _all(self) -> Finder:
        return Finder((token.content, token) for token in self.form.added_token_ids)

    def encode_aligned(self, text: str, model: Model, allowed: Allowed) -> list[AlignedId]:
        """Return the ids of a text with the characters that each covers."""
        covered: list[AlignedId] = []
        for part in self._raw.find(text, allowed=allowed):
            if part.token:
                token_id = self.form.added_token_ids[part.token]
                covered.append(AlignedId(token_id, part.start, part.end, text[part.start : part.end]))
            else:
                segment = _Piece(text[part.start : part.end], list(range(part.start, part.end)))
                covered += self._aligned_segment(segment, model, allowed)
        return covered

    def _aligned_segment(self, segment: _Piece, model: Model, allowed: Allowed) -> Iterator[AlignedId]:
        normalized, origins = align_steps(self.form.normalizer, segment.text)
        changed = _Piece(normalized, [segment.origins[index] for index in origins])
        for found in self._normalized.find(normalized, allowed=allowed):
            piece = changed.part(found)
            if found.token:
                token_id = self.form.added_token_ids[found.token]
                yield AlignedId(token_id, piece.origins[0], piece.origins[-1] + 1, piece.text)
            else:
                for pretoken in self._pretokens(piece):
                    yield from _aligned_ids(pretoken, model)

    def _pretokens(self, piece: _Piece) -> list[_Piece]:
        pieces = [piece]
        for step in self.form.pretokenizer:
            if isinstance(step, Split):
                pieces = [part for whole in pieces for part in _divided(step, whole)]
            else:
                pieces = [
                    _Piece(text, [whole.origins[index] for index in origins])
                    for whole in pieces
                    for text, origins in [step.align(whole.text, is_first=whole.origins[0] == 0)]
                ]
        return pieces


def _without_prefixes(steps: Sequence[TextStep]) -> list[TextStep]:
    return [step for step in steps if not isinstance(step, Prepend)]


class AlignedId(NamedTuple):
    """An id and the characters of the text that it covers."""

    token_id: int
    start: int
    end: int
    text: str | None = None
    """What an added token was found as, white space and normal form included."""


class _Piece(NamedTuple):
    text: str
    origins: list[int]
    """For each character, the index of the character of the whole text that it comes from."""

    def part(self, found: Found) -> _Piece:
        return _Piece(self.text[found.start : found.end], self.origins[found.start : found.end])


def _divided(split: Split, piece: _Piece) -> Iterator[_Piece]:
    if split.behavior == "removed":
        spans = [match.span() for match in regex.finditer(split.pattern, piece.text)]
        if not split.invert:  # what lies between them is kept
            ends = [0, *itertools.chain(*spans), len(piece.text)]
            spans = list(zip(ends[::2], ends[1::2], strict=True))
    else:
        ends = list(itertools.accumulate(map(len, split_text([split], piece.text)), initial=0))
        spans = list(itertools.pairwise(ends))
    for start, end in spans:
        if start < end:
            yield piece.part(Found(start, end, None))


def _aligned_ids(piece: _Piece, model: Model) -> Iterator[AlignedId]:
    sizes = (len(bytes_of(character)) for character in piece.text)
    characters = [index for index, size in enumerate(sizes) for _ in range(size)]
    start = 0
    for token_id, size in model.tokens(piece.text):
        first, last = characters[start], characters[start + size - 1]
        yield AlignedId(token_id, piece.origins[first], piece.origins[last] + 1)
        start += size
