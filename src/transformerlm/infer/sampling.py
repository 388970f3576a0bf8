"""From logits to a token: temperature, top-k, top-p, and the draw. Pure functions, nothing remembered.

They know nothing of models or texts. Nothing in them makes the host wait for the device.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transformerlm.nn.functional import softmax, widen


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
    check_sampling(temperature, top_p, top_k)
    best, greedy = widen(logits).max(-1, keepdim=True)
    if temperature == 0:
        return torch.where(best.isnan(), -1, greedy).squeeze(-1)
    # The maximum is taken away first: divided by a tiny temperature it would be infinite, by 0 no number.
    divisor = max(temperature, torch.finfo(torch.float32).tiny)
    probabilities = softmax((widen(logits) - best) / divisor, -1)
    if top_k is not None:
        probabilities = top_k_filter(probabilities, top_k)
    probabilities = top_p_filter(probabilities, top_p)
    if uniforms is None:
        uniforms = torch.rand(logits.shape[:-1], generator=generator, device=logits.device)
    return draw(probabilities, uniforms)


def check_sampling(temperature: float, top_p: float, top_k: int | None) -> None:
    """Raise ValueError, in words, for a parameter outside its range."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature: expected a number of at least 0, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected a number above 0 and at most 1, got {top_p}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: expected a whole number of at least 1, or None, got {top_k}")


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
    check_sampling(1, p, None)
    if p == 1:
        return probabilities / probabilities.sum(-1, keepdim=True)
    ascending = _sorted(widen(probabilities))
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
    check_sampling(1, 1, k)
    num_kept = min(k, probabilities.shape[-1])
    smallest = widen(probabilities).topk(num_kept).values[..., -1:]
    return _keep_largest(probabilities, smallest, torch.tensor(num_kept, device=probabilities.device))


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The id whose stretch of the cumulative distribution holds the row's uniform number.

    An id of probability 0 is never drawn, whatever the rounding of the sums.

    Args:
        probabilities: [..., vocabulary]; rows need not sum to 1.
        uniforms: [...], in [0, 1).

    Returns:
        LongTensor [...]; -1 for a row that holds a NaN.
    """
    cumulative = widen(probabilities).cumsum(-1).masked_fill(probabilities == 0, 0)
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
    wide = widen(probabilities)
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
