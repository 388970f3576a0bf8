"""Memory of training, estimated from the config, and memory of the device.

The formulas of the parts are in nn/accounting.py. The amount of free memory is not considered, so that a
config is always run in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from transformerlm.config import TrainConfig
from transformerlm.distributed.ranks import SINGLE_PROCESS, Ranks
from transformerlm.limits import memory_bytes
from transformerlm.nn import accounting, num_parameters
from transformerlm.nn.loss import CHUNK_BYTES, DEFAULT_CHUNK_BYTES
from transformerlm.progress import readable
from transformerlm.runtime import SMALLER_MODEL, Runtime

USABLE_FRACTION = 0.8
"""Fraction of a device's memory that the estimate may fill; the rest is for the system, libraries, and
gaps."""
TOKENS_PER_PASS = {"cpu": 8192}
"""Maximum number of tokens per forward pass, by device: on a CPU more take memory and save no time (half as
many cost some 2 % more time, an eighth 10 %)."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes by part; all parts exist at once in every micro-batch of a step but the first."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Kept by the forward pass of a micro-batch, with the masks and copies of weights that it made, and the
    gradients inside a block during its backward pass."""
    logits: int
    """Logits that exist at a time, their gradient, and that of the head."""

    @property
    def total(self) -> int:
        """All parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def training_memory(
    config: TrainConfig, runtime: Runtime, micro_batch_size: int, ranks: Ranks = SINGLE_PROCESS
) -> TrainingMemory:
    """Estimate the memory of a step on each rank with `micro_batch_size` sequences at a time."""
    model, tokens = config.model, micro_batch_size * config.model.context_length
    itemsize, fused = runtime.dtype.itemsize, runtime.kernels
    num_scores = model.context_length if config.runtime.attention == "reference" else 0
    checkpointing = config.runtime.activation_checkpointing
    kept = accounting.activation_bytes_per_token(
        model, itemsize, fused=fused, num_scores=num_scores, checkpointing=checkpointing
    )
    block = accounting.block_activation_bytes_per_token(model, itemsize, fused=fused, num_scores=num_scores)
    copies = itemsize * accounting.num_hidden_matrix_parameters(model) if fused or itemsize < 4 else 0
    copies += accounting.window_mask_bytes(model, itemsize)
    if checkpointing:
        # Activations inside a block exist for one block at a time, together with their gradients.
        block, copies = 2 * block, copies // model.num_layers
    weights, gradients, optimizer = _state_bytes(config, ranks)
    logits = _logit_bytes(config, runtime, tokens)
    return TrainingMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        # The logits are freed before the backward pass of the last block allocates its gradients.
        activations=copies + tokens * kept + max(0, tokens * block - logits),
        logits=logits,
    )


def described_memory(config: TrainConfig, runtime: Runtime, ranks: Ranks = SINGLE_PROCESS) -> tuple[str, str]:
    """Return what a model that finds no memory is, and what would fit, for an error."""
    number, there = num_parameters(config.model), device_memory(runtime.device, ranks)
    needed = training_memory(config, runtime, 1, ranks).total
    what = f"a model of {number:,} parameters, which needs {readable(needed)} to be trained"
    if not there:
        return what, SMALLER_MODEL
    return what, f"about {int(number * there / needed):,} fit into {readable(there)}; {SMALLER_MODEL}"


def micro_batch_size(
    config: TrainConfig, runtime: Runtime, batch_size: int, ranks: Ranks = SINGLE_PROCESS
) -> int:
    """Return [training].micro_batch_size; for "auto" the largest that fits, for a rank's `batch_size`."""
    asked = config.training.micro_batch_size
    if asked != "auto":
        return asked
    return largest_that_fits(config, runtime, batch_size, device_memory(runtime.device, ranks), ranks)


def largest_that_fits(
    config: TrainConfig,
    runtime: Runtime,
    batch_size: int,
    available: int | None,
    ranks: Ranks = SINGLE_PROCESS,
) -> int:
    """Return the largest divisor of `batch_size` that fits in `available` bytes and within TOKENS_PER_PASS.

    1 if not even one sequence fits. `available` None: no limit.
    """
    most_tokens = TOKENS_PER_PASS.get(runtime.device.type)

    def fits(size: int) -> bool:
        if most_tokens is not None and size * config.model.context_length > most_tokens:
            return False
        needed = training_memory(config, runtime, size, ranks).total
        return available is None or needed <= USABLE_FRACTION * available

    divisors = (size for size in range(batch_size, 0, -1) if batch_size % size == 0)
    return next((size for size in divisors if fits(size)), 1)


def device_memory(device: torch.device, ranks: Ranks = SINGLE_PROCESS) -> int | None:
    """Return the device's memory in bytes, of a CPU this rank's part of what may be used; None: unknown."""
    if device.type == "cuda":
        _free, total = torch.cuda.mem_get_info(device)
        return int(total)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    memory = memory_bytes()
    return None if memory is None else memory // ranks.world.local_size


def _state_bytes(config: TrainConfig, ranks: Ranks) -> tuple[int, int, int]:
    """Return the bytes of weights, gradients, optimizer. Sharded parameters are gathered while they are
    used."""
    model = config.model
    weights = 4 * accounting.num_parameters(model)
    optimizer = accounting.optimizer_bytes(model, config.optimizer.name)
    if config.runtime.sharding == "none" or ranks.size == 1:
        return weights, weights, optimizer
    block = 4 * accounting.num_hidden_matrix_parameters(model) // model.num_layers
    outside = weights - model.num_layers * block
    # Two blocks: the next one is gathered while the first computes.
    return (
        weights // ranks.size + outside + 2 * block,
        weights // ranks.size + outside + block,
        optimizer // ranks.size,
    )


def _logit_bytes(config: TrainConfig, runtime: Runtime, tokens: int) -> int:
    itemsize, vocab_size = runtime.dtype.itemsize, config.model.vocabulary_rows
    chunk_bytes = CHUNK_BYTES.get(runtime.device.type, DEFAULT_CHUNK_BYTES)
    chunk = min(tokens, max(1, chunk_bytes // (vocab_size * itemsize)))
    # With PyTorch's operations the intermediate results from logits to gradient are float32 tensors.
    wide = 0 if runtime.kernels else 3 * 4 if itemsize == 4 else 4 * 4
    return chunk * vocab_size * (itemsize + wide) + 2 * 4 * vocab_size * config.model.d_model
