"""Generation of token ids: one token of every text per step, until all have ended.

Independent of tokenizers and files. Texts of different lengths share a batch, and a text that has ended is
removed from it. A text may outgrow the model's context: see `batch.window_start`.

A text does not depend on the others in its batch: with the CPU kernels to the last bit, and with PyTorch's
operations except for rounding, since their products may add in another order for another number of rows.
There, and with or without the key-value cache, a text may differ where two tokens are almost equally likely.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Required, Self, TypedDict, Unpack, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from transformerlm.errors import NumericalError
from transformerlm.infer.batch import Batch, CachedBatch
from transformerlm.infer.sampling import RandomStream, Sampling, log_probabilities, sample_rows
from transformerlm.kernels.dispatch import compute_on_one_thread_after_forks
from transformerlm.ngrams import NgramMemory, TextMemory, mixed_logits
from transformerlm.nn import TransformerLM
from transformerlm.nn.fused import uses_kernels, with_kernels
from transformerlm.schema.values import show

Ids = Sequence[int]


class Options(TypedDict, total=False):
    """Keyword arguments of `generate` and `stream`; only `max_new_tokens` is required."""

    max_new_tokens: Required[int]
    """Maximum number of tokens to generate for each text."""
    temperature: float
    """Divides the logits (default 1); 0 takes the likeliest token."""
    top_p: float
    """Nucleus probability (default 1: all tokens)."""
    top_k: int | None
    """Number of the likeliest tokens to draw from (default None: all)."""
    min_p: float
    """Draw from the tokens at least this many times as likely as the likeliest (default 0: all)."""
    repetition_penalty: float
    """Makes tokens that already occur in prompt or text less likely (default 1: no penalty)."""
    eos_token_id: int | None
    """The token that ends a text (default None: none does)."""
    stop_token_ids: Collection[int]
    """Other tokens that end a text (default: none)."""
    seed: int
    """Seed of the random numbers (default 0), which depend on the seed, a text's row and the step."""
    first_row: int
    """Row (random stream) of the first prompt (default 0); the others follow. A row's random numbers do not
    depend on its batch."""
    vocab_size: int | None
    """Draw only from ids below this number (default None: from all of the model's)."""
    use_cache: bool
    """Cache keys and values (default True). If False each step computes the whole text: the slow oracle."""
    kernels: bool
    """On a CPU, compute with this package's own kernels, compiled once (default False: with PyTorch's
    operations). Equal except for rounding, and several times as fast."""
    ngrams: NgramMemory | None
    """Memory of n-grams that the model's probabilities are mixed with (default None: the model alone)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingSettings:
    """Settings of `steps`; fields without documentation are those of `Options`.

    Raises:
        ValueError: for a value outside its range.
    """

    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    end_ids: frozenset[int] = frozenset()
    """Tokens that end a text."""
    seed: int = 0
    first_row: int = 0
    vocab_size: int | None = None
    log_probs: bool = False
    """Compute each token's log-probability, before the settings of sampling."""
    num_alternatives: int = 0
    """Number of the likeliest tokens that are told beside each one; in a `ContinuousBatch` only."""
    use_cache: bool = True
    kernels: bool = False
    steps_ahead: int = 1
    """Steps that a device may take before the host reads their tokens: what is drawn after the end of a text
    is thrown away. For callers that do not show each token at once; more than 1 needs the cache."""
    ngrams: NgramMemory | None = None
    """Mixed with the model's probabilities. The host looks each token up: steps are taken one by one."""

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.seed, self.first_row) < 0:
            got = f"{self.max_new_tokens}, {self.seed}, {self.first_row}"
            raise ValueError(f"max_new_tokens, seed, first_row: expected numbers of at least 0, got {got}")

    @classmethod
    def from_options(cls, **options: Unpack[Options]) -> Self:
        """Return settings from the keyword arguments of `generate`."""
        given: dict[str, Any] = dict(options)
        eos, stop_token_ids = given.pop("eos_token_id", None), given.pop("stop_token_ids", ())
        end_ids = frozenset((*stop_token_ids, *(() if eos is None else (eos,))))
        sampling = Sampling(**{key: given.pop(key) for key in Sampling.field_names() if key in given})
        return cls(sampling=sampling, end_ids=end_ids, **given)


class NewToken(NamedTuple):
    """The token that a step appended to a text."""

    id: int
    is_end: bool
    """True for one of `end_ids`: it ends the text and is not part of it."""
    log_prob: float | None
    """See `log_probabilities`; None unless `DecodingSettings.log_probs`."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with their log-probabilities; see `DecodingSettings.num_alternatives`."""
    seconds: float = 0.0
    """Seconds since the text got its row, in a `ContinuousBatch`."""


@overload
def generate(model: TransformerLM, prompt_ids: Ids, **options: Unpack[Options]) -> list[int]: ...
@overload
def generate(
    model: TransformerLM, prompt_ids: Sequence[Ids], **options: Unpack[Options]
) -> list[list[int]]: ...
def generate(
    model: TransformerLM, prompt_ids: Ids | Sequence[Ids], **options: Unpack[Options]
) -> list[int] | list[list[int]]:
    """Continue one text, or several in a batch.

        generate(model, tokenizer.encode("Once"), max_new_tokens=100, temperature=0.8, top_p=0.95)

    Args:
        model: put in evaluation mode during the call, and otherwise unchanged.
        prompt_ids: the ids of a text (a list, an array, a tensor), or several of any lengths of at least 1.
        options: see `Options`.

    Returns:
        The new ids of the text, or a list of them per text. An id that ended a text is not included.

    Raises:
        ValueError: for a prompt without a token or with an unknown one, or an option outside its range.
        NumericalError: where the model's logits are NaN.
    """
    if not hasattr(prompt_ids, "__len__"):
        raise ValueError(f"prompt_ids: expected token ids, got {show(prompt_ids)}")
    is_one_text = not len(prompt_ids) or np.ndim(prompt_ids[0]) == 0
    prompts = cast(Sequence[Ids], [prompt_ids] if is_one_text else prompt_ids)
    new_ids: list[list[int]] = [[] for _ in prompts]
    settings = DecodingSettings.from_options(**options)
    if model.final_norm.weight.device.type == "cuda":
        settings = replace(settings, steps_ahead=STEPS_AHEAD)
    for step in steps(model, prompts, settings):
        for prompt, token in step.items():
            if not token.is_end:
                new_ids[prompt].append(token.id)
    return new_ids[0] if is_one_text else new_ids


def stream(model: TransformerLM, prompt_ids: Ids, **options: Unpack[Options]) -> Iterator[int]:
    """Yield the ids that `generate` returns for one text, each as soon as it is drawn."""
    for step in steps(model, [prompt_ids], DecodingSettings.from_options(**options)):
        if not step[0].is_end:
            yield step[0].id


def steps(
    model: TransformerLM,
    prompts: Sequence[Ids],
    settings: DecodingSettings,
    is_finished: Callable[[int], bool] = lambda prompt: False,
) -> Iterator[dict[int, NewToken]]:
    """Continue several texts; yield {index of the prompt: its new token} after each step.

    A text that has ended is missing from later steps; the token that ended it is its last.

    Args:
        is_finished: called with the index of each text when the next step is requested; True ends the text,
        for example at a stop string.

    Raises:
        ValueError: for a prompt without a token or with an unknown one.
        NumericalError: where the model's logits are NaN.
    """
    vocabulary = model.config.vocabulary_rows
    check_prompt_ids(prompts, vocabulary)
    check_memory(settings.ngrams, vocabulary)
    compute_on_one_thread_after_forks()
    if settings.kernels and model.final_norm.weight.device.type == "cpu" and not uses_kernels(model):
        model = with_kernels(model)
    max_new_tokens = settings.max_new_tokens
    batch = CachedBatch(model, prompts, max_new_tokens) if settings.use_cache else Batch(model, prompts)
    state = _RowState(prompts, settings, batch.device)
    if settings.sampling.repetition_penalty != 1:
        state.seen = seen_ids(prompts, vocabulary).to(batch.device)[:, : settings.vocab_size]
    return _steps(batch, state, settings, is_finished)


def check_prompt_ids(prompts: Sequence[Ids], vocab_size: int) -> None:
    """Check that prompts are ids of the model.

    Raises:
        ValueError: for a prompt without a token or with an unknown one.
    """
    for index, prompt in enumerate(prompts):
        try:
            ids = [operator.index(token_id) for token_id in prompt]
        except TypeError:
            raise ValueError(f"prompt {index}: expected token ids, got {show(prompt)}") from None
        if not ids:
            raise ValueError(f"prompt {index}: expected at least one token, such as the end-of-text token")
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            got = f"{min(ids)} to {max(ids)}"
            raise ValueError(f"prompt {index}: expected ids from 0 to {vocab_size - 1}, got {got}")


def check_memory(ngrams: NgramMemory | None, vocab_size: int) -> None:
    """Check that a memory of n-grams is of the model's vocabulary.

    Raises:
        ValueError: it is not.
    """
    if ngrams and ngrams.index.vocab_size != vocab_size:
        raise ValueError(f"ngrams: expected a memory of {vocab_size} ids, got {ngrams.index.vocab_size}")


def seen_ids(prompts: Sequence[Ids], vocab_size: int) -> Tensor:
    """Return BoolTensor [prompts, vocabulary]: True at the ids that occur in each prompt."""
    seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device="cpu")
    for row, ids in zip(seen, prompts, strict=True):
        row[[int(token_id) for token_id in ids]] = True
    return seen


NOT_A_TOKEN = -1
"""What `sample_rows` draws from logits that are NaN."""
STEPS_AHEAD = 16
"""`DecodingSettings.steps_ahead` of `generate` on a GPU: one in so many steps waits for the host."""
NUMBERS_AT_A_TIME = 64
"""Steps for which random numbers are drawn at once: a call for each number would take as long as a draw."""


class _RowState:
    """Per-text state of a batch, in addition to the texts themselves."""

    def __init__(self, prompts: Sequence[Ids], settings: DecodingSettings, device: torch.device) -> None:
        num_prompts = len(prompts)
        self.prompts = [*range(num_prompts)]
        """Index of each text's prompt."""
        self.seen: Tensor | None = None
        """BoolTensor [texts, vocabulary]: ids that occur in each; None without a repetition penalty."""
        self.memories: list[TextMemory] = []
        """What each text has in memory; none without a memory of n-grams."""
        if settings.ngrams:
            self.memories = [settings.ngrams.text(prompt) for prompt in prompts]
        rows = range(settings.first_row, settings.first_row + num_prompts)
        self._streams = [RandomStream(settings.seed, row) for row in rows]
        self._uniforms = torch.empty(0, num_prompts, dtype=torch.float32, device=device)
        self._steps_used = 0

    def next_uniforms(self) -> Tensor:
        """Return the random number of each text for the next step: [texts]."""
        if self._steps_used == len(self._uniforms):
            drawn = np.stack([stream.next(NUMBERS_AT_A_TIME) for stream in self._streams], axis=-1)
            self._uniforms, self._steps_used = torch.from_numpy(drawn).to(self._uniforms.device), 0
        self._steps_used += 1
        return self._uniforms[self._steps_used - 1]

    def select(self, texts: Sequence[int]) -> None:
        """Keep these texts, in this order, and drop the others."""
        self.prompts = [self.prompts[text] for text in texts]
        self._streams = [self._streams[text] for text in texts]
        self._uniforms = self._uniforms[:, texts]
        self.seen = None if self.seen is None else self.seen[texts]
        self.memories = [self.memories[text] for text in texts] if self.memories else []

    def mixed(self, logits: Tensor) -> Tensor:
        """Return the logits of all texts, mixed with what their memories know."""
        return mixed_logits(logits, self.memories) if self.memories else logits

    def remember(self, host_ids: Sequence[int]) -> None:
        """Put each text's new id into its memory. What the model wrote itself is context only: counted, it
        would be repeated again and again."""
        for memory, token_id in zip(self.memories, host_ids, strict=bool(self.memories)):
            memory.extend([token_id], counts=False)

    def append(self, new_ids: Tensor) -> None:
        """Mark each text's new id as seen: LongTensor [texts]."""
        if self.seen is not None:
            self.seen.scatter_(-1, new_ids.unsqueeze(-1), True)


@torch.inference_mode()
def _steps(
    batch: Batch, state: _RowState, settings: DecodingSettings, is_finished: Callable[[int], bool]
) -> Iterator[dict[int, NewToken]]:
    left, kernels = settings.max_new_tokens, uses_kernels(batch.model)
    steps_ahead = 1 if settings.ngrams else settings.steps_ahead
    with evaluation_mode(batch.model):
        while left:
            number = min(left, batch.steps_ahead(steps_ahead))
            drawn = _draw(batch, state, settings, number, kernels)
            left -= len(drawn)
            going = [*range(len(state.prompts))]
            taken: list[list[NewToken]] = []
            for tokens in _to_host(drawn, settings.end_ids):
                if any(tokens[text].id == NOT_A_TOKEN for text in going):
                    raise NumericalError("the model's logits are not numbers (NaN): no text can be drawn")
                yield {state.prompts[text]: tokens[text] for text in going}
                going = [
                    text for text in going if not (tokens[text].is_end or is_finished(state.prompts[text]))
                ]
                if not going:
                    return
                taken.append(tokens)
            if len(going) < len(state.prompts):
                going = fill_gaps(going)
                batch.select(going)
                state.select(going)
                drawn = [(new_ids[going], log_probs) for new_ids, log_probs in drawn]
            state.append(drawn[-1][0])
            for (new_ids, _), tokens in zip(drawn, taken, strict=True):
                host_ids = [tokens[text].id for text in going]
                batch.append(new_ids, host_ids)
                state.remember(host_ids)


Drawn = tuple[Tensor, Tensor | None]
"""New id of each text, LongTensor [texts], and their log-probabilities if wanted; on the device."""


def _draw(
    batch: Batch, state: _RowState, settings: DecodingSettings, number: int, kernels: bool
) -> list[Drawn]:
    """Draw the next `number` tokens of each text, for none of which the host waits."""
    drawn: list[Drawn] = []
    for _ in range(number):
        if drawn:
            # What is not a token is found later; looked up in the embedding it would end the process.
            last = drawn[-1][0].clamp(min=0)
            state.append(last)
            logits = batch.logits_after(last)
        else:
            logits = state.mixed(batch.next_logits())
        candidates, uniforms = logits[:, : settings.vocab_size], state.next_uniforms()
        new_ids = sample_rows(candidates, settings.sampling, uniforms, state.seen, kernels=kernels)
        log_probs = log_probabilities(logits, new_ids.clamp(min=0)) if settings.log_probs else None
        drawn.append((new_ids, log_probs))
    return drawn


def _to_host(drawn: Sequence[Drawn], end_ids: frozenset[int]) -> Iterator[list[NewToken]]:
    """Yield the tokens of each step as Python numbers."""
    # Host sync: the caller shows each token, and a text may end at it. One copy for all steps.
    all_ids = torch.stack([new_ids for new_ids, _ in drawn]).tolist()
    probs = [log_probs for _, log_probs in drawn if log_probs is not None]
    all_probs = torch.stack(probs).tolist() if probs else [[None] * len(ids) for ids in all_ids]
    for ids, row in zip(all_ids, all_probs, strict=True):
        yield [NewToken(token_id, token_id in end_ids, p) for token_id, p in zip(ids, row, strict=True)]


def fill_gaps(kept: list[int]) -> list[int]:
    """Reorder indices so that most keep their places: the last ones move into the gaps.

    [0, 2, 3, 5]  ->  [0, 5, 2, 3]
    """
    movers = [index for index in kept if index >= len(kept)]
    staying = set(kept) - set(movers)
    return [index if index in staying else movers.pop() for index in range(len(kept))]


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context manager that puts the model in evaluation mode, and restores its mode."""
    was_training = model.training
    if was_training:  # visiting all modules takes as long as a token of a small model
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()
