"""Speed of generation in several precisions, for the choice of one (runtime/precision.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.infer.generate import generate
from transformerlm.nn import TransformerLM
from transformerlm.nn.accounting import num_hidden_matrix_parameters
from transformerlm.runtime.device import DTYPES, DtypeName
from transformerlm.runtime.speed import best_seconds, has_emulation, probe, undisturbed

PROMPT_LENGTH, NUM_NEW_TOKENS = 8, 8
"""The text that is measured: a prompt is bound by products, new tokens by reading the weights."""
MAX_BLOCK_PARAMETERS = 2**23
"""Parameters in the blocks of the model that is measured: more than caches hold, and read in milliseconds."""


def generation_seconds(
    model: ModelConfig, config: RuntimeConfig, names: Sequence[DtypeName]
) -> dict[DtypeName, float]:
    """Return the seconds of a short text alone, on a CPU, in each precision.

    The text is written by a model of these sizes, of fewer layers if it is large; its weights are constants.

    Args:
        config: the use of kernels, and the implementation of attention.
        names: of the precisions, float32 among them.
    """
    per_layer = num_hidden_matrix_parameters(model) // model.num_layers
    smaller = dataclasses.replace(
        model,
        num_layers=min(model.num_layers, max(1, MAX_BLOCK_PARAMETERS // per_layer)),
        context_length=PROMPT_LENGTH + NUM_NEW_TOKENS,
    )
    with undisturbed():
        found = probe(names)
        if has_emulation(found):  # reading may be faster, but a prompt would take a hundred times as long
            return found
        return best_seconds({name: _writing(smaller, config, DTYPES[name]) for name in names})


def _writing(shape: ModelConfig, config: RuntimeConfig, dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that continues a prompt with a model in this precision."""
    model = TransformerLM(shape, backend=config.attention, device="meta", dtype=torch.float32)
    # Of a weight only its size and dtype matter. 0.01 and its products are no denormal numbers.
    model._apply(lambda tensor: torch.full(tensor.shape, 0.01, dtype=tensor.dtype, device="cpu"))
    model.to(dtype).eval()
    kernels = config.kernels and config.compile is not True and dtype != torch.float16
    prompt = [0] * PROMPT_LENGTH
    return lambda: generate(model, prompt, max_new_tokens=NUM_NEW_TOKENS, temperature=0.0, kernels=kernels)
