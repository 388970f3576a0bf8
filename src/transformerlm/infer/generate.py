"""Token ids in, token ids out: one token of every text per step, until all have ended.

It knows nothing of tokenizers or files. Texts of different lengths share a batch, and one that has
ended leaves it. What becomes of a text depends neither on what else is in its batch nor on whether
keys and values are cached. A text may outgrow the model's context: see `window_start`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Required, TypedDict, Unpack, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from transformerlm.errors import NumericalError
from transformerlm.infer.sampling import check_sampling, sample, uniform_numbers
from transformerlm.infer.texts import CachedTexts, Texts
from transformerlm.nn import TransformerLM

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
    eos_token_id: int | None
    """The token that ends a text (default None: none does)."""
    seed: int
    """Of the random numbers (default 0): those of a text follow from `seed`, its row and the step."""
    first_row: int
    """Row of the first prompt (default 0); the next ones follow. Row 7 of a seed is drawn alike anywhere."""
    vocab_size: int | None
    """Ids from here on are never chosen (default None: all of the model's may be)."""
    use_cache: bool
    """Keep keys and values (default True). Without, each step computes the whole text: the slow oracle."""


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
        for prompt, token_id in step.items():
            if token_id != options.get("eos_token_id"):
                written[prompt].append(token_id)
    return written[0] if is_one_text else written


def stream(model: TransformerLM, prompt_ids: Ids, **options: Unpack[Options]) -> Iterator[int]:
    """The ids that `generate` returns for one text, each as soon as it is chosen."""
    for step in steps(model, [prompt_ids], **options):
        if step[0] == options.get("eos_token_id"):
            return
        yield step[0]


def steps(
    model: TransformerLM,
    prompts: Sequence[Ids],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    eos_token_id: int | None = None,
    seed: int = 0,
    first_row: int = 0,
    vocab_size: int | None = None,
    use_cache: bool = True,
) -> Iterator[dict[int, int]]:
    """Continue several texts and yield after each step {index of the prompt: its new id}.

    A text that has ended is missing from later steps; the id that ended it is its last.
    """
    check_sampling(temperature, top_p, top_k)
    _check_prompts(prompts, model.config.vocabulary_rows)
    if min(max_new_tokens, seed, first_row) < 0:
        got = f"{max_new_tokens}, {seed}, {first_row}"
        raise ValueError(f"max_new_tokens, seed, first_row: expected numbers of at least 0, got {got}")
    rows = range(first_row, first_row + len(prompts))
    numbers = np.stack([uniform_numbers(seed, row, max_new_tokens) for row in rows], axis=-1)
    texts = CachedTexts(model, prompts, max_new_tokens) if use_cache else Texts(model, prompts)
    return _steps(texts, (temperature, top_p, top_k), numbers, eos_token_id, vocab_size)


def _check_prompts(prompts: Sequence[Ids], vocab_size: int) -> None:
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {index}: expected at least one token, such as the end-of-text token")
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            got = f"{min(prompt)} to {max(prompt)}"
            raise ValueError(f"prompt {index}: expected ids from 0 to {vocab_size - 1}, got {got}")


@torch.inference_mode()
def _steps(
    texts: Texts,
    sampling: tuple[float, float, int | None],
    numbers: npt.NDArray[np.float32],
    eos_token_id: int | None,
    vocab_size: int | None,
) -> Iterator[dict[int, int]]:
    prompts = list(range(numbers.shape[1]))
    uniforms = torch.from_numpy(numbers).to(texts.device)
    with evaluation_mode(texts.model):
        for step in range(len(numbers)):
            new_ids = sample(texts.next_logits()[:, :vocab_size], *sampling, uniforms=uniforms[step])
            # The host waits for the device here: whoever streams, or ends at a token, has to know it.
            ids = new_ids.tolist()
            if -1 in ids:
                raise NumericalError(
                    "the model's logits are not numbers (NaN): no text can be drawn from them"
                )
            yield dict(zip(prompts, ids, strict=True))
            going = [index for index, token_id in enumerate(ids) if token_id != eos_token_id]
            if not going:
                return
            if len(going) < len(ids):
                going = _fill_holes(going)
                texts.select(going)
                prompts = [prompts[index] for index in going]
                uniforms, new_ids = uniforms[:, going], new_ids[going]
            texts.append(new_ids, [ids[index] for index in going])


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
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
