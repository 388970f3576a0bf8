"""A pilot: a short training of a small model on the text itself, from which the scaling law starts.

It is made as the run will be, with fewer steps and parameters, so that what is left to the law (`law.py`) is
the difference between the two.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transformerlm.config import ModelConfig, OptimizerConfig, RuntimeConfig
from transformerlm.nn import NextTokenLoss, TransformerLM
from transformerlm.nn.fused import use_kernels_
from transformerlm.optim import make_optimizer, wsd_schedule
from transformerlm.runtime import Runtime

VOCAB_SIZE = 1024
"""Ids, or fewer where a text has no more merges."""
SHAPE = ModelConfig(
    vocab_size=VOCAB_SIZE,
    context_length=128,
    d_model=96,
    num_layers=3,
    num_heads=3,
    d_ff=256,
    tie_embeddings=True,
    qk_norm=True,
)
MIN_BATCH_SIZE, BATCH_SIZE = 4, 16
"""Sequences per step: where there is little time, fewer rather than that there are fewer steps."""
MIN_STEPS, MAX_STEPS = 100, 300
MAX_PASSES = 8.0
"""Passes over a short text, at most: without dropout more of them are learned by heart."""
WARMUP_FRACTION, DECAY_FRACTION = 0.05, 0.6
MAX_VALIDATION_TOKENS = 2**16
OPTIMIZER = OptimizerConfig(
    name="muon", lr=6e-3, muon_lr=0.025, muon_momentum=0.9, muon_steps=3, betas=(0.8, 0.95)
)


class PilotText(NamedTuple):
    """Tokens to train on and to validate on."""

    train: npt.NDArray[np.integer]
    validation: npt.NDArray[np.integer]
    train_bytes: int
    validation_bytes: int
    vocab_size: int

    @property
    def shape(self) -> ModelConfig:
        """The model for this text."""
        length = min(SHAPE.context_length, len(self.train) - 1, len(self.validation) - 1)
        return dataclasses.replace(SHAPE, vocab_size=self.vocab_size, context_length=length)

    def num_tokens(self, wanted: float) -> float:
        """Return the tokens that a pilot trains on where there is time for `wanted`: no fewer than MIN_STEPS
        have, and no more than MAX_STEPS or MAX_PASSES."""
        sequence = self.shape.context_length
        most = min(MAX_STEPS * BATCH_SIZE * sequence, MAX_PASSES * len(self.train))
        return max(MIN_STEPS * MIN_BATCH_SIZE * sequence, min(wanted, most))


class Pilot(NamedTuple):
    """Result of a pilot."""

    bits_per_byte: float
    """Of validation text."""
    read_bytes: float
    """Text that it was trained on, repeated text included."""
    vocab_size: int

    @property
    def shape(self) -> ModelConfig:
        """The model, but for a context that a very short text shortens."""
        return _with_vocabulary(SHAPE, self.vocab_size)


@functools.lru_cache(maxsize=16)
def _with_vocabulary(shape: ModelConfig, vocab_size: int) -> ModelConfig:
    # Asked for with every candidate; a config is checked whenever one is made.
    return dataclasses.replace(shape, vocab_size=vocab_size)


def run_pilot(text: PilotText, num_tokens: float, runtime: Runtime, config: RuntimeConfig) -> Pilot:
    """Train and validate a small model; random state is restored.

    Args:
        num_tokens: tokens to train on, about; see `PilotText.num_tokens`.
    """
    shape = text.shape
    sequences = text.num_tokens(num_tokens) / shape.context_length
    batch_size = round(min(BATCH_SIZE, max(MIN_BATCH_SIZE, sequences / MIN_STEPS)))
    steps = round(sequences / batch_size)
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        model = TransformerLM(shape, backend=config.attention, device=runtime.device)
        loss = NextTokenLoss(model)
        if runtime.kernels:
            use_kernels_(loss)
        number = len(text.train) - shape.context_length
        starts = torch.randint(number, (steps, batch_size, 1), dtype=torch.int64, device="cpu")
        _train(model, loss, torch.from_numpy(text.train.astype(np.int64)), starts, runtime)
    read_bytes = starts.numel() * shape.context_length * text.train_bytes / len(text.train)
    return Pilot(_validated(loss, text, shape.context_length, runtime), read_bytes, text.vocab_size)


def _train(model: TransformerLM, loss: NextTokenLoss, ids: Tensor, starts: Tensor, runtime: Runtime) -> None:
    """Train on the sequences of `ids` that begin at `starts`, `[steps, sequences, 1]`.

    As in a run, learning rates go with the square root of the tokens per step.
    """
    num_steps, batch_size, _ = starts.shape
    of_batch = math.sqrt(batch_size / BATCH_SIZE)
    optimizer = make_optimizer(model, OPTIMIZER, runtime.dtype, kernels=runtime.kernels)
    length = model.config.context_length
    places = torch.arange(length + 1, dtype=torch.int64, device="cpu")
    warmup, decay = round(WARMUP_FRACTION * num_steps), round(DECAY_FRACTION * num_steps)
    for step in range(1, num_steps + 1):
        factor = of_batch * wsd_schedule(step, 1.0, 0.0, warmup, decay, num_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        windows = ids[starts[step - 1] + places].to(runtime.device)
        inputs, targets = windows[:, :-1], windows[:, 1:]
        with runtime.autocast():
            value = loss(inputs, targets, targets.numel())
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def _validated(loss: NextTokenLoss, text: PilotText, length: int, runtime: Runtime) -> float:
    ids = torch.from_numpy(text.validation[:MAX_VALIDATION_TOKENS].astype(np.int64)).to(runtime.device)
    number = (len(ids) - 1) // length
    inputs, targets = (ids[start : start + number * length].view(number, length) for start in (0, 1))
    nats = 0.0
    for rows, wanted in zip(torch.split(inputs, BATCH_SIZE), torch.split(targets, BATCH_SIZE), strict=True):
        with runtime.autocast():
            nats += loss(rows, wanted, targets.numel()).item()
    return nats / math.log(2) * len(text.validation) / text.validation_bytes
