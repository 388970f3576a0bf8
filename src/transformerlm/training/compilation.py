"""`torch.compile` for training, tried before the first step; if it fails, the plain model is used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transformerlm.config import TrainConfig
from transformerlm.nn import NextTokenLoss, TransformerBlock
from transformerlm.progress import Reporter
from transformerlm.runtime import Runtime, compiled


class CompiledLoss(nn.Module):
    """A loss that is compiled for the shapes of training; batches of other shapes are computed as they are.

    Validation has a last window that is shorter, and a last batch with fewer windows. To compile for these
    would take longer than all of them.
    """

    def __init__(self, plain: nn.Module, fast: nn.Module) -> None:
        super().__init__()
        self.plain, self.fast = plain, fast
        self._shapes: set[torch.Size] = set()

    def forward(self, token_ids: Tensor, targets: Tensor, num_targets: int | None = None) -> Tensor:
        """See `NextTokenLoss`."""
        if torch.is_grad_enabled():
            self._shapes.add(token_ids.shape)
        chosen = self.fast if token_ids.shape in self._shapes else self.plain
        loss: Tensor = chosen(token_ids, targets, num_targets)
        return loss


def compile_passes(
    loss: NextTokenLoss,
    config: TrainConfig,
    runtime: Runtime,
    reporter: Reporter,
    by_block: bool,
    micro_batch_size: int,
    num_targets: int,
) -> nn.Module:
    """Compile a model with its loss, and return what to call in their place.

    Args:
        by_block: compile the blocks one by one, in place, since ranks exchange tensors between them.
        micro_batch_size: sequences of a pass: the code is for that size, and made before the first step.
        num_targets: of a step, a constant of the code.

    Raises:
        RuntimeError: out of memory.
    """
    length, device = config.model.context_length, runtime.device
    if not by_block:
        example = torch.zeros((micro_batch_size, length), dtype=torch.long, device=device)
        # Two tensors: code for one that is both would be compiled again for the first batch.
        fast = compiled(loss, (example, example.clone(), num_targets), runtime, reporter)
        return loss if fast is loss else CompiledLoss(loss, fast)
    # Tried on a separate block: one of the model would exchange gradients.
    trial = TransformerBlock(config.model, backend=loss.model.backend, device="meta").to_empty(device=device)
    shape = min(2, micro_batch_size), length, config.model.d_model
    x = torch.zeros(shape, dtype=torch.float32, device=device)
    if compiled(trial, (x,), runtime, reporter) is not trial:
        for block in loss.model.blocks:
            block.compile(dynamic=False)
    return loss
