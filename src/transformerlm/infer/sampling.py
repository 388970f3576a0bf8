"""Sampling of a token from logits: filters on the distribution, and the draw from it. Pure functions.

The order is that of Hugging Face: repetition penalty, temperature, top-k, top-p, min-p, draw. Nothing here
makes the host wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transformerlm.config import GenerationConfig
from transformerlm.infer.decoder import LIBRARY
from transformerlm.kernels import dispatch
from transformerlm.kernels.generation_layout import NUM_BINS
from transformerlm.nn.functional import at_least_float32, cross_entropy, softmax


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings; by default tokens are drawn from the model's own distribution.

    Raises:
        ValueError: for a value outside its range.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token (of equally likely ones, that with the lowest id)."""
    top_p: float = 1.0
    """See `top_p_filter`; 1 keeps all tokens."""
    top_k: int | None = None
    """See `top_k_filter`; None keeps all."""
    min_p: float = 0.0
    """See `min_p_filter`; 0 keeps all."""
    repetition_penalty: float = 1.0
    """See the function `repetition_penalty`; 1 changes nothing."""

    @classmethod
    def from_config(cls, generation: GenerationConfig) -> Self:
        """Return the sampling settings in [generation]."""
        return cls(**{key: getattr(generation, key) for key in cls.field_names()})

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Names of the fields, which are also keys of [generation] and keyword arguments of `generate`."""
        return tuple(field.name for field in fields(cls))

    def __post_init__(self) -> None:
        for key, is_met, expected in self._conditions():
            if not is_met:
                raise ValueError(f"{key}: expected {expected}, got {getattr(self, key)}")

    def _conditions(self) -> Iterator[tuple[str, bool, str]]:
        is_number = math.isfinite(self.temperature) and self.temperature >= 0
        yield "temperature", is_number, "a number of at least 0"
        yield "top_p", 0 < self.top_p <= 1, "a number above 0 and at most 1"
        yield "top_k", self.top_k is None or self.top_k >= 1, "a whole number of at least 1, or None"
        yield "min_p", 0 <= self.min_p <= 1, "a number from 0 to 1"
        is_number = math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0
        yield "repetition_penalty", is_number, "a number above 0"


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    *,
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
) -> Tensor:
    """Draw one token from each row of logits.

    p = softmax(logits / temperature), cut to the `top_k` likeliest tokens, then to the nucleus of
    `top_p`; the token drawn is the first whose cumulative probability, in the order of ids, exceeds
    a uniform random number. A row's draw depends on its own logits and number only.

    Args:
        logits: [..., vocabulary]; computed in float32 at least.
        temperature: see `Sampling`.
        top_p: see `top_p_filter`.
        top_k: see `top_k_filter`; None keeps all.
        generator: source of the random numbers; None: torch's global generator.
        uniforms: the random numbers themselves, [...] in [0, 1), in place of `generator`.

    Returns:
        LongTensor [...]: ids; -1 for a row whose logits hold a NaN.

    Raises:
        ValueError: for a parameter outside its range.
    """
    sampling = Sampling(temperature, top_p, top_k)
    if uniforms is None and temperature:
        shape, device = logits.shape[:-1], logits.device
        uniforms = torch.rand(shape, generator=generator, dtype=torch.float32, device=device)
    return sample_rows(logits, sampling, uniforms)


def sample_rows(
    logits: Tensor,
    sampling: Sampling,
    uniforms: Tensor | None,
    seen: Tensor | None = None,
    *,
    kernels: bool = False,
) -> Tensor:
    """Draw one token from each row of logits, with all settings in `sampling`.

    Args:
        logits: [..., vocabulary]; computed in float32 at least.
        uniforms: [...] in [0, 1), the random number of each row; not read if the temperature is 0.
        seen: BoolTensor [..., vocabulary]: the tokens that the repetition penalty applies to. None: none.
        kernels: draw in one call of a CPU kernel, if it accepts these tensors.

    Returns:
        LongTensor [...]: ids; -1 for a row whose logits hold a NaN.
    """
    scores = at_least_float32(logits)
    if seen is not None and sampling.repetition_penalty != 1:
        scores = repetition_penalty(scores, seen, sampling.repetition_penalty)
    if kernels and uniforms is not None and _kernel_takes(scores):
        return sample_with_kernel(scores, sampling, uniforms)
    best, greedy = scores.max(-1, keepdim=True)
    if sampling.temperature == 0 or uniforms is None:
        return torch.where(best.isnan(), -1, greedy).squeeze(-1)
    # The maximum is subtracted first: logits divided by a tiny temperature would be infinite.
    divisor = max(sampling.temperature, torch.finfo(torch.float32).tiny)
    probabilities = softmax((scores - best) / divisor, -1)
    if sampling.top_k is not None:
        probabilities = top_k_filter(probabilities, sampling.top_k)
    probabilities = top_p_filter(probabilities, sampling.top_p)
    if sampling.min_p:
        probabilities = min_p_filter(probabilities, sampling.min_p)
    return draw(probabilities, uniforms)


def _kernel_takes(scores: Tensor) -> bool:
    return scores.dim() == 2 and scores.dtype == torch.float32 and dispatch.can_serve(scores)


def sample_with_kernel(scores: Tensor, sampling: Sampling, uniforms: Tensor) -> Tensor:
    """`sample_rows` in one call of a CPU kernel, without the repetition penalty.

    Args:
        scores: float32 [rows, vocabulary], on the CPU.
        uniforms: float32 [rows], in [0, 1).

    Returns:
        LongTensor [rows]: ids; -1 for a row that holds a NaN.
    """
    rows, width = scores.shape
    threads = 1 if rows == 1 else dispatch.num_threads()  # the team of the decoding step
    ids = torch.empty(rows, dtype=torch.long, device="cpu")
    scratch = torch.empty(threads * width, dtype=torch.float32, device="cpu")
    bins = torch.empty(threads * NUM_BINS, dtype=torch.float64, device="cpu")
    numbers = sampling.temperature, sampling.top_k or 0, sampling.top_p, sampling.min_p
    arguments = scores, uniforms, ids, scratch, bins, rows, scores.stride(0), width, *numbers
    dispatch.run_on(threads, LIBRARY, "sample", (torch.float32,), *arguments)
    return ids


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make seen tokens less likely: divide their logits by `penalty` where positive, else multiply.

        logits [2, -1, 3], seen [yes, yes, no], penalty 2  ->  [1, -2, 3]

    The paper divides only, which would make a token with a negative logit likelier. As in Hugging Face's
    `generate`, tokens of the prompt and of the text count as seen, and a token seen twice as seen once.

    Args:
        logits: [..., vocabulary]
        seen: BoolTensor [..., vocabulary]
        penalty: above 0; 1 changes nothing, a value below 1 makes repetition likelier.

    Raises:
        ValueError: for another `penalty`.

    Source: Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation",
    2019, section 4.1.
    """
    Sampling(repetition_penalty=penalty)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """ln softmax(logits)[id] of each row: the token's log-probability under the model alone.

    Args:
        logits: [..., vocabulary]; computed in float32 at least.
        ids: LongTensor [...]

    Returns:
        [...], nats, at most 0.
    """
    return -cross_entropy(logits, ids, "none")


def top_p_filter(probabilities: Tensor, p: float) -> Tensor:
    """Keep the nucleus, the smallest set of likeliest tokens with a total of at least `p`; renormalise.

    The token with which the total reaches `p` belongs to it, so that it is never empty. Of equally likely
    tokens at its edge, those with the lowest ids belong to it. All others get 0.

        top_p_filter([0.5, 0.25, 0.125, 0.125], 0.8)  ->  [0.571, 0.286, 0.143, 0]

    Args:
        probabilities: [..., vocabulary], each row summing to 1.
        p: above 0, at most 1; compared with a tolerance for the rounding of the sums (8 units in the last
        place of 1).

    Raises:
        ValueError: for another `p`.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, section 3.1.
    """
    Sampling(top_p=p)
    if p == 1:
        return probabilities / probabilities.sum(-1, keepdim=True)
    ascending = _sorted(at_least_float32(probabilities))
    # Summed from the smallest, where rounding is least: drop tokens while the rest still reaches p.
    totals = ascending.cumsum(-1)
    spare = totals[..., -1:] - p + 8 * torch.finfo(totals.dtype).eps
    num_dropped = (totals[..., :-1] <= spare).sum(-1, keepdim=True)
    num_kept = probabilities.shape[-1] - num_dropped
    return _keep_largest(probabilities, ascending.gather(-1, num_dropped), num_kept)


def top_k_filter(probabilities: Tensor, k: int) -> Tensor:
    """Keep the `k` likeliest tokens, of equally likely ones those with the lowest ids; renormalise.

    Args:
        probabilities: [..., vocabulary]
        k: at least 1; all are kept if it is at least the vocabulary's size.

    Raises:
        ValueError: for a smaller `k`.
    """
    Sampling(top_k=k)
    num_kept = min(k, probabilities.shape[-1])
    smallest = at_least_float32(probabilities).topk(num_kept).values[..., -1:]
    return _keep_largest(probabilities, smallest, num_kept)


def min_p_filter(probabilities: Tensor, min_p: float) -> Tensor:
    """Keep the tokens at least `min_p` times as likely as the likeliest; renormalise. All others get 0.

        min_p_filter([0.5, 0.3, 0.15, 0.05], 0.2)  ->  [0.526, 0.316, 0.158, 0]

    Where the model is confident few tokens are kept, otherwise many.

    Args:
        probabilities: [..., vocabulary]
        min_p: from 0, which keeps all, to 1, which keeps only the likeliest and those equally likely.

    Raises:
        ValueError: for another `min_p`.

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs",
    2024, section 3.
    """
    Sampling(min_p=min_p)
    wide = at_least_float32(probabilities)
    kept = torch.where(wide >= min_p * wide.amax(-1, keepdim=True), wide, 0)
    return (kept / kept.sum(-1, keepdim=True)).to(probabilities.dtype)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse transform sampling: the first id whose cumulative probability exceeds the uniform number.

    An id of probability 0 is never drawn, independent of the rounding of the sums.

    Args:
        probabilities: [..., vocabulary]; rows need not sum to 1.
        uniforms: [...], in [0, 1).

    Returns:
        LongTensor [...]; -1 for a row that holds a NaN.
    """
    cumulative = at_least_float32(probabilities).cumsum(-1).masked_fill(probabilities == 0, 0)
    total = cumulative.amax(-1, keepdim=True)
    target = uniforms.to(cumulative).unsqueeze(-1) * total
    # A number just below 1 times the total can round to the total, which no cumulative sum exceeds.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    first = (cumulative > target).to(torch.uint8).argmax(-1)
    return torch.where(total.squeeze(-1).isnan(), -1, first)


class RandomStream:
    """Random numbers in [0, 1) of stream `row` of a seed: a function of seed and row, drawn as needed."""

    def __init__(self, seed: int, row: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, row])))

    def next(self, count: int) -> npt.NDArray[np.float32]:
        """Return the next `count` numbers: the same, however they are divided into calls."""
        return self._generator.random(count, dtype=np.float32)


def _keep_largest(probabilities: Tensor, smallest: Tensor, num_kept: Tensor | int) -> Tensor:
    """Keep the numbers larger than `smallest` and the first ones equal to it, `num_kept` in all."""
    wide = at_least_float32(probabilities)
    larger, equal = wide > smallest, wide == smallest
    room = num_kept - larger.sum(-1, keepdim=True)
    kept = torch.where(larger | (equal & (equal.cumsum(-1) <= room)), wide, 0)
    return (kept / kept.sum(-1, keepdim=True)).to(probabilities.dtype)


def _sorted(values: Tensor) -> Tensor:
    """Sort ascending along the last dimension, without gradient."""
    if values.device.type != "cpu":
        return values.detach().sort(-1).values
    # numpy sorts in vector registers; torch sorts indices too and takes 3 times as long.
    return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1))
