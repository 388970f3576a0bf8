"""One more token of every text through the model: ids in, logits out, keys and values into the cache.

`TorchDecoder` asks the model itself, and is the definition. `KernelDecoder` computes the same on a CPU in
one call of kernels.py, at the speed of the machine's memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from transformerlm.kernels import dispatch
from transformerlm.kernels.generation_layout import NUM_MATRICES, inputs_size, scratch_size
from transformerlm.kernels.library import Library
from transformerlm.nn import KVCache, TransformerBlock, TransformerLM
from transformerlm.nn.fused import uses_kernels

_KERNELS = Path(__file__).parents[1] / "kernels"
_SOURCES = [_KERNELS / name for name in ("generation.py", "generation_layout.py", "training.py")]
LIBRARY = Library("generation", "transformerlm.kernels.generation", _SOURCES, 15)


class Decoder(Protocol):
    """Takes the newest id of every text, LongTensor [texts], and gives the logits [texts, vocabulary]."""

    def __call__(self, new_ids: Tensor) -> Tensor:
        """The logits may be overwritten by the next call."""


class TorchDecoder:
    """The model, asked in its own words."""

    def __init__(self, model: TransformerLM, cache: KVCache) -> None:
        self.model, self.cache = model, cache

    def __call__(self, new_ids: Tensor) -> Tensor:
        """[texts] -> [texts, vocabulary]"""
        return self.model.logits(self.model.hidden_states(new_ids.unsqueeze(-1), self.cache)[:, -1])


class KernelDecoder:
    """The same in one call: no operation to start, no tensor to allocate, each weight read once a step.

    The model's weights must not move while it is in use, and the cache must be in their precision.
    """

    def __init__(self, model: TransformerLM, cache: KVCache) -> None:
        self.model, self.cache = model, cache
        config, (keys, values) = model.config, cache.memory
        blocks = cast(list[TransformerBlock], list(model.blocks))
        matrices = [_matrices(block) for block in blocks]
        addresses = [[0 if matrix is None else matrix.data_ptr() for matrix in row] for row in matrices]
        weights = torch.tensor(addresses)
        rope = blocks[0].attention.rope
        assert rope is not None
        shape = config.d_model, config.num_heads, config.kv_heads, config.d_head, config.d_ff
        self._threads = torch.get_num_threads()
        rows = keys.shape[1]
        scratch = torch.empty(scratch_size(config, rows, cache.capacity, self._threads))
        inputs = torch.empty(inputs_size(config, rows, self._threads))
        meeting = torch.zeros(2, dtype=torch.long)
        self._logits = torch.empty(rows, config.vocabulary_rows)
        self._memory = (
            *(model.embedding.weight, weights, model.final_norm.weight, model.head.weight),
            *(keys, values, rope.cos, rope.sin, self._logits, scratch, inputs, meeting),
        )
        self._shape = (
            *(config.num_layers, *shape, config.vocabulary_rows, rows, cache.capacity),
            config.norm_eps,
        )

    def __call__(self, new_ids: Tensor) -> Tensor:
        """[texts] -> [texts, vocabulary]"""
        self.cache.require_room(1)
        numbers = (len(new_ids), *self._shape)
        which = self._threads, LIBRARY, "decode", (self.model.head.weight.dtype,)
        dispatch.run_on(*which, new_ids, self.cache.lengths, *self._memory, *numbers)
        self.cache.advance(1)
        return self._logits[: len(new_ids)]


def make_decoder(model: TransformerLM, cache: KVCache) -> Decoder:
    """The decoder for a model: of kernels if it uses them (nn/fused.py) and they take its tensors."""
    if not uses_kernels(model):
        return TorchDecoder(model, cache)
    tensors = [*model.parameters(), *cache.memory]
    is_one_dtype = len({tensor.dtype for tensor in tensors}) == 1 and not torch.is_autocast_enabled("cpu")
    if is_one_dtype and dispatch.can_serve(*tensors) and all(tensor.is_contiguous() for tensor in tensors):
        return KernelDecoder(model, cache)
    return TorchDecoder(model, cache)


def _matrices(block: TransformerBlock) -> list[Tensor | None]:
    """In the order of layout.py."""
    attention, feedforward = block.attention, block.feedforward
    norms = [None if norm is None else norm.weight for norm in (attention.q_norm, attention.k_norm)]
    matrices: list[Tensor | None] = [
        block.attention_norm.weight,
        *(layer.weight for layer in (attention.q_proj, attention.k_proj, attention.v_proj)),
        attention.output_proj.weight,
        block.feedforward_norm.weight,
        *(layer.weight for layer in (feedforward.w1, feedforward.w3, feedforward.w2)),
        *norms,
    ]
    assert len(matrices) == NUM_MATRICES
    return matrices
