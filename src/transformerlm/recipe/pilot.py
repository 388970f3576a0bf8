"""A pilot: a tiny model trained for a second or two, whose loss tells how hard a text is for a Transformer.

With the bits of the n-gram model (`ngram.py`), which sees longer contexts, it is the scaling law's measure
of the text.
"""

from __future__ import annotations

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

VOCAB_SIZE = 512
CONTEXT_LENGTH, BATCH_SIZE, NUM_STEPS = 128, 8, 120
WARMUP_STEPS, DECAY_STEPS = 6, 72
MAX_VALIDATION_TOKENS = 2**14
OPTIMIZER = OptimizerConfig(
    name="muon", lr=6e-3, muon_lr=0.04, muon_momentum=0.9, muon_steps=3, betas=(0.8, 0.95)
)


class PilotText(NamedTuple):
    """Tokens of VOCAB_SIZE ids to train on and to validate on."""

    train: npt.NDArray[np.integer]
    validation: npt.NDArray[np.integer]
    bytes_per_token: float
    """Of the validation text."""


def pilot_bits(text: PilotText, runtime: Runtime, config: RuntimeConfig) -> float:
    """Return the bits per byte of the validation text after NUM_STEPS steps; random state is restored."""
    length = min(CONTEXT_LENGTH, len(text.train) - 1, len(text.validation) - 1)
    shape = ModelConfig(
        vocab_size=VOCAB_SIZE,
        context_length=length,
        d_model=64,
        num_layers=2,
        num_heads=2,
        d_ff=192,
        tie_embeddings=True,
        qk_norm=True,
    )
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        model = TransformerLM(shape, backend=config.attention, device=runtime.device)
        loss = NextTokenLoss(model)
        if runtime.kernels:
            use_kernels_(loss)
        _train(model, loss, torch.from_numpy(text.train.astype(np.int64)), runtime)
    return _validated(loss, text, length, runtime)


def _train(model: TransformerLM, loss: NextTokenLoss, ids: Tensor, runtime: Runtime) -> None:
    optimizer = make_optimizer(model, OPTIMIZER, runtime.dtype, kernels=runtime.kernels)
    length = model.config.context_length
    places = torch.arange(length + 1, dtype=torch.int64, device="cpu")
    for step in range(1, NUM_STEPS + 1):
        factor = wsd_schedule(step, 1.0, 0.0, WARMUP_STEPS, DECAY_STEPS, NUM_STEPS)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        starts = torch.randint(len(ids) - length, (BATCH_SIZE, 1), dtype=torch.int64, device="cpu")
        windows = ids[starts + places].to(runtime.device)
        with runtime.autocast():
            value = loss(windows[:, :-1], windows[:, 1:], BATCH_SIZE * length)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def _validated(loss: NextTokenLoss, text: PilotText, length: int, runtime: Runtime) -> float:
    ids = torch.from_numpy(text.validation[:MAX_VALIDATION_TOKENS].astype(np.int64)).to(runtime.device)
    number = (len(ids) - 1) // length
    inputs, targets = (ids[start : start + number * length].view(number, length) for start in (0, 1))
    with runtime.autocast():
        nats = loss(inputs, targets, targets.numel()).item()
    return float(nats / math.log(2) / text.bytes_per_token)
