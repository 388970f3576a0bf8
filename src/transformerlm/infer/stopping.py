"""Ends of texts: special tokens, and stop strings that are found while the text arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformerlm.config import GenerationConfig
from transformerlm.errors import ConfigError, Key
from transformerlm.tokenizer import Tokenizer

FinishReason = Literal["eos", "stop", "length"]
"""Reason for the end of a text: [generation].eos_token; one of its `stop` or `stop_tokens`;
`max_new_tokens`."""


@dataclass(frozen=True, slots=True)
class StopConditions:
    """The end-of-text token, the stop tokens and the stop strings of [generation], tokens as ids."""

    eos_token_id: int | None
    """None if there is no end-of-text token."""
    stop_token_ids: tuple[int, ...]
    stop: tuple[str, ...]

    @classmethod
    def from_config(cls, generation: GenerationConfig, tokenizer: Tokenizer) -> StopConditions:
        """Look up [generation]'s `eos_token` and `stop_tokens` among the tokenizer's special tokens.

        Raises:
            ConfigError: for a token that is not among them.
        """
        eos = special_id(tokenizer, "eos_token", generation.eos_token) if generation.eos_token else None
        stop_tokens = tuple(special_id(tokenizer, "stop_tokens", token) for token in generation.stop_tokens)
        return cls(eos, stop_tokens, generation.stop)

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids of all tokens that end a text."""
        eos = () if self.eos_token_id is None else (self.eos_token_id,)
        return frozenset((*self.stop_token_ids, *eos))


def special_id(tokenizer: Tokenizer, key: str, name: str) -> int:
    """Return the id of the special token that a key of [generation] names.

    Raises:
        ConfigError: it is not among the tokenizer's special tokens.
    """
    known = tokenizer.special_token_ids
    if name not in known:
        tokens = ", ".join(f'"{token}"' for token in known) or "none"
        expected = f"expected a special token of the tokenizer ({tokens}) or nothing"
        raise ConfigError(f'{expected}, got "{name}"', key=Key("generation", key))
    return known[name]


class StopStrings:
    """Finds the first stop string of one text, and holds back characters that may be the start of one.

    The text is cut before the string that is completed first; of several completed at one character, before
    the longest. With "cd" and "bcde", the text "abcde" ends as "ab": "cd" is complete first.

        finder = StopStrings(["END"])
        finder.feed("the E")  ->  "the ", since "E" may become "END"
        finder.feed("ND, or")  ->  "", and finder.found is "END"

    The result does not depend on the division into pieces.

    Args:
        stops: strings of at least one character; without any, text passes unchanged.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(sorted(stops, key=len, reverse=True))
        self._held = ""
        self.found: str | None = None
        """The string that ended the text."""

    def feed(self, piece: str) -> str:
        """Add a piece; return the characters that are now final, none once the text has ended."""
        if not self._stops:
            return piece
        for character in "" if self.found else piece:
            self._held += character
            if self._held.endswith(self._stops):
                self.found = next(stop for stop in self._stops if self._held.endswith(stop))
                return self._release(len(self.found), discard=True)
        return self._release(self._num_undecided())

    def flush(self) -> str:
        """Return the characters held back, for a text that ends without a stop string."""
        return self._release(0)

    def _num_undecided(self) -> int:
        """Return the length of the longest suffix of the held text that is a prefix of a stop string."""
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        undecided = (
            length
            for length in range(longest, 0, -1)
            if any(stop.startswith(self._held[-length:]) for stop in self._stops)
        )
        return next(undecided, 0)

    def _release(self, num_held: int, *, discard: bool = False) -> str:
        """Return all but the last `num_held` characters; keep or discard those."""
        end = len(self._held) - num_held
        text, self._held = self._held[:end], "" if discard else self._held[end:]
        return text
