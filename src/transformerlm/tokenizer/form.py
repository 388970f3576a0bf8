"""Form of a tokenizer: all by which it differs from plain byte-level byte-pair encoding with special tokens.

Tokenizers that this package trains have none. Those that others have made may change a text before they
encode it, have characters instead of bytes as smallest tokens, or put tokens around a text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from transformerlm.tokenizer.added_tokens import AddedToken
from transformerlm.tokenizer.decode_steps import MakeDecodeStep
from transformerlm.tokenizer.splits import Pattern, Split, as_pattern, splits_of
from transformerlm.tokenizer.text_steps import ByteAlphabet, Prepend, TextStep, apply_steps

PretokenStep = Split | TextStep

_NOT_IN_UTF8 = frozenset([0xC0, 0xC1, *range(0xF5, 0x100)])


@dataclass(frozen=True)
class Characters:
    """Characters as smallest tokens, and what becomes of a character that is none."""

    byte_fallback: bool = False
    """Its bytes become tokens such as <0xE4>, if the vocabulary has all of them."""
    unk_token: str | None = None
    """The token of characters that nothing else stands for; without one they are left out."""
    fuse_unk: bool = False
    """Such characters in a row become one `unk_token`."""


@dataclass(frozen=True)
class MissingBytes:
    """Bytes that a vocabulary of bytes has no tokens for, and what becomes of them in a pre-token.

    A vocabulary that was learned without all bytes has those of its text: that of SmolLM lacks six control
    characters, that of GPT-NeoX the bytes that UTF-8 never has.
    """

    content: bytes
    """The bytes."""
    unk_token: str | None = None
    """The token that each of them becomes; without one they are left out."""
    fuse_unk: bool = False
    """Such bytes in a row become one `unk_token`."""

    @property
    def warning(self) -> str | None:
        """A line about those that a text may have; None if there are none."""
        numbers = " ".join(f"{byte:02x}" for byte in self.content if byte not in _NOT_IN_UTF8)
        fate = "left out of texts" if self.unk_token is None else f"{self.unk_token} in texts"
        return f"no tokens for the bytes {numbers} (hexadecimal), which are {fate}" if numbers else None

    def occur_in(self, content: bytes) -> bool:
        """Return True if a text has one of these bytes."""
        return len(content.translate(None, self.content)) < len(content)


@dataclass(frozen=True)
class Form:
    """How a text becomes pre-tokens and ids become a text, in the order of the steps."""

    added_token_ids: Mapping[AddedToken, int]
    normalizer: tuple[TextStep, ...] = ()
    """Steps between the search for added tokens and that for those that are normalized."""
    pretokenizer: tuple[PretokenStep, ...] = (ByteAlphabet(),)
    characters: Characters | None = None
    """None: bytes are the smallest tokens."""
    missing: MissingBytes | None = None
    """None: every byte is a token."""
    decoder: tuple[MakeDecodeStep, ...] | None = None
    """None: a text is the bytes of its tokens."""
    outside: frozenset[int] = frozenset()
    """Ids of added tokens that are not in the model's vocabulary: no merge and no character leads to them."""
    before: tuple[str, ...] = ()
    """Special tokens that `add_special_tokens` puts before a text."""
    after: tuple[str, ...] = ()
    trim_offsets: bool = False
    """White space at the ends of a token does not count as covered by it."""
    keeps_prefix_space: bool = False
    """A single space at the beginning of a text does, even so."""
    sections: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The parts of a `tokenizer.json` that say all this, for `tokenizers`."""

    @cached_property
    def prepare(self) -> tuple[TextStep, ...]:
        """Changes of the text before it is first divided."""
        return tuple(itertools.takewhile(_changes_text, self._early))  # type: ignore[arg-type]

    @cached_property
    def pattern(self) -> Pattern:
        """The divisions after that."""
        divisions = tuple(itertools.takewhile(_divides, self._early[len(self.prepare) :]))
        return as_pattern(divisions)  # type: ignore[arg-type]

    @cached_property
    def late(self) -> tuple[PretokenStep, ...]:
        """Steps of each pre-token after that."""
        num_divisions = len(self.pattern) if isinstance(self.pattern, tuple) else 1
        rest = self.pretokenizer[len(self.prepare) + num_divisions :]
        return () if rest == (ByteAlphabet(),) else rest

    @property
    def _early(self) -> tuple[PretokenStep, ...]:
        """The steps before the text is spelled in the alphabet of bytes."""
        return tuple(itertools.takewhile(lambda step: step != ByteAlphabet(), self.pretokenizer))

    @cached_property
    def finds_at_once(self) -> bool:
        """True if one search for all added tokens finds what two do, in a text that is in normal form."""
        normalized = {token.content for token in self.added_token_ids if token.normalized}
        others = {token.content for token in self.added_token_ids if not token.normalized}
        is_plain = all(token.is_plain for token in self.added_token_ids)
        are_normal = all(apply_steps(self.normalizer, content) == content for content in normalized)
        return is_plain and are_normal and not (normalized and overlap(normalized, others))

    @cached_property
    def finds_normalized(self) -> bool:
        """True if a changed text may have added tokens that the text before has not."""
        return bool(self.normalizer) and any(token.normalized for token in self.added_token_ids)

    @property
    def is_plain(self) -> bool:
        """True if a pattern and special tokens say all: nothing else is kept for other programs either."""
        tokens = all(token == AddedToken(token.content) for token in self.added_token_ids)
        return tokens and self.keeps_text and isinstance(self.pattern, str) and not self.sections

    @cached_property
    def keeps_text(self) -> bool:
        """True if a text is encoded as it is, by bytes, divided by the pattern and at added tokens."""
        changes = self.normalizer or self.prepare or self.late or self.characters
        return self.finds_at_once and not changes

    @cached_property
    def takes_whole(self) -> bool:
        """True if a text that is in normal form is encoded whole, and not between added tokens."""
        return self.finds_at_once and not self.prepare and not self.divides_before_prefix

    @cached_property
    def divides_before_prefix(self) -> bool:
        """True if only the first pre-token of a text gets a prefix: the others differ from it."""
        return any(isinstance(step, Prepend) and step.first_only for step in self.late)

    @cached_property
    def drops_text(self) -> bool:
        """True if a step may leave out characters."""
        return any(isinstance(step, Split) and step.behavior == "removed" for step in self.pretokenizer)

    @cached_property
    def depends_on_beginning(self) -> bool:
        """True if the beginning of a text is encoded differently."""
        return any(isinstance(step, Prepend) for step in (*self.normalizer, *self.prepare)) or (
            self.divides_before_prefix
        )


def plain_form(special_token_ids: Mapping[str, int], pattern: str | Sequence[Split]) -> Form:
    """Return the form of a tokenizer that has special tokens and a pre-tokenizer, and nothing else."""
    tokens = {AddedToken(token): token_id for token, token_id in special_token_ids.items()}
    return Form(tokens, pretokenizer=(*splits_of(pattern), ByteAlphabet()))


def _changes_text(step: PretokenStep) -> bool:
    return not isinstance(step, Split)


def _divides(step: PretokenStep) -> bool:
    return isinstance(step, Split)


def overlap(ones: Iterable[str], others: Iterable[str]) -> bool:
    """Return True if occurrences of one of each can share characters of a text."""
    return _touches(set(ones), set(others)) or _touches(set(others), set(ones))


def _touches(ones: set[str], others: set[str]) -> bool:
    """Return True if one of the first holds one of the others, or ends with the beginning of one."""
    beginnings = {text[:end] for text in others for end in range(1, len(text) + 1)}
    return any(
        not beginnings.isdisjoint(text[start:] for start in range(len(text)))
        or any(text[start:end] in others for start, end in itertools.combinations(range(len(text) + 1), 2))
        for text in ones
    )
