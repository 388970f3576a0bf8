"""Loss, perplexity and bits per byte of a model on batches of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from transformerlm.distributed.ranks import SINGLE_PROCESS, Ranks
from transformerlm.distributed.world import World
from transformerlm.evaluation.statistics import exp_or_infinity
from transformerlm.runtime import Runtime


@dataclass(frozen=True)
class MeanLoss:
    """A model's mean loss on a text, per token and per byte."""

    loss: float
    """Mean negative log-likelihood, in nats per token."""
    bits_per_byte: float
    """loss / ln 2 * tokens per UTF-8 byte of the text: comparable between tokenizers, and with a compressor.

    Separators between documents are tokens without bytes."""

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite if that overflows."""
        return exp_or_infinity(self.loss)


class Validation(NamedTuple):
    """Evaluation on the validation split after `step` optimizer steps."""

    step: int
    evaluation: MeanLoss

    @classmethod
    def from_plain(cls, plain: list[Any]) -> Self | None:
        """Inverse of `to_plain`; None for an empty list."""
        if not plain:
            return None
        step, loss, bits_per_byte = plain
        return cls(int(step), MeanLoss(float(loss), float(bits_per_byte)))

    def to_plain(self) -> list[Any]:
        """Return a list of JSON values."""
        return [self.step, self.evaluation.loss, self.evaluation.bits_per_byte]


@torch.no_grad()
def evaluate(
    loss: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    runtime: Runtime,
    tokens_per_byte: float,
    ranks: Ranks = SINGLE_PROCESS,
    padding_passes: int = 0,
) -> MeanLoss:
    """Return the mean loss over batches of (inputs, targets), each `[batch, time]`; all targets count alike.

    `loss` is a model with its loss, such as nn.NextTokenLoss: inputs and targets -> mean nats. The total is
    kept in float64 on the device: one host sync, at the end.

    With several ranks, each passes its own batches, and the result is over all of them. A rank with fewer
    batches than others makes `padding_passes` extra passes, since a sharded forward pass is a collective.
    """
    was_training = loss.training
    loss.eval()
    try:
        total, count = total_nats(loss, batches, runtime)
        for _ in range(padding_passes):
            padding = torch.zeros((1, 1), dtype=torch.long, device=runtime.device)
            with runtime.autocast():
                loss(padding, padding)
    finally:
        loss.train(was_training)
    totals = ranks.all_gather_numbers([total.item(), count])
    mean = sum(nats for nats, _ in totals) / sum(targets for _, targets in totals)
    return MeanLoss(mean, mean / math.log(2) * tokens_per_byte)


def total_nats(
    loss: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], runtime: Runtime
) -> tuple[Tensor, int]:
    """Return the sum of the nats of all targets, float64 [], on the device, and the number of targets."""
    # mps has no float64; the sums of batches are added on the host instead.
    device = torch.device("cpu") if runtime.device.type == "mps" else runtime.device
    total, count = torch.zeros((), dtype=torch.float64, device=device), 0
    for inputs, targets in batches:
        with runtime.autocast():
            nats = loss(inputs, targets)
        total += nats.to(device, torch.float64) * targets.numel()
        count += targets.numel()
    return total, count


def rank_share(num_tokens: int, context_length: int, batch_size: int, world: World) -> tuple[int, int, int]:
    """Return a rank's part of a text: index of its first input and of its last target, and padding passes.

    Parts are whole windows of context_length, except for the remainder at the end of the text.
    """
    num_windows = -(-(num_tokens - 1) // context_length)

    def bounds(rank: int) -> tuple[int, int]:
        first, last = (num_windows * r // world.size * context_length for r in (rank, rank + 1))
        return first, min(last, num_tokens - 1)

    def num_passes(rank: int) -> int:
        first, last = bounds(rank)
        num_whole, rest = divmod(last - first, context_length)
        return -(-num_whole // batch_size) + (rest > 0)

    max_passes = max(map(num_passes, range(world.size)))
    return *bounds(world.rank), max_passes - num_passes(world.rank)
