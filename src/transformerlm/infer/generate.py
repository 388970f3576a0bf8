"""Token ids in, token ids out: one token of every text per step, until all have ended.

It knows nothing of tokenizers or files. Texts of different lengths share a batch, and one that has
ended leaves it. What becomes of a text depends neither on what else is in its batch nor on whether
keys and values are cached. A text may outgrow the model's context: see `window_start`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Required, TypedDict, Unpack, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from transformerlm.errors import NumericalError
from transformerlm.infer.batch import CachedTexts, Texts
from transformerlm.infer.sampling import Sampling, log_probabilities, sample_rows, uniform_numbers
from transformerlm.nn import TransformerLM
from transformerlm.nn.fused import uses_kernels, with_kernels

Ids = Sequence[int]


class Options(TypedDict, total=False):
    """The keyword arguments of `generate`, `stream` and `steps`; only `max_new_tokens` must be given."""

    max_new_tokens: Required[int]
    """Where a text ends at the latest."""
    temperature: float
    """Divides the logits (default 1); 0 takes the likeliest token."""
    top_p: float
    """Nucleus probability (default 1: all tokens)."""
    top_k: int | None
    """How many of the likeliest tokens to draw from (default None: all)."""
    min_p: float
    """Draw from the tokens at least this many times as likely as the likeliest (default 0: all)."""
    repetition_penalty: float
    """Makes tokens of prompt and text less likely to come again (default 1: it does not)."""
    eos_token_id: int | None
    """The token that ends a text (default None: none does)."""
    stop_token_ids: Collection[int]
    """Other tokens that do (default: none)."""
    seed: int
    """Of the random numbers (default 0): those of a text follow from `seed`, its row and the step."""
    first_row: int
    """Row of the first prompt (default 0); the next ones follow. Row 7 of a seed is drawn alike anywhere."""
    vocab_size: int | None
    """Ids from here on are never chosen (default None: all of the model's may be)."""
    log_probs: bool
    """Have `steps` tell the model's own log-probability of each token (default False)."""
    use_cache: bool
    """Keep keys and values (default True). Without, each step computes the whole text: the slow oracle."""
    kernels: bool
    """On a CPU, compute in this package's own kernels, compiled once (default False: in what the model
    computes in, by itself PyTorch's operations). Equal but for rounding, and several times as quick."""


class NewToken(NamedTuple):
    """What a step has added to a text."""

    id: int
    is_end: bool
    """Whether it is `eos_token_id` or one of `stop_token_ids`: it ends the text and is no part of it."""
    log_prob: float | None
    """See `log_probabilities`; None where they were not asked for."""


@overload
def generate(model: TransformerLM, prompt_ids: Ids, **options: Unpack[Options]) -> list[int]: ...
@overload
def generate(
    model: TransformerLM, prompt_ids: Sequence[Ids], **options: Unpack[Options]
) -> list[list[int]]: ...
def generate(
    model: TransformerLM, prompt_ids: Ids | Sequence[Ids], **options: Unpack[Options]
) -> list[int] | list[list[int]]:
    """Continue one text, or several side by side.

        generate(model, tokenizer.encode("Once"), max_new_tokens=100, temperature=0.8, top_p=0.95)

    Args:
        model: put in evaluation mode meanwhile; nothing else about it changes.
        prompt_ids: the ids of a text (a list, an array, a tensor), or several of any lengths from 1 on.
        options: see `Options`.

    Returns:
        The new ids of the text, or a list of them per text. The id that ended a text is not among them.

    Raises:
        ValueError: for a prompt without a token or with an unknown one, or an option outside its range.
        NumericalError: where the model's logits are not numbers.
    """
    is_one_text = not len(prompt_ids) or np.ndim(prompt_ids[0]) == 0
    prompts = cast(Sequence[Ids], [prompt_ids] if is_one_text else prompt_ids)
    written: list[list[int]] = [[] for _ in prompts]
    for step in steps(model, prompts, **options):
        for prompt, token in step.items():
            if not token.is_end:
                written[prompt].append(token.id)
    return written[0] if is_one_text else written


def stream(model: TransformerLM, prompt_ids: Ids, **options: Unpack[Options]) -> Iterator[int]:
    """The ids that `generate` returns for one text, each as soon as it is chosen."""
    for step in steps(model, [prompt_ids], **options):
        if not step[0].is_end:
            yield step[0].id


def steps(
    model: TransformerLM,
    prompts: Sequence[Ids],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    eos_token_id: int | None = None,
    stop_token_ids: Collection[int] = (),
    seed: int = 0,
    first_row: int = 0,
    vocab_size: int | None = None,
    log_probs: bool = False,
    use_cache: bool = True,
    kernels: bool = False,
    is_over: Callable[[int], bool] = lambda prompt: False,
) -> Iterator[dict[int, NewToken]]:
    """Continue several texts and yield after each step {index of the prompt: its new token}.

    A text that has ended is missing from later steps; the token that ended it is its last.

    Args:
        is_over: asked of each text when the next step is wanted: whether it is to end here, for a reason
            that is the caller's own, such as what its tokens mean.
    """
    sampling = Sampling(temperature, top_p, top_k, min_p, repetition_penalty)
    _check_prompts(prompts, model.config.vocabulary_rows)
    if min(max_new_tokens, seed, first_row) < 0:
        got = f"{max_new_tokens}, {seed}, {first_row}"
        raise ValueError(f"max_new_tokens, seed, first_row: expected numbers of at least 0, got {got}")
    if kernels and model.embedding.weight.device.type == "cpu" and not uses_kernels(model):
        model = with_kernels(model)
    texts = CachedTexts(model, prompts, max_new_tokens) if use_cache else Texts(model, prompts)
    rows = _Rows.of(texts, prompts, seed, first_row, max_new_tokens)
    if repetition_penalty != 1:
        rows.seen = seen_ids(prompts, model.config.vocabulary_rows).to(texts.device)[:, :vocab_size]
    end_ids = frozenset((*stop_token_ids, *([] if eos_token_id is None else [eos_token_id])))
    return _steps(texts, rows, sampling, end_ids, is_over, vocab_size, log_probs)


def _check_prompts(prompts: Sequence[Ids], vocab_size: int) -> None:
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {index}: expected at least one token, such as the end-of-text token")
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            got = f"{min(prompt)} to {max(prompt)}"
            raise ValueError(f"prompt {index}: expected ids from 0 to {vocab_size - 1}, got {got}")


def seen_ids(prompts: Sequence[Ids], vocab_size: int) -> Tensor:
    """BoolTensor [prompts, vocabulary]: which ids occur in each."""
    seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
    for row, ids in zip(seen, prompts, strict=True):
        row[[int(token_id) for token_id in ids]] = True
    return seen


@dataclass
class _Rows:
    """What is kept of each text of a batch besides the text itself."""

    prompts: list[int]
    """The index of each one's prompt."""
    uniforms: Tensor
    """[steps, texts]: the random numbers of each."""
    seen: Tensor | None = None
    """BoolTensor [texts, vocabulary]: the ids that occur in each; None where nobody asks."""

    @classmethod
    def of(cls, texts: Texts, prompts: Sequence[Ids], seed: int, first_row: int, num_steps: int) -> _Rows:
        rows = range(first_row, first_row + len(prompts))
        numbers = np.stack([uniform_numbers(seed, row, num_steps) for row in rows], axis=-1)
        return cls(list(range(len(prompts))), torch.from_numpy(numbers).to(texts.device))

    def select(self, texts: Sequence[int]) -> None:
        """Keep these texts, in this order, and drop the others."""
        self.prompts = [self.prompts[text] for text in texts]
        self.uniforms = self.uniforms[:, texts]
        self.seen = None if self.seen is None else self.seen[texts]

    def add(self, new_ids: Tensor) -> None:
        """Each text goes on with its new id: LongTensor [texts]."""
        if self.seen is not None:
            self.seen.scatter_(-1, new_ids.unsqueeze(-1), True)


@torch.inference_mode()
def _steps(
    texts: Texts,
    rows: _Rows,
    sampling: Sampling,
    end_ids: frozenset[int],
    is_over: Callable[[int], bool],
    vocab_size: int | None,
    log_probs: bool,
) -> Iterator[dict[int, NewToken]]:
    kernels = uses_kernels(texts.model)
    with evaluation_mode(texts.model):
        for step in range(len(rows.uniforms)):
            logits = texts.next_logits()
            uniforms, seen = rows.uniforms[step], rows.seen
            new_ids = sample_rows(logits[:, :vocab_size], sampling, uniforms, seen, kernels=kernels)
            tokens = _on_host(new_ids, logits if log_probs else None, end_ids)
            yield dict(zip(rows.prompts, tokens, strict=True))
            going = [
                text for text, token in enumerate(tokens) if not (token.is_end or is_over(rows.prompts[text]))
            ]
            if not going:
                return
            if len(going) < len(tokens):
                going = _fill_holes(going)
                texts.select(going)
                rows.select(going)
                new_ids = new_ids[going]
            rows.add(new_ids)
            texts.append(new_ids, [tokens[text].id for text in going])


def _on_host(new_ids: Tensor, logits: Tensor | None, end_ids: frozenset[int]) -> list[NewToken]:
    """The tokens of a step as Python's numbers; their log-probabilities where there are logits."""
    # The host waits for the device here: whoever streams, or ends at a token, has to know it.
    ids = new_ids.tolist()
    if -1 in ids:
        raise NumericalError("the model's logits are not numbers (NaN): no text can be drawn from them")
    log_probs = [None] * len(ids) if logits is None else log_probabilities(logits, new_ids).tolist()
    return [NewToken(token_id, token_id in end_ids, p) for token_id, p in zip(ids, log_probs, strict=True)]


def _fill_holes(kept: list[int]) -> list[int]:
    """The same indices in an order that leaves most at their places: the last ones move into the gaps.

    [0, 2, 3, 5]  ->  [0, 5, 2, 3]
    """
    movers = [index for index in kept if index >= len(kept)]
    staying = set(kept) - set(movers)
    return [index if index in staying else movers.pop() for index in range(len(kept))]


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards in the mode that it was in."""
    was_training = model.training
    if was_training:  # going through all modules takes as long as a small model takes for a token
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()
