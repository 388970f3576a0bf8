"""Activation checkpointing: trades time for memory; applied to a finished model from outside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from transformerlm.nn import TransformerLM


def checkpoint_activations(model: TransformerLM) -> None:
    """Make every block discard its activations and recompute them in the backward pass.

    Only a block's input is kept; activations exist for one block at a time. Parameters, their names and the
    results do not change.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, section 4.1.
    """
    for block in model.blocks:
        # The method is replaced, not the module wrapped: hooks on the block and all names stay.
        block.forward = functools.partial(_forward, block.forward)


def _forward(forward: Callable[..., Any], *arguments: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments)
    # Nothing in a block is random: no generator state has to be restored.
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False)
