"""Dropout on the residual stream: regularisation of small texts; applied to a finished model from outside."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transformerlm.nn import TransformerBlock, TransformerLM

NUM_LEVELS = 256
"""On a CPU a random byte decides about each number, so the probability is rounded to 256ths."""


def add_dropout(model: TransformerLM, probability: float) -> None:
    """Make training drop numbers of the embedding's output and of what each branch of a block adds.

    Only passes whose gradients are recorded are changed; validation and generation compute as before. Random
    numbers are torch's global generator's. Parameters and their names do not change.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014; at
    the places of Vaswani et al., "Attention Is All You Need", 2017, section 5.4.
    """
    if probability == 0:
        return
    blocks = [block for block in model.blocks if isinstance(block, TransformerBlock)]
    branches = [branch for block in blocks for branch in (block.attention, block.feedforward)]
    for part in (model.embedding, *branches):
        part.register_forward_hook(functools.partial(_drop_output, probability))


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero each number of `x` with this probability, and scale the others so that the mean stays.

    On a CPU PyTorch's own draws a double for each number, which takes a fifth of a small model's step.
    """
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    num_dropped = round(probability * NUM_LEVELS)
    kept = _random_bytes(x.numel()).view(x.shape) >= num_dropped
    return x * kept.to(x.dtype).mul_(NUM_LEVELS / (NUM_LEVELS - num_dropped))


def _random_bytes(number: int) -> Tensor:
    words = torch.randint(-(2**63), 2**63 - 1, (math.ceil(number / 8),), dtype=torch.int64, device="cpu")
    return words.view(torch.uint8)[:number]


def _drop_output(probability: float, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return dropout(output, probability) if torch.is_grad_enabled() else output
