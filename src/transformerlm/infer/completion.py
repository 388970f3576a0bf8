"""Text in, text out: prompts are encoded, continued side by side, and decoded, piece by piece where asked.

It prints and logs nothing itself: `on_text` is told each piece of text, and `completion_values` is what a
logger records of a finished one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from transformerlm.config import GenerationConfig
from transformerlm.errors import ConfigError, Key
from transformerlm.infer.continuation import Completion, Continuation, Ends
from transformerlm.infer.generate import steps
from transformerlm.logging import names
from transformerlm.nn import TransformerLM
from transformerlm.tokenizer import Tokenizer

OnText = Callable[[int, str], None]
"""Called with the index of a text (prompt * num_samples + sample) and its next piece, whole characters."""

BATCH_SIZE = 64
"""Texts continued side by side; more than these take turns."""


def complete(
    model: TransformerLM,
    tokenizer: Tokenizer,
    generation: GenerationConfig,
    *,
    seed: int = 0,
    first_row: int = 0,
    on_text: OnText | None = None,
    batch_size: int = BATCH_SIZE,
    kernels: bool = False,
) -> list[Completion]:
    """Continue the prompts of [generation] as it says: `num_samples` texts of each, prompt by prompt.

    Text i is drawn with the random numbers of row `first_row` + i of `seed`. It follows from the model,
    its prompt, `generation`, `seed` and that row, whatever the other prompts and `batch_size` are.
    An empty prompt begins at the end-of-text token. `kernels`: see `generate.Options`.

    Raises:
        ConfigError: for a special token that the tokenizer lacks, or an empty prompt without an eos_token.
    """
    texts = begin(tokenizer, generation, first_row)
    return list(finished(model, tokenizer, generation, texts, seed, on_text, batch_size, kernels))


def finished(
    model: TransformerLM,
    tokenizer: Tokenizer,
    generation: GenerationConfig,
    texts: Sequence[Continuation],
    seed: int = 0,
    on_text: OnText | None = None,
    batch_size: int = BATCH_SIZE,
    kernels: bool = False,
) -> Iterator[Completion]:
    """The completions of texts that are to be begun, in their order, each batch as soon as it is done."""
    for first in range(0, len(texts), batch_size):
        batch = texts[first : first + batch_size]
        for index, piece in grow(model, tokenizer, generation, batch, seed, kernels):
            if on_text is not None and piece:
                on_text(first + index, piece)
        for text in batch:
            yield text.completion()


def begin(tokenizer: Tokenizer, generation: GenerationConfig, first_row: int = 0) -> list[Continuation]:
    """The texts that [generation] asks for, nothing of them written yet.

    Raises:
        ConfigError: as `complete` does.
    """
    ends = Ends.of(tokenizer, generation)
    texts: list[Continuation] = []
    for prompt in generation.prompts:
        ids = encode_prompt(tokenizer, prompt, ends.eos_token_id)
        for sample in range(generation.num_samples):
            texts.append(Continuation(tokenizer, ends, prompt, ids, sample, first_row + len(texts)))
    return texts


def grow(
    model: TransformerLM,
    tokenizer: Tokenizer,
    generation: GenerationConfig,
    texts: Sequence[Continuation],
    seed: int = 0,
    kernels: bool = False,
) -> Iterator[tuple[int, str]]:
    """Let texts of neighbouring rows grow side by side, to their ends.

    Yields, for each token of each text, the text's index and the piece that is certain now, often "". Who
    stops asking stops the texts; `Continuation.end` has what was held back till then.
    """
    ends, started = Ends.of(tokenizer, generation), time.perf_counter()
    for step in steps(
        model,
        [text.prompt_ids for text in texts],
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        min_p=generation.min_p,
        repetition_penalty=generation.repetition_penalty,
        eos_token_id=ends.eos_token_id,
        stop_token_ids=ends.stop_token_ids,
        seed=seed,
        first_row=texts[0].row,
        # A model may have more rows than the tokenizer has ids; they stand for no text.
        vocab_size=tokenizer.vocab_size,
        log_probs=generation.log_probs,
        kernels=kernels,
        is_over=lambda index: texts[index].finish_reason is not None,
    ):
        latency_ms = 1000 * (time.perf_counter() - started)
        for index, token in step.items():
            texts[index].latency_ms = latency_ms
            yield index, texts[index].add(token)
    for index, text in enumerate(texts):
        yield index, text.end()


def check_prompts(tokenizer: Tokenizer, generation: GenerationConfig) -> None:
    """Find out, before a long training and not after it, that its prompts could not be continued.

    Raises:
        ConfigError: as `complete` would.
    """
    begin(tokenizer, generation)


def eos_token_id(tokenizer: Tokenizer, generation: GenerationConfig) -> int | None:
    """The id of [generation].eos_token; None where it is "".

    Raises:
        ConfigError: where it is none of the tokenizer's special tokens.
    """
    return Ends.of(tokenizer, generation).eos_token_id


def encode_prompt(tokenizer: Tokenizer, prompt: str, eos: int | None) -> list[int]:
    """The ids that the model starts from: the prompt's, or the end-of-text token's where it is empty.

    Raises:
        ConfigError: for an empty prompt where there is no such token.
    """
    ids = tokenizer.encode(prompt)
    if not ids and eos is None:
        reason = "without an eos_token there is nothing to start from"
        raise ConfigError(f'expected some text, got "": {reason}', key=Key("generation", "prompts"))
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
