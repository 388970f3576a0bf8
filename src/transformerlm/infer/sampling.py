"""From logits to a token: which tokens may be drawn, and the draw. Pure functions, nothing remembered.

In this order, which is Hugging Face's too: repetition penalty, temperature, top-k, top-p, min-p, the draw.
They know nothing of models or texts. Nothing in them makes the host wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transformerlm.infer.kernel_sampling import sample_in_kernel
from transformerlm.kernels import dispatch
from transformerlm.nn.functional import at_least_float32, cross_entropy, softmax


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; the defaults draw from the model's own distribution.

    Raises:
        ValueError: for a value outside its range, in words.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token (of equals, the one with the lowest id)."""
    top_p: float = 1.0
    """See `top_p_filter`; 1 keeps all tokens."""
    top_k: int | None = None
    """See `top_k_filter`; None keeps all."""
    min_p: float = 0.0
    """See `min_p_filter`; 0 keeps all."""
    repetition_penalty: float = 1.0
    """See `repetition_penalty`, the function; 1 changes nothing."""

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
        temperature: 0 takes the likeliest token (of equals, the one with the lowest id).
        top_p: see `top_p_filter`.
        top_k: see `top_k_filter`; None keeps all.
        generator: where the random numbers come from; None: torch's global generator.
        uniforms: the random numbers themselves, [...] in [0, 1), in place of `generator`.

    Returns:
        LongTensor [...]: ids; -1 for a row whose logits hold a NaN.

    Raises:
        ValueError: for a parameter outside its range.
    """
    sampling = Sampling(temperature, top_p, top_k)
    if uniforms is None and temperature:
        uniforms = torch.rand(logits.shape[:-1], generator=generator, device=logits.device)
    return sample_rows(logits, sampling, uniforms)


def sample_rows(
    logits: Tensor,
    sampling: Sampling,
    uniforms: Tensor | None,
    seen: Tensor | None = None,
    *,
    kernels: bool = False,
) -> Tensor:
    """Draw one token from each row of logits, as all of `sampling` says: a step of every text of a batch.

    Args:
        logits: [..., vocabulary]; computed in float32 at least.
        uniforms: [...] in [0, 1), the random number of each row; not read where the temperature is 0.
        seen: BoolTensor [..., vocabulary]: which tokens the repetition penalty is for. None: none.
        kernels: draw in one call of a CPU kernel, where it takes such tensors.

    Returns:
        LongTensor [...]: ids; -1 for a row whose logits hold a NaN.
    """
    scores = at_least_float32(logits)
    if seen is not None and sampling.repetition_penalty != 1:
        scores = repetition_penalty(scores, seen, sampling.repetition_penalty)
    if (
        kernels
        and uniforms is not None
        and scores.dim() == 2
        and scores.dtype == torch.float32
        and dispatch.can_serve(scores)
    ):
        numbers = sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p
        return sample_in_kernel(scores, uniforms, *numbers)
    best, greedy = scores.max(-1, keepdim=True)
    if sampling.temperature == 0 or uniforms is None:
        return torch.where(best.isnan(), -1, greedy).squeeze(-1)
    # The maximum is taken away first: divided by a tiny temperature it would be infinite, by 0 no number.
    divisor = max(sampling.temperature, torch.finfo(torch.float32).tiny)
    probabilities = softmax((scores - best) / divisor, -1)
    if sampling.top_k is not None:
        probabilities = top_k_filter(probabilities, sampling.top_k)
    probabilities = top_p_filter(probabilities, sampling.top_p)
    if sampling.min_p:
        probabilities = min_p_filter(probabilities, sampling.min_p)
    return draw(probabilities, uniforms)


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make the tokens seen less likely: their logits divided by `penalty` where positive, else multiplied.

        logits [2, -1, 3], seen [yes, yes, no], penalty 2  ->  [1, -2, 3]

    Dividing alone, as the paper has it, would make a token with a negative logit likelier. Here, as in
    Hugging Face's `generate`, prompt and text both count as seen, and a token seen twice as seen once.

    Args:
        logits: [..., vocabulary]
        seen: BoolTensor [..., vocabulary]
        penalty: above 0; 1 changes nothing, below 1 repetition becomes likelier.

    Raises:
        ValueError: for another `penalty`.

    Source: Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation",
    2019, section 4.1.
    """
    Sampling(repetition_penalty=penalty)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """ln softmax(logits)[id] of each row: what the model itself gives its token, before penalty,
    temperature and filters.

    Args:
        logits: [..., vocabulary]; computed in float32 at least.
        ids: LongTensor [...]

    Returns:
        [...], nats, at most 0.
    """
    return -cross_entropy(logits, ids, "none")


def top_p_filter(probabilities: Tensor, p: float) -> Tensor:
    """The nucleus: the smallest set of likeliest tokens with a total of at least `p`, renormalised.

    The token with which the total reaches `p` belongs to it, so that it never is empty. Of equally
    likely tokens at its edge those with the lowest ids do. All others get 0.

        top_p_filter([0.5, 0.25, 0.125, 0.125], 0.8)  ->  [0.571, 0.286, 0.143, 0]

    Args:
        probabilities: [..., vocabulary], each row summing to 1.
        p: above 0, at most 1. Within rounding of the sums (8 units in the last place of 1).

    Raises:
        ValueError: for another `p`.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, section 3.1.
    """
    Sampling(top_p=p)
    if p == 1:
        return probabilities / probabilities.sum(-1, keepdim=True)
    ascending = _sorted(at_least_float32(probabilities))
    # From the small end, where a running sum is the most exact: drop while the rest still has p.
    totals = ascending.cumsum(-1)
    spare = totals[..., -1:] - p + 8 * torch.finfo(totals.dtype).eps
    num_dropped = (totals[..., :-1] <= spare).sum(-1, keepdim=True)
    num_kept = probabilities.shape[-1] - num_dropped
    return _keep_largest(probabilities, ascending.gather(-1, num_dropped), num_kept)


def top_k_filter(probabilities: Tensor, k: int) -> Tensor:
    """The `k` likeliest tokens, renormalised; of equally likely ones, those with the lowest ids.

    Args:
        probabilities: [..., vocabulary]
        k: at least 1; from the vocabulary's size on, all are kept.

    Raises:
        ValueError: for a smaller `k`.
    """
    Sampling(top_k=k)
    num_kept = min(k, probabilities.shape[-1])
    smallest = at_least_float32(probabilities).topk(num_kept).values[..., -1:]
    return _keep_largest(probabilities, smallest, torch.tensor(num_kept, device=probabilities.device))


def min_p_filter(probabilities: Tensor, min_p: float) -> Tensor:
    """The tokens at least `min_p` times as likely as the likeliest, renormalised; all others get 0.

        min_p_filter([0.5, 0.3, 0.15, 0.05], 0.2)  ->  [0.526, 0.316, 0.158, 0]

    Where the model is sure few tokens are left, where it is not many are.

    Args:
        probabilities: [..., vocabulary]
        min_p: from 0, which keeps all, to 1, which keeps the likeliest and its equals.

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
    """The id whose stretch of the cumulative distribution holds the row's uniform number.

    An id of probability 0 is never drawn, whatever the rounding of the sums.

    Args:
        probabilities: [..., vocabulary]; rows need not sum to 1.
        uniforms: [...], in [0, 1).

    Returns:
        LongTensor [...]; -1 for a row that holds a NaN.
    """
    cumulative = at_least_float32(probabilities).cumsum(-1).masked_fill(probabilities == 0, 0)
    total = cumulative.amax(-1, keepdim=True)
    target = uniforms.to(cumulative).unsqueeze(-1) * total
    # A number just below 1 times the total can round to the total, which nothing exceeds.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    first = (cumulative > target).to(torch.uint8).argmax(-1)
    return torch.where(total.squeeze(-1).isnan(), -1, first)


def uniform_numbers(seed: int, row: int, count: int) -> npt.NDArray[np.float32]:
    """The first `count` random numbers in [0, 1) of stream `row`: a function of seed and row alone."""
    stream = np.random.Philox(np.random.SeedSequence([seed, row]))
    return np.random.Generator(stream).random(count, dtype=np.float32)


def _keep_largest(probabilities: Tensor, smallest: Tensor, num_kept: Tensor) -> Tensor:
    """Keep what is larger than `smallest`, and of its equals the first ones, `num_kept` in all."""
    wide = at_least_float32(probabilities)
    larger, equal = wide > smallest, wide == smallest
    room = num_kept - larger.sum(-1, keepdim=True)
    kept = torch.where(larger | (equal & (equal.cumsum(-1) <= room)), wide, 0)
    return (kept / kept.sum(-1, keepdim=True)).to(probabilities.dtype)


def _sorted(values: Tensor) -> Tensor:
    """Ascending along the last dimension, without gradient."""
    if values.device.type != "cpu":
        return values.detach().sort(-1).values
    # numpy sorts numbers alone, in vector registers; torch drags indices along and takes 3 times as long.
    return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1))
