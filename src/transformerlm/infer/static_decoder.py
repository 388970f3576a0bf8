"""Decoding steps whose shapes never change, so that a GPU can repeat one launch of all its kernels.

A step of a small model is hundreds of kernels of microseconds each, which the host cannot launch as fast as
a GPU runs them. A CUDA graph records them once, with the addresses of their tensors, and repeats them in one
launch. For that a step has to have static shapes: it attends to the whole capacity of the cache behind a
mask, positions and ids are in tensors of fixed addresses, and nothing depends on numbers of the host.

Source: PyTorch, "Accelerating PyTorch with CUDA Graphs", 2021; gpt-fast, 2023, for a cache of static shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from transformerlm.infer.decoder import Decoder, TorchDecoder, make_decoder
from transformerlm.nn import KVCache, TransformerBlock, TransformerLM
from transformerlm.nn.cache import LayerCache, token_positions

WARM_UP_STEPS = 2
"""Steps before one is recorded: libraries choose their algorithms and allocate in the first ones."""


class StaticLayerCache(LayerCache):
    """A layer's part of the cache in which rows that are not in use keep what they hold."""

    in_use: Tensor
    """BoolTensor [rows, 1, 1, 1]"""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store one token of each row in use; return all keys and values."""
        for stored, new in ((self.keys, keys), (self.values, values)):
            stored[self.slots] = torch.where(self.in_use, new.detach().to(stored.dtype), stored[self.slots])
        return self.keys, self.values


class StaticDecoder(TorchDecoder):
    """A `TorchDecoder` whose steps have static shapes, and on CUDA are graphs.

    The number of texts is rounded up to a power of two, so that there are few graphs; the rows above are
    computed and change nothing. Prompts are read as by `TorchDecoder`. The model's weights must keep their
    addresses while it is in use.

    Args:
        captures: record steps in CUDA graphs. None: on CUDA.
    """

    def __init__(self, model: TransformerLM, cache: KVCache, *, captures: bool | None = None) -> None:
        super().__init__(model, cache)
        keys, _ = cache.memory
        self._num_rows, self._device = keys.shape[1], keys.device
        self._captures = self._device.type == "cuda" if captures is None else captures
        self._ids = torch.zeros((self._num_rows, 1), dtype=torch.long, device=self._device)
        self._lengths = torch.zeros(self._num_rows, dtype=torch.long, device=self._device)
        self._in_use = torch.zeros((self._num_rows, 1, 1, 1), dtype=torch.bool, device=self._device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, new_ids: Tensor) -> Tensor:
        """[texts] -> [texts, vocabulary]."""
        self.cache.require_room(1)
        num_texts = len(new_ids)
        size = graph_size(num_texts, self._num_rows)
        self._ids[:num_texts, 0].copy_(new_ids)
        self._lengths[:num_texts].copy_(self.cache.lengths)
        self._in_use[:num_texts] = True
        self._in_use[num_texts:] = False
        logits = self._replay(size) if self._captures else self.step(size)
        self.cache.advance(1)
        return logits[:num_texts]

    def step(self, num_rows: int) -> Tensor:
        """Return the logits of the first rows, [num_rows, vocabulary], and store their keys and values.

        It reads and writes only tensors of fixed addresses, and waits for nothing.
        """
        x: Tensor = self.model.embedding(self._ids[:num_rows])
        layers = self._layers(num_rows)
        for block, layer in zip(cast(Sequence[TransformerBlock], self.model.blocks), layers, strict=True):
            x = block(x, layer)
        return self.model.logits(self.model.final_norm(x)[:, -1])

    def _layers(self, num_rows: int) -> list[LayerCache]:
        keys, values = self.cache.memory
        capacity, num_heads = keys.shape[3], keys.shape[2]
        positions = self._lengths[:num_rows, None, None]
        rows = token_positions(0, num_rows, self._device)[:, None, None]
        heads = token_positions(0, num_heads, self._device)[:, None]
        mask = token_positions(0, capacity, self._device) <= positions.unsqueeze(-1)
        slots = rows, heads, positions
        layers: list[LayerCache] = []
        for own_keys, own_values in zip(keys, values, strict=True):
            parts = own_keys[:num_rows], own_values[:num_rows]
            layer = StaticLayerCache(*parts, slots, capacity, positions, mask)
            layer.in_use = self._in_use[:num_rows]
            layers.append(layer)
        return layers

    def _replay(self, size: int) -> Tensor:
        """Repeat the recorded step, or record it first."""
        if size not in self._graphs:
            try:
                self._graphs[size] = self._record(size)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                warnings.warn(f"CUDA graphs are not used: {reason}", RuntimeWarning, stacklevel=2)
                self._captures = False
                return self.step(size)
        graph, logits = self._graphs[size]
        graph.replay()
        return logits

    def _record(self, size: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Record a step; those before it store the same keys and values at the same places."""
        device_type = self._device.type
        precision = torch.autocast(
            device_type,
            dtype=torch.get_autocast_dtype(device_type),
            enabled=torch.is_autocast_enabled(device_type),
            cache_enabled=False,  # the graph would go on to read weights that the cache has let go
        )
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with precision, torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self.step(size)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        # Other threads, which pin memory or watch NCCL, may call CUDA meanwhile without ending the recording.
        with precision, torch.cuda.graph(graph, capture_error_mode="thread_local"):
            logits = self.step(size)
        return graph, logits


def decoder_for(model: TransformerLM, cache: KVCache) -> Decoder:
    """Return the decoder that is fastest on the model's device."""
    if model.final_norm.weight.device.type == "cuda":
        return StaticDecoder(model, cache)
    return make_decoder(model, cache)


def graph_size(num_texts: int, num_rows: int) -> int:
    """Return the rows of the step for `num_texts` texts: a power of two, at most `num_rows`."""
    return min(num_rows, 1 << max(0, num_texts - 1).bit_length())
