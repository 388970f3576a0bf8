"""Loss, perplexity and bits per byte of a model on text, and what a general compressor makes of it."""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from transformerlm.distributed.ranks import SINGLE_PROCESS, Ranks
from transformerlm.distributed.world import World
from transformerlm.runtime import Runtime


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text."""

    loss: float
    """Mean negative log-likelihood, in nats per token."""
    bits_per_byte: float
    """The same in bits per UTF-8 byte of the text: comparable between tokenizers, and with a compressor.

    loss / ln 2 * tokens per byte; the separators between documents are tokens without bytes."""

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


class Validation(NamedTuple):
    """The validation split, as the model was after `step` steps."""

    step: int
    evaluation: Evaluation

    @classmethod
    def from_plain(cls, plain: list[Any]) -> Self | None:
        """What `to_plain` gave; None from an empty list."""
        if not plain:
            return None
        step, loss, bits_per_byte = plain
        return cls(int(step), Evaluation(float(loss), float(bits_per_byte)))

    def to_plain(self) -> list[Any]:
        """Numbers that JSON can hold."""
        return [self.step, self.evaluation.loss, self.evaluation.bits_per_byte]


@torch.no_grad()
def evaluate(
    loss: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    runtime: Runtime,
    tokens_per_byte: float,
    ranks: Ranks = SINGLE_PROCESS,
    padding_passes: int = 0,
) -> Evaluation:
    """Evaluate on batches of (inputs, targets), each `[batch, time]`; every target counts once.

    `loss` is a model with its loss, such as nn.NextTokenLoss: inputs and targets -> the mean nats. The total
    is kept in float64 on the device: one host sync, at the end.

    Each of several ranks passes its own batches; the result covers all of them. A rank with fewer batches
    than others makes `padding_passes` passes more, since a sharded forward pass is a collective.
    """
    was_training = loss.training
    loss.eval()
    # mps has no float64; there the per-batch sums are added on the host instead.
    home = torch.device("cpu") if runtime.device.type == "mps" else runtime.device
    total, count = torch.zeros((), dtype=torch.float64, device=home), 0
    try:
        for inputs, targets in batches:
            with runtime.autocast():
                nats = loss(inputs, targets)
            total += nats.to(home, torch.float64) * targets.numel()
            count += targets.numel()
        for _ in range(padding_passes):
            nothing = torch.zeros((1, 1), dtype=torch.long, device=runtime.device)
            with runtime.autocast():
                loss(nothing, nothing)
    finally:
        loss.train(was_training)
    totals = ranks.all_gather_numbers([total.item(), count])
    mean = sum(nats for nats, _ in totals) / sum(targets for _, targets in totals)
    return Evaluation(mean, mean / math.log(2) * tokens_per_byte)


def own_share(num_tokens: int, context_length: int, batch_size: int, world: World) -> tuple[int, int, int]:
    """A rank's part of a text: the places of its first input and its last target; and its idle passes.

    Parts are whole windows of context_length, but for what is left over at the end of the text.
    """
    num_windows = -(-(num_tokens - 1) // context_length)

    def bounds(rank: int) -> tuple[int, int]:
        first, last = (num_windows * r // world.size * context_length for r in (rank, rank + 1))
        return first, min(last, num_tokens - 1)

    def num_passes(rank: int) -> int:
        first, last = bounds(rank)
        num_whole, rest = divmod(last - first, context_length)
        return -(-num_whole // batch_size) + (rest > 0)

    most = max(map(num_passes, range(world.size)))
    return *bounds(world.rank), most - num_passes(world.rank)


def xz_bits_per_byte(text: bytes, after: bytes = b"") -> float:
    """What `xz -9e` needs for this text: a yardstick that knows nothing of any language.

    With `after`, what it needs for both, one after the other, beyond what it needs for that one: its
    dictionary is then all of `after` (up to 64 MiB).
    """

    def num_bytes(data: bytes) -> int:
        return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))

    if not after:
        return 8 * num_bytes(text) / len(text)
    with ThreadPoolExecutor(2) as pool:  # compressing lets other threads run
        alone, both = pool.map(num_bytes, (after, after + text))
    return 8 * (both - alone) / len(text)
