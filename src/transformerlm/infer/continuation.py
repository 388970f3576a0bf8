"""One text under way: tokens in, characters out, and the reason why it ends.

It draws no token and knows no model: `complete.py` hands it what `generate.py` has drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from transformerlm.config import GenerationConfig
from transformerlm.errors import ConfigError, Key
from transformerlm.infer.generate import NewToken
from transformerlm.infer.stopping import StopStrings
from transformerlm.tokenizer import StreamDecoder, Tokenizer

FinishReason = Literal["eos", "stop", "length"]
"""What ended a text: [generation].eos_token, one of its `stop` or `stop_tokens`, or nothing before
`max_new_tokens`."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and what the model wrote after it."""

    prompt: str
    text: str
    """The continuation alone; it ends before the stop string that ended it."""
    token_ids: tuple[int, ...]
    """As they were generated, up to and with the one that completed a stop string, of which `text` does not
    have all then. A token that ends a text by itself is not among them."""
    finish_reason: FinishReason
    latency_ms: float
    """Milliseconds from the start of its batch to its last token."""
    eos_token_id: int | None
    """The token that would have ended it."""
    log_probs: tuple[float, ...] | None = None
    """What the model itself gave each of `token_ids`, nats; None where [generation].log_probs is false."""
    sample: int = 0
    """Which of its prompt's [generation].num_samples it is, from 0."""
    row: int = 0
    """Which of the seed's streams of random numbers it was drawn with."""

    @property
    def ended(self) -> bool:
        """Whether the model ended the text itself, by [generation].eos_token."""
        return self.finish_reason == "eos"


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends a text, in the ids of a tokenizer."""

    eos_token_id: int | None
    stop_token_ids: tuple[int, ...]
    stop: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, generation: GenerationConfig) -> Ends:
        """[generation]'s `eos_token`, `stop_tokens` and `stop`.

        Raises:
            ConfigError: for a name that is none of the tokenizer's special tokens.
        """
        known = tokenizer.special_token_ids
        eos = _special_id(known, "eos_token", generation.eos_token) if generation.eos_token else None
        stop_tokens = tuple(_special_id(known, "stop_tokens", token) for token in generation.stop_tokens)
        return cls(eos, stop_tokens, generation.stop)


def _special_id(known: Mapping[str, int], key: str, name: str) -> int:
    if name not in known:
        tokens = ", ".join(f'"{token}"' for token in known) or "none"
        expected = f"expected a special token of the tokenizer ({tokens}) or nothing"
        raise ConfigError(f'{expected}, got "{name}"', key=Key("generation", key))
    return known[name]


class Continuation:
    """A text that grows by a token at a time, and says what of it is certain.

    Args:
        prompt_ids: what the model starts from.
        sample: see `Completion`.
        row: see `Completion`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        ends: Ends,
        prompt: str,
        prompt_ids: list[int],
        sample: int = 0,
        row: int = 0,
    ) -> None:
        self.prompt, self.prompt_ids = prompt, prompt_ids
        self.sample, self.row = sample, row
        self.latency_ms = 0.0
        self.token_ids: list[int] = []
        self.log_probs: list[float] | None = None
        self.finish_reason: FinishReason | None = None
        self._ends = ends
        self._pieces: list[str] = []
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopStrings(ends.stop)

    def add(self, token: NewToken) -> str:
        """What is certain of the text with this token, and was not before: whole characters, often none."""
        if token.log_prob is not None:
            self.log_probs = [] if self.log_probs is None else self.log_probs
        if token.is_end:
            return self.end("eos" if token.id == self._ends.eos_token_id else "stop")
        self.token_ids.append(token.id)
        if self.log_probs is not None and token.log_prob is not None:
            self.log_probs.append(token.log_prob)
        return self._take(self._decoder.feed(token.id))

    def end(self, reason: FinishReason = "length") -> str:
        """No token follows: what was held back of the text till now. A second time nothing is."""
        if self.finish_reason is not None:
            return ""
        piece = self._take(self._decoder.flush())
        if self.finish_reason is None:
            self.finish_reason = reason
            piece += self._keep(self._stops.flush())
        return piece

    def completion(self) -> Completion:
        """The text as it is, which ends here if it has not before."""
        self.end()
        assert self.finish_reason is not None
        return Completion(
            prompt=self.prompt,
            text="".join(self._pieces),
            token_ids=tuple(self.token_ids),
            finish_reason=self.finish_reason,
            latency_ms=self.latency_ms,
            eos_token_id=self._ends.eos_token_id,
            log_probs=None if self.log_probs is None else tuple(self.log_probs),
            sample=self.sample,
            row=self.row,
        )

    def _take(self, piece: str) -> str:
        certain = self._stops.feed(piece)
        if self._stops.found is not None:
            self.finish_reason = "stop"
        return self._keep(certain)

    def _keep(self, piece: str) -> str:
        self._pieces.append(piece)
        return piece
