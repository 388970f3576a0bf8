"""Decoding of a batch: from prompts and new ids to logits, with keys and values stored in the cache.

`TorchDecoder` calls the model, and is the definition. `KernelDecoder` computes the same on a CPU in one call
of a compiled kernel, at the speed of the machine's memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from transformerlm.infer.prefill import Windows, fill_cache, unique_windows
from transformerlm.kernels import dispatch, libraries
from transformerlm.kernels.generation_layout import BARRIER_SIZE, NUM_MATRICES, inputs_size, scratch_size
from transformerlm.nn import KVCache, TransformerBlock, TransformerLM
from transformerlm.nn.fused import uses_kernels

LIBRARY = libraries.GENERATION


MAX_PASS_TOKENS = 64
"""Longest prompt for the kernel, and tokens of prompts in a pass. For more, PyTorch's products are faster."""


class Decoder(Protocol):
    """A function from each text's newest id, LongTensor [texts], to logits [texts, vocabulary]."""

    def __call__(self, new_ids: Tensor) -> Tensor:
        """Return the logits; the next call may overwrite them."""

    def fill(self, rows: Sequence[int], windows: Windows, *, wants_logits: bool = True) -> Tensor:
        """Replace rows of the cache by those of `windows`.

        Returns:
            Logits of what follows each window: [windows, vocabulary]. Without `wants_logits` nothing of use.
        """


class TorchDecoder:
    """A decoding step by the model's own operations."""

    def __init__(self, model: TransformerLM, cache: KVCache) -> None:
        self.model, self.cache = model, cache

    def __call__(self, new_ids: Tensor) -> Tensor:
        """[texts] -> [texts, vocabulary]."""
        return self.model.logits(self.model.hidden_states(new_ids.unsqueeze(-1), self.cache)[:, -1])

    def fill(self, rows: Sequence[int], windows: Windows, *, wants_logits: bool = True) -> Tensor:
        """See `Decoder`."""
        hidden = fill_cache(self.model, self.cache, rows, windows)
        return self.model.logits(hidden) if wants_logits else hidden


class KernelDecoder:
    """Passes through the model in one kernel call: nothing is allocated, and each weight is read once.

    The model's weights must keep their addresses while it is in use, and the cache must have their dtype. A
    text's logits do not depend on the other texts, to the last bit.
    """

    def __init__(self, model: TransformerLM, cache: KVCache) -> None:
        self.model, self.cache = model, cache
        config, (keys, values) = model.config, cache.memory
        blocks = cast(list[TransformerBlock], list(model.blocks))
        rope = blocks[0].attention.rope
        assert rope is not None
        rows, width = keys.shape[1], config.vocabulary_rows
        self._max_tokens = max(rows, MAX_PASS_TOKENS)
        self._num_threads = dispatch.num_threads()
        self._logits = _float32(rows, width)
        self._rows = _indices(range(rows))
        # The kernel gets raw addresses, so dtypes and device must not follow torch's defaults.
        self._memory = (
            *(model.embedding.weight, _addresses(blocks), model.final_norm.weight, model.head.weight),
            *(keys, values, rope.cos, rope.sin, self._logits),
            _float32(scratch_size(config, self._max_tokens, cache.capacity, self._num_threads)),
            _float32(inputs_size(config, self._max_tokens, self._num_threads)),
            torch.zeros(BARRIER_SIZE, dtype=torch.long, device="cpu"),
        )
        attention = config.d_model, config.num_heads, config.kv_heads, config.d_head
        sizes = config.num_layers, *attention, config.d_ff, width, rows, cache.capacity
        self._numbers = *sizes, config.norm_eps

    def __call__(self, new_ids: Tensor) -> Tensor:
        """[texts] -> [texts, vocabulary]."""
        self.cache.require_room(1)
        num_texts = len(new_ids)
        rows = self._rows[:num_texts]
        self._run(new_ids, rows, self.cache.lengths, rows)
        self.cache.advance(1)
        return self._logits[:num_texts]

    def fill(self, rows: Sequence[int], windows: Windows, *, wants_logits: bool = True) -> Tensor:
        """See `Decoder`. Short windows pass through the kernel together, long ones each through the model."""
        unique, row_of = unique_windows(windows)
        own_rows = [rows[row_of.index(index)] for index in range(len(unique))]
        logits = _float32(len(unique), self._logits.shape[1])
        short = []
        for index, (row, window) in enumerate(zip(own_rows, unique, strict=True)):
            if len(window) <= MAX_PASS_TOKENS:
                short.append(index)
                continue
            hidden = fill_cache(self.model, self.cache, [row], [window])
            logits[index] = self.model.logits(hidden)[0] if wants_logits else 0
        for some in in_passes(short, [len(window) for window in unique], self._max_tokens):
            windows_of_pass = [unique[index] for index in some]
            logits[some] = self._pass([own_rows[index] for index in some], windows_of_pass)
        if len(unique) < len(rows):
            self.cache.put(rows, self.cache, [own_rows[index] for index in row_of])
        return logits[row_of]

    def _pass(self, rows: Sequence[int], windows: Windows) -> Tensor:
        """Fill rows from windows in one pass; return the logits after each."""
        lengths = [len(window) for window in windows]
        row_of = [row for row, length in zip(rows, lengths, strict=True) for _ in range(length)]
        positions = itertools.chain.from_iterable(map(range, lengths))
        ends = [end - 1 for end in itertools.accumulate(lengths)]
        self._run(*map(_indices, (itertools.chain.from_iterable(windows), row_of, positions, ends)))
        self.cache.replace_lengths(rows, lengths)
        return self._logits[: len(windows)]

    def _run(self, ids: Tensor, row_of: Tensor, positions: Tensor, wanted: Tensor) -> None:
        kernel = self._num_threads, LIBRARY, "decode", (self.model.head.weight.dtype,)
        sizes = len(ids), len(wanted), *self._numbers
        dispatch.run_on(*kernel, ids, row_of, positions, wanted, *self._memory, *sizes)


def make_decoder(model: TransformerLM, cache: KVCache) -> Decoder:
    """Return a kernel decoder if the model uses kernels (nn/fused.py) and they accept its tensors."""
    if not uses_kernels(model):
        return TorchDecoder(model, cache)
    tensors = [*model.parameters(), *cache.memory]
    is_one_dtype = len({tensor.dtype for tensor in tensors}) == 1 and not torch.is_autocast_enabled("cpu")
    if is_one_dtype and dispatch.can_serve(*tensors) and all(tensor.is_contiguous() for tensor in tensors):
        return KernelDecoder(model, cache)
    return TorchDecoder(model, cache)


def in_passes(indices: Sequence[int], lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Divide indices, in order, into lists whose `lengths` add up to at most `max_tokens`, if one does."""
    some: list[int] = []
    for index in indices:
        if some and sum(lengths[one] for one in some) + lengths[index] > max_tokens:
            yield some
            some = []
        some.append(index)
    if some:
        yield some


def _indices(numbers: Iterable[int]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.long, device="cpu")


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
