"""Loss, perplexity and bits per byte of a model on text, and what a general compressor makes of it."""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transformerlm.nn import cross_entropy
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


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], runtime: Runtime, tokens_per_byte: float
) -> Evaluation:
    """Evaluate on batches of (inputs, targets), each `[batch, time]`; every target counts once.

    The total is kept in float64 on the device: one host sync, at the end.
    """
    was_training = model.training
    model.eval()
    # mps has no float64; there the per-batch sums are added on the host instead.
    home = torch.device("cpu") if runtime.device.type == "mps" else runtime.device
    total, count = torch.zeros((), dtype=torch.float64, device=home), 0
    for inputs, targets in batches:
        with runtime.autocast():
            logits = model(inputs)
        total += cross_entropy(logits, targets).to(home, torch.float64) * targets.numel()
        count += targets.numel()
    model.train(was_training)
    loss = total.item() / count
    return Evaluation(loss, loss / math.log(2) * tokens_per_byte)


def xz_bits_per_byte(text: bytes) -> float:
    """What `xz -9e` needs for this text by itself: a yardstick that knows nothing of any language."""
    return 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)
