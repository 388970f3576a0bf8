"""`torch.compile` for training, tried before the first step; if it fails, the plain model is used."""

from __future__ import annotations

import torch
from torch import nn

from transformerlm.config import TrainConfig
from transformerlm.nn import NextTokenLoss, TransformerBlock
from transformerlm.progress import Reporter
from transformerlm.runtime import Runtime, compiled


def compile_passes(
    loss: NextTokenLoss, config: TrainConfig, runtime: Runtime, reporter: Reporter, by_block: bool
) -> nn.Module:
    """Compile a model with its loss, and return what to call in their place.

    Args:
        by_block: compile the blocks one by one, in place, since ranks exchange tensors between them.
    """
    length, device = min(2, config.model.context_length), runtime.device
    if not by_block:
        example = torch.zeros((1, length), dtype=torch.long, device=device)
        return compiled(loss, (example, example), runtime, reporter)
    # Tried on a separate block: one of the model would exchange gradients.
    trial = TransformerBlock(config.model, backend=loss.model.backend, device="meta").to_empty(device=device)
    x = torch.zeros((1, length, config.model.d_model), dtype=torch.float32, device=device)
    if compiled(trial, (x,), runtime, reporter) is not trial:
        for block in loss.model.blocks:
            block.compile()
    return loss
