"""Activation checkpointing: trades time for memory; applied to a finished model from outside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from transformerlm.nn import TransformerLM


def checkpoint_activations(model: TransformerLM, *, is_random: bool = False) -> None:
    """Make every block discard its activations and recompute them in the backward pass.

    Only a block's input is kept; activations exist for one block at a time. Parameters, their names and the
    results do not change.

    Args:
        is_random: something in a block is (dropout): the second pass then draws the same numbers again.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, section 4.1.
    """
    for block in model.blocks:
        # The method is replaced, not the module wrapped: hooks on the block and all names stay.
        block.forward = functools.partial(_forward, block.forward, is_random)


def _forward(forward: Callable[..., Any], is_random: bool, *arguments: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=is_random)
