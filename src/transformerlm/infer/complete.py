"""Text in, text out: prompts are encoded, continued side by side, and decoded, piece by piece where asked.

It prints and logs nothing itself: `on_text` is told each piece of text, and `completion_values` is what a
logger records of a finished one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from transformerlm.config import GenerationConfig
from transformerlm.errors import ConfigError
from transformerlm.infer.generate import steps
from transformerlm.logging import names
from transformerlm.nn import TransformerLM
from transformerlm.tokenizer import StreamDecoder, Tokenizer

OnText = Callable[[int, str], None]
"""Called with the index of a prompt and the next piece of its continuation, always whole characters."""

BATCH_SIZE = 64
"""Prompts continued side by side; more than these take turns."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and what the model wrote after it."""

    prompt: str
    text: str
    token_ids: tuple[int, ...]
    """Of `text`; the token that ended it is not among them."""
    ended: bool
    """Whether the model ended the text itself, by [generation].eos_token."""
    latency_ms: float
    """Milliseconds from the start of its batch to its last token."""
    eos_token_id: int | None
    """The token that would have ended it."""


def complete(
    model: TransformerLM,
    tokenizer: Tokenizer,
    generation: GenerationConfig,
    *,
    seed: int = 0,
    on_text: OnText | None = None,
    batch_size: int = BATCH_SIZE,
) -> list[Completion]:
    """Continue the prompts of [generation] as it says.

    The text of prompt i follows from the model, that prompt, `generation`, `seed` and i, whatever the
    other prompts and `batch_size` are. An empty prompt begins at the end-of-text token.

    Raises:
        ConfigError: for an eos_token that the tokenizer lacks, or an empty prompt without one.
    """
    eos = eos_token_id(tokenizer, generation)
    prompt_ids = [encode_prompt(tokenizer, prompt, eos) for prompt in generation.prompts]
    texts = [_Text(tokenizer, prompt, index, eos, on_text) for index, prompt in enumerate(generation.prompts)]
    for first in range(0, len(texts), batch_size):
        started = time.perf_counter()
        for step in steps(
            model,
            prompt_ids[first : first + batch_size],
            max_new_tokens=generation.max_new_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            eos_token_id=eos,
            seed=seed,
            first_row=first,
            # A model may have more rows than the tokenizer has ids; they stand for no text.
            vocab_size=tokenizer.vocab_size,
        ):
            latency_ms = 1000 * (time.perf_counter() - started)
            for row, token_id in step.items():
                texts[first + row].add(token_id, latency_ms)
    return [text.completion() for text in texts]


def eos_token_id(tokenizer: Tokenizer, generation: GenerationConfig) -> int | None:
    """The id of [generation].eos_token; None where it is "".

    Raises:
        ConfigError: where it is none of the tokenizer's special tokens.
    """
    if not generation.eos_token:
        return None
    known = tokenizer.special_token_ids
    if generation.eos_token not in known:
        tokens = ", ".join(f'"{token}"' for token in known) or "none"
        expected = f"expected a special token of the tokenizer ({tokens}) or nothing"
        raise ConfigError(f'[generation].eos_token: {expected}, got "{generation.eos_token}"')
    return known[generation.eos_token]


def check_prompts(tokenizer: Tokenizer, generation: GenerationConfig) -> None:
    """Find out, before a long training and not after it, that its prompts could not be continued.

    Raises:
        ConfigError: as `complete` would.
    """
    eos = eos_token_id(tokenizer, generation)
    for prompt in generation.prompts:
        encode_prompt(tokenizer, prompt, eos)


def encode_prompt(tokenizer: Tokenizer, prompt: str, eos: int | None) -> list[int]:
    """The ids that the model starts from: the prompt's, or the end-of-text token's where it is empty.

    Raises:
        ConfigError: for an empty prompt where there is no such token.
    """
    ids = tokenizer.encode(prompt)
    if not ids and eos is None:
        reason = "without an eos_token there is nothing to start from"
        raise ConfigError(f'[generation].prompts: expected some text, got "": {reason}')
    return ids if eos is None else ids or [eos]


def completion_values(completion: Completion, generation: GenerationConfig) -> dict[str, float | int | str]:
    """What a logger records of a completion that `generation` led to."""
    eos = completion.eos_token_id
    return {
        names.PROMPT: completion.prompt,
        names.OUTPUT: completion.text,
        names.LATENCY_MS: completion.latency_ms,
        names.TEMPERATURE: generation.temperature,
        names.TOP_P: generation.top_p,
        names.EOS_TOKEN_ID: -1 if eos is None else eos,
    }


@dataclass
class _Text:
    """A continuation under way."""

    tokenizer: Tokenizer
    prompt: str
    index: int
    eos: int | None
    on_text: OnText | None
    ids: list[int] = field(default_factory=list)
    ended: bool = False
    latency_ms: float = 0.0

    def __post_init__(self) -> None:
        self.decoder = StreamDecoder(self.tokenizer)

    def add(self, token_id: int, latency_ms: float) -> None:
        self.latency_ms = latency_ms
        self.ended = token_id == self.eos
        if not self.ended:
            self.ids.append(token_id)
        self._tell(self.decoder.flush() if self.ended else self.decoder.feed(token_id))

    def completion(self) -> Completion:
        self._tell(self.decoder.flush())
        text = self.tokenizer.decode(self.ids)
        return Completion(self.prompt, text, tuple(self.ids), self.ended, self.latency_ms, self.eos)

    def _tell(self, piece: str) -> None:
        if self.on_text is not None and piece:
            self.on_text(self.index, piece)
