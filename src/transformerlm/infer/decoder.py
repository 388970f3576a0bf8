"""Decoding step of a batch: from new ids to logits, with keys and values stored in the cache.

`TorchDecoder` calls the model, and is the definition. `KernelDecoder` computes the same on a CPU in one call
of a compiled kernel, at the speed of the machine's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from transformerlm.kernels import dispatch
from transformerlm.kernels.generation_layout import NUM_MATRICES, inputs_size, scratch_size
from transformerlm.kernels.library import Library
from transformerlm.nn import KVCache, TransformerBlock, TransformerLM
from transformerlm.nn.fused import uses_kernels

LIBRARY = Library("generation", "transformerlm.kernels.generation", [], 15)


class Decoder(Protocol):
    """A function from each text's newest id, LongTensor [texts], to logits [texts, vocabulary]."""

    def __call__(self, new_ids: Tensor) -> Tensor:
        """Return the logits; the next call may overwrite them."""


class TorchDecoder:
    """A decoding step by the model's own operations."""

    def __init__(self, model: TransformerLM, cache: KVCache) -> None:
        self.model, self.cache = model, cache

    def __call__(self, new_ids: Tensor) -> Tensor:
        """[texts] -> [texts, vocabulary]."""
        return self.model.logits(self.model.hidden_states(new_ids.unsqueeze(-1), self.cache)[:, -1])


class KernelDecoder:
    """A decoding step in one kernel call: nothing is allocated, and each weight is read once.

    The model's weights must keep their addresses while it is in use, and the cache must have their dtype.
    """

    def __init__(self, model: TransformerLM, cache: KVCache) -> None:
        self.model, self.cache = model, cache
        config, (keys, values) = model.config, cache.memory
        blocks = cast(list[TransformerBlock], list(model.blocks))
        rope = blocks[0].attention.rope
        assert rope is not None
        rows, width = keys.shape[1], config.vocabulary_rows
        self._num_threads = dispatch.num_threads()
        self._logits = _float32(rows, width)
        # The kernel gets raw addresses, so dtypes and device must not follow torch's defaults.
        self._memory = (
            *(model.embedding.weight, _addresses(blocks), model.final_norm.weight, model.head.weight),
            *(keys, values, rope.cos, rope.sin, self._logits),
            _float32(scratch_size(config, rows, cache.capacity, self._num_threads)),
            _float32(inputs_size(config, rows, self._num_threads)),
            torch.zeros(2, dtype=torch.long, device="cpu"),  # the threads' barrier
        )
        attention = config.d_model, config.num_heads, config.kv_heads, config.d_head
        sizes = config.num_layers, *attention, config.d_ff, width, rows, cache.capacity
        self._numbers = *sizes, config.norm_eps

    def __call__(self, new_ids: Tensor) -> Tensor:
        """[texts] -> [texts, vocabulary]."""
        self.cache.require_room(1)
        kernel = self._num_threads, LIBRARY, "decode", (self.model.head.weight.dtype,)
        numbers = len(new_ids), *self._numbers
        dispatch.run_on(*kernel, new_ids, self.cache.lengths, *self._memory, *numbers)
        self.cache.advance(1)
        return self._logits[: len(new_ids)]


def make_decoder(model: TransformerLM, cache: KVCache) -> Decoder:
    """Return a kernel decoder if the model uses kernels (nn/fused.py) and they accept its tensors."""
    if not uses_kernels(model):
        return TorchDecoder(model, cache)
    tensors = [*model.parameters(), *cache.memory]
    is_one_dtype = len({tensor.dtype for tensor in tensors}) == 1 and not torch.is_autocast_enabled("cpu")
    if is_one_dtype and dispatch.can_serve(*tensors) and all(tensor.is_contiguous() for tensor in tensors):
        return KernelDecoder(model, cache)
    return TorchDecoder(model, cache)


def _float32(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _addresses(blocks: Sequence[TransformerBlock]) -> Tensor:
    """Return the addresses of all layers' weights: LongTensor [layers, NUM_MATRICES], 0 for an absent
    norm."""
    rows = [[0 if weight is None else weight.data_ptr() for weight in _weights(block)] for block in blocks]
    return torch.tensor(rows, dtype=torch.long, device="cpu")


def _weights(block: TransformerBlock) -> list[Tensor | None]:
    """Return a layer's weights in the order of generation_layout.py."""
    attention, feedforward = block.attention, block.feedforward
    norms = [None if norm is None else norm.weight for norm in (attention.q_norm, attention.k_norm)]
    weights: list[Tensor | None] = [
        block.attention_norm.weight,
        *(layer.weight for layer in (attention.q_proj, attention.k_proj, attention.v_proj)),
        attention.output_proj.weight,
        block.feedforward_norm.weight,
        *(layer.weight for layer in (feedforward.w1, feedforward.w3, feedforward.w2)),
        *norms,
    ]
    assert len(weights) == NUM_MATRICES
    return weights
