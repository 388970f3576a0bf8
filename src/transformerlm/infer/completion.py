"""Text completion: prompts are encoded, continued in batches, and decoded, piece by piece on request.

Nothing is printed or logged here: `on_text` receives each piece of text, and `completion_values` returns a
completion's values for a logger.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformerlm.config import GenerationConfig
from transformerlm.config.generation import NOTHING_TO_START_FROM
from transformerlm.errors import ConfigError, Key
from transformerlm.infer.batch import window_start
from transformerlm.infer.continuous import ContinuousBatch
from transformerlm.infer.generate import STEPS_AHEAD, DecodingSettings, NewToken, steps
from transformerlm.infer.sampling import Sampling
from transformerlm.infer.stopping import FinishReason, StopConditions, StopStrings, special_id
from transformerlm.logging import names
from transformerlm.ngrams import NgramMemory
from transformerlm.nn import TransformerLM
from transformerlm.tokenizer import StreamDecoder, Tokenizer

OnText = Callable[[int, str], None]
"""Called with the index of a text (prompt * num_samples + sample) and its next piece, whole characters."""

BATCH_SIZE = 64
"""Texts that are continued together; of more, one begins whenever another has ended."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and its continuation by the model."""

    prompt: str
    text: str
    """The continuation alone; it ends before the stop string that ended it."""
    token_ids: tuple[int, ...]
    """The generated ids, including those of a stop string, which `text` does not contain. A special token
    that ended the text is not among them."""
    finish_reason: FinishReason
    latency_ms: float
    """Milliseconds from the moment when the text got its place in the batch to its last token."""
    eos_token_id: int | None
    """The end-of-text token that it was generated with."""
    log_probs: tuple[float, ...] | None = None
    """Log-probability of each of `token_ids` before the settings of sampling, nats; None unless
    [generation].log_probs."""
    sample: int = 0
    """Index among its prompt's [generation].num_samples."""
    row: int = 0
    """Index of the random number stream of the seed with which it was sampled."""
    num_cut_tokens: int = 0
    """Tokens at the beginning of the prompt that the model did not see, since its context is shorter."""

    @property
    def ended(self) -> bool:
        """True if the model ended the text itself, by [generation].eos_token."""
        return self.finish_reason == "eos"


class EncodedPrompt(NamedTuple):
    """A prompt as text and as the ids that the model starts from."""

    text: str
    ids: list[int]


class Continuation:
    """A text that grows token by token; each call returns the characters that became final.

    Args:
        prompt_ids: the ids that the model starts from.
        sample: see `Completion`.
        row: see `Completion`.
        skipped_ids: tokens that are left out of the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        conditions: StopConditions,
        prompt: str,
        prompt_ids: list[int],
        sample: int = 0,
        row: int = 0,
        skipped_ids: Collection[int] = (),
    ) -> None:
        self.prompt, self.prompt_ids = prompt, prompt_ids
        self.sample, self.row = sample, row
        self.num_cut_tokens = 0
        self.latency_ms = 0.0
        self.token_ids: list[int] = []
        self.log_probs: list[float] | None = None
        self.finish_reason: FinishReason | None = None
        self._conditions, self._skipped_ids = conditions, skipped_ids
        self._pieces: list[str] = []
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopStrings(conditions.stop)

    def add(self, token: NewToken) -> str:
        """Append a token; return the characters that became final with it, often none."""
        if token.log_prob is not None:
            self.log_probs = [] if self.log_probs is None else self.log_probs
        if token.is_end:
            return self.end("eos" if token.id == self._conditions.eos_token_id else "stop")
        self.token_ids.append(token.id)
        if self.log_probs is not None and token.log_prob is not None:
            self.log_probs.append(token.log_prob)
        return "" if token.id in self._skipped_ids else self._take(self._decoder.feed(token.id))

    def end(self, reason: FinishReason = "length") -> str:
        """End the text; return the characters held back until now, none if it had ended already."""
        if self.finish_reason is not None:
            return ""
        piece = self._take(self._decoder.flush())
        if self.finish_reason is None:
            self.finish_reason = reason
            piece += self._keep(self._stops.flush())
        return piece

    def completion(self) -> Completion:
        """End the text if it has not ended, and return it."""
        self.end()
        assert self.finish_reason is not None
        return Completion(
            prompt=self.prompt,
            text="".join(self._pieces),
            token_ids=tuple(self.token_ids),
            finish_reason=self.finish_reason,
            latency_ms=self.latency_ms,
            eos_token_id=self._conditions.eos_token_id,
            log_probs=None if self.log_probs is None else tuple(self.log_probs),
            sample=self.sample,
            row=self.row,
            num_cut_tokens=self.num_cut_tokens,
        )

    def _take(self, piece: str) -> str:
        final = self._stops.feed(piece)
        if self._stops.found is not None:
            self.finish_reason = "stop"
        return self._keep(final)

    def _keep(self, piece: str) -> str:
        self._pieces.append(piece)
        return piece


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
    ngrams: NgramMemory | None = None,
) -> list[Completion]:
    """Continue the prompts of [generation]: `num_samples` texts of each, prompt by prompt.

    Text i is sampled with the random number stream `first_row` + i of `seed`. It depends on the model, its
    prompt, `generation`, `seed` and that row, and neither on the other prompts nor on `batch_size`: with
    `kernels` to the last bit, otherwise except for rounding.
    `bos_token` is put before each prompt; without one, an empty prompt starts from `start` or the end-of-text
    token.
    `kernels`, `ngrams`: see `generate.Options`.

    Raises:
        ConfigError: for a special token that the tokenizer lacks, or an empty prompt without such a token.
    """
    texts = start(tokenizer, generation, first_row)
    return list(completions(model, tokenizer, generation, texts, seed, on_text, batch_size, kernels, ngrams))


def completions(
    model: TransformerLM,
    tokenizer: Tokenizer,
    generation: GenerationConfig,
    texts: Sequence[Continuation],
    seed: int = 0,
    on_text: OnText | None = None,
    batch_size: int = BATCH_SIZE,
    kernels: bool = False,
    ngrams: NgramMemory | None = None,
) -> Iterator[Completion]:
    """Complete texts from `start`; yield them in order, each once it and those before it have ended.

    `batch_size` texts are written at a time. One that ends gives its place to the next.
    """
    batch = ContinuousBatch[int](model, max(1, min(batch_size, len(texts))), kernels=kernels)
    settings = decoding_settings(tokenizer, generation, seed, kernels, ngrams)
    for index, text in enumerate(texts):
        text.num_cut_tokens = window_start(len(text.prompt_ids), model.config.context_length)
        batch.submit(index, text.prompt_ids, dataclasses.replace(settings, first_row=text.row))
    num_yielded, on_cuda = 0, model.embedding.weight.device.type == "cuda"
    at_most = STEPS_AHEAD if on_cuda and on_text is None else 1  # who streams wants each token as it comes
    while num_yielded < len(texts):
        for index, token in (pair for step in batch.steps(at_most) for pair in step.items()):
            text = texts[index]
            pieces = [text.add(token)]
            text.latency_ms = 1000 * token.seconds
            if text.finish_reason is not None:
                batch.remove(index)
            elif index not in batch:
                pieces.append(text.end())
            for piece in filter(None, pieces):
                if on_text is not None:
                    on_text(index, piece)
        while num_yielded < len(texts) and texts[num_yielded].finish_reason is not None:
            yield texts[num_yielded].completion()
            num_yielded += 1


def start(tokenizer: Tokenizer, generation: GenerationConfig, first_row: int = 0) -> list[Continuation]:
    """Encode the prompts of [generation]; return an empty continuation for each text to generate.

    Raises:
        ConfigError: see `complete`.
    """
    eos = StopConditions.from_config(generation, tokenizer).eos_token_id
    bos = special_id(tokenizer, "bos_token", generation.bos_token) if generation.bos_token else None
    begin = functools.partial(encode_prompt, tokenizer, eos_token_id=eos, bos_token_id=bos)
    prompts = [EncodedPrompt(text, begin(text, start=generation.start_text)) for text in generation.prompts]
    return start_encoded(tokenizer, generation, prompts, first_row)


def start_encoded(
    tokenizer: Tokenizer, generation: GenerationConfig, prompts: Sequence[EncodedPrompt], first_row: int = 0
) -> list[Continuation]:
    """Return an empty continuation for each text to generate, `num_samples` of each prompt.

    Raises:
        ConfigError: for a special token that the tokenizer lacks.
    """
    conditions = StopConditions.from_config(generation, tokenizer)
    skipped = frozenset(tokenizer.special_token_ids.values() if generation.skip_special_tokens else ())
    texts: list[Continuation] = []
    for prompt in prompts:
        for sample in range(generation.num_samples):
            row = first_row + len(texts)
            texts.append(Continuation(tokenizer, conditions, *prompt, sample, row, skipped))
    return texts


def extend(
    model: TransformerLM,
    tokenizer: Tokenizer,
    generation: GenerationConfig,
    texts: Sequence[Continuation],
    seed: int = 0,
    kernels: bool = False,
    ngrams: NgramMemory | None = None,
) -> Iterator[tuple[int, str]]:
    """Extend texts of consecutive rows in one batch until all have ended.

    Yields (index of the text, piece) for each token of each text; the piece is often "". A caller that stops
    iterating stops the texts; `Continuation.end` then returns the characters held back.
    """
    started = time.perf_counter()
    settings = decoding_settings(tokenizer, generation, seed, kernels, ngrams)
    settings = dataclasses.replace(settings, first_row=texts[0].row)
    prompts = [text.prompt_ids for text in texts]
    for text in texts:
        text.num_cut_tokens = window_start(len(text.prompt_ids), model.config.context_length)
    for step in steps(model, prompts, settings, lambda index: texts[index].finish_reason is not None):
        latency_ms = 1000 * (time.perf_counter() - started)
        for index, token in step.items():
            texts[index].latency_ms = latency_ms
            yield index, texts[index].add(token)
    for index, text in enumerate(texts):
        yield index, text.end()


def decoding_settings(
    tokenizer: Tokenizer,
    generation: GenerationConfig,
    seed: int,
    kernels: bool,
    ngrams: NgramMemory | None = None,
) -> DecodingSettings:
    """Return the settings of ids for the settings of texts.

    Raises:
        ConfigError: for a special token that the tokenizer lacks.
    """
    return DecodingSettings(
        max_new_tokens=generation.max_new_tokens,
        sampling=Sampling.from_config(generation),
        end_ids=StopConditions.from_config(generation, tokenizer).end_ids,
        seed=seed,
        # A model may have more rows than the tokenizer has ids; these rows have no text.
        vocab_size=tokenizer.vocab_size,
        log_probs=generation.log_probs,
        kernels=kernels,
        ngrams=ngrams,
    )


def cut_prompts_warning(texts: Sequence[Continuation], context_length: int) -> str | None:
    """Return a line about prompts that are longer than the model's context; None if none is."""
    cut = {index: window_start(len(text.prompt_ids), context_length) for index, text in enumerate(texts)}
    cut = {index: number for index, number in cut.items() if number}
    if not cut:
        return None
    which = "the prompt is" if len(texts) == 1 else f"{len(cut)} of {len(texts)} prompts are"
    least, most = min(cut.values()), max(cut.values())
    numbers = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    longer = f"{which} longer than the model's context of {context_length:,} tokens"
    return f"{longer}: the first {numbers} are not seen"


def check_prompts(tokenizer: Tokenizer, generation: GenerationConfig) -> None:
    """Check that the prompts of [generation] can be continued, for example before a long training.

    Raises:
        ConfigError: see `complete`.
    """
    start(tokenizer, generation)


def encode_prompt(
    tokenizer: Tokenizer,
    prompt: str,
    eos_token_id: int | None,
    bos_token_id: int | None = None,
    start: str = "",
) -> list[int]:
    """Encode a prompt, behind the token that begins texts; without one, "" becomes `start`, or the eos token.

    A prompt that begins with that token itself gets no second one.

    Raises:
        ConfigError: for an empty prompt where there is no such token.
    """
    ids = tokenizer.encode(prompt)
    return ids_before(ids, eos_token_id, bos_token_id, tokenizer.encode(start)) + ids


def ids_before(
    ids: Sequence[int], eos_token_id: int | None, bos_token_id: int | None, start: Sequence[int] = ()
) -> list[int]:
    """Return the ids that the model reads before a prompt's own; see `encode_prompt`.

    Raises:
        ConfigError: for an empty prompt where there is no such token.
    """
    if bos_token_id is not None:
        return [] if ids and ids[0] == bos_token_id else [bos_token_id]
    if ids or start:
        return [] if ids else list(start)
    if eos_token_id is None:
        raise ConfigError(NOTHING_TO_START_FROM, key=Key("generation", "prompts"))
    return [eos_token_id]


def completion_values(completion: Completion, generation: GenerationConfig) -> dict[str, float | int | str]:
    """Return the values to log for a completion that was generated with `generation`."""
    eos = completion.eos_token_id
    return {
        names.PROMPT: completion.prompt,
        names.OUTPUT: completion.text,
        names.LATENCY_MS: completion.latency_ms,
        names.TEMPERATURE: generation.temperature,
        names.TOP_P: generation.top_p,
        names.EOS_TOKEN_ID: -1 if eos is None else eos,
    }
