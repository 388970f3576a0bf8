"""Decoding of a batch: from prompts and new ids to logits, with keys and values stored in the cache.

`TorchDecoder` calls the model, and is the definition. `KernelDecoder` computes the same on a CPU in one call
of a compiled kernel, at the speed of the machine's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from transformerlm.infer.prefill import Windows, fill_cache, unique_windows
from transformerlm.kernels import dispatch, libraries
from transformerlm.kernels.generation_layout import BARRIER_SIZE, NUM_MATRICES, inputs_size, scratch_size
from transformerlm.nn import Embedding, KVCache, Linear, RMSNorm, TransformerBlock, TransformerLM
from transformerlm.nn.fused import uses_kernels
from transformerlm.nn.quantization import QuantizedEmbedding, QuantizedLinear, storage_of

LIBRARY, QUANTIZED_LIBRARY = libraries.GENERATION, libraries.QUANTIZED


PASS_TOKENS = 64
"""Tokens of prompts in a pass of the kernel: each weight is read once for all of them."""
TOKENS_AT_A_TIME = 8
"""Tokens that the kernel multiplies together: a full pass has a multiple of them."""


class Piece(NamedTuple):
    """A part of a text, to be stored in a row of the cache's memory, in use or not."""

    row: int
    start: int
    """Tokens of the text that the row holds already: the part follows them."""
    ids: Sequence[int]


class Decoder(Protocol):
    """A function from each text's newest id, LongTensor [texts], to logits [texts, vocabulary]."""

    tokens_per_step: int
    """Tokens of prompts that take little longer to read beside a step of the texts that are written."""

    def __call__(self, new_ids: Tensor) -> Tensor:
        """Return the logits; the next call may overwrite them."""

    def fill(self, rows: Sequence[int], windows: Windows, *, wants_logits: bool = True) -> Tensor:
        """Replace rows of the cache by those of `windows`.

        Returns:
            Logits of what follows each window: [windows, vocabulary]. Without `wants_logits` nothing of use.
        """

    def extend(self, new_ids: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """Take a step of all rows in use, and store pieces in other rows of the cache's memory.

        Returns:
            Logits after each text's newest id, then after each piece: [texts + pieces, vocabulary].
        """


class TorchDecoder:
    """A decoding step by the model's own operations."""

    def __init__(self, model: TransformerLM, cache: KVCache) -> None:
        self.model, self.cache = model, cache
        on_cpu = model.final_norm.weight.device.type == "cpu"
        self.tokens_per_step = 256 if on_cpu else 4096

    def __call__(self, new_ids: Tensor) -> Tensor:
        """[texts] -> [texts, vocabulary]."""
        return self.model.logits(self.model.hidden_states(new_ids.unsqueeze(-1), self.cache)[:, -1])

    def fill(self, rows: Sequence[int], windows: Windows, *, wants_logits: bool = True) -> Tensor:
        """See `Decoder`."""
        hidden = fill_cache(self.model, self.cache, rows, windows)
        return self.model.logits(hidden) if wants_logits else hidden

    def extend(self, new_ids: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """See `Decoder`. Pieces that begin their texts are computed in groups, others one by one."""
        logits = [self(new_ids)] if len(new_ids) else []
        hidden: dict[int, Tensor] = {}
        first = [index for index, piece in enumerate(pieces) if piece.start == 0]
        if first:
            rows, windows = [pieces[index].row for index in first], [pieces[index].ids for index in first]
            hidden.update(zip(first, fill_cache(self.model, self.cache, rows, windows), strict=True))
        for index, piece in enumerate(pieces):
            if piece.start:
                ids = torch.tensor([list(piece.ids)], dtype=torch.long, device=new_ids.device)
                row = self.cache.row(piece.row, piece.start)
                hidden[index] = self.model.hidden_states(ids, row)[0, -1]
        logits += [self.model.logits(hidden[index])[None] for index in range(len(pieces))]
        return torch.cat(logits)


class KernelDecoder:
    """Passes through the model in one kernel call: nothing is allocated, and each weight is read once.

    The model's weights must keep their addresses while it is in use, and the cache must have their dtype. A
    text's logits do not depend on the other texts, nor on the passes that its tokens are divided into, to
    the last bit.
    """

    def __init__(self, model: TransformerLM, cache: KVCache) -> None:
        self.model, self.cache = model, cache
        config, (keys, values) = model.config, cache.memory
        blocks = cast(list[TransformerBlock], list(model.blocks))
        cos, sin = _rotations(blocks)
        rows, width = keys.shape[1], config.vocabulary_rows
        self._max_tokens = -(-(rows + PASS_TOKENS) // TOKENS_AT_A_TIME) * TOKENS_AT_A_TIME
        self.tokens_per_step = PASS_TOKENS
        self._num_threads = dispatch.num_threads()
        self._logits = _float32(rows, width)
        self._rows = _indices(range(rows))
        # The kernel gets raw addresses, so dtypes and device must not follow torch's defaults.
        self._storage = storage_of(model) or model.head.weight.dtype
        self._library = LIBRARY if storage_of(model) is None else QUANTIZED_LIBRARY
        parts = [_parts(block) for block in blocks]
        addresses, scales = (
            torch.tensor([[part[which] for part in row] for row in parts], dtype=torch.long, device="cpu")
            for which in (0, 1)
        )
        self._memory = (
            *(*_matrix(model.embedding), addresses, scales, model.final_norm.weight, *_matrix(model.head)),
            *(keys, values, cos, sin, self._logits),
            _float32(scratch_size(config, self._max_tokens, cache.capacity, self._num_threads)),
            _float32(inputs_size(config, self._max_tokens, self._num_threads)),
            torch.zeros(BARRIER_SIZE, dtype=torch.long, device="cpu"),
        )
        attention = config.d_model, config.num_heads, config.kv_heads, config.head_dim
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
        """See `Decoder`. Equal windows are computed once."""
        unique, row_of = unique_windows(windows)
        own_rows = [rows[row_of.index(index)] for index in range(len(unique))]
        logits = self._read([Piece(row, 0, ids) for row, ids in zip(own_rows, unique, strict=True)])
        self.cache.replace_lengths(own_rows, [len(window) for window in unique])
        if len(unique) < len(rows):
            self.cache.put(rows, self.cache, [own_rows[index] for index in row_of])
        return logits[row_of]

    def extend(self, new_ids: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """See `Decoder`. The newest ids and the beginnings of the pieces share a pass."""
        self.cache.require_room(1)
        newest = zip(new_ids.tolist(), self.cache.row_lengths, strict=True)
        steps = [Piece(row, length, [new_id]) for row, (new_id, length) in enumerate(newest)]
        logits = self._read([*steps, *pieces])
        self.cache.advance(1)
        return logits

    def _read(self, pieces: Sequence[Piece]) -> Tensor:
        """Store pieces in as few passes as they fill; return the logits after each."""
        logits = _float32(len(pieces), self._logits.shape[1])
        tokens = [
            (token_id, piece.row, piece.start + place, index if place == len(piece.ids) - 1 else None)
            for index, piece in enumerate(pieces)
            for place, token_id in enumerate(piece.ids)
        ]
        for first in range(0, len(tokens), self._max_tokens):
            ids, rows, positions, ends = zip(*tokens[first : first + self._max_tokens], strict=True)
            wanted = [place for place, end in enumerate(ends) if end is not None]
            self._run(*map(_indices, (ids, rows, positions, wanted)))
            logits[[ends[place] for place in wanted]] = self._logits[: len(wanted)]
        return logits

    def _run(self, ids: Tensor, row_of: Tensor, positions: Tensor, wanted: Tensor) -> None:
        kernel = self._num_threads, self._library, "decode", (self._storage,)
        sizes = len(ids), len(wanted), *self._numbers
        dispatch.run_on(*kernel, ids, row_of, positions, wanted, *self._memory, *sizes)


def make_decoder(model: TransformerLM, cache: KVCache) -> Decoder:
    """Return a kernel decoder if the model uses kernels (nn/fused.py) and they accept its tensors."""
    if not uses_kernels(model):
        return TorchDecoder(model, cache)
    tensors = [*model.parameters(), *cache.memory]
    dtypes = {tensor.dtype for tensor in tensors}
    is_one_dtype = len(dtypes) == 1 and not torch.is_autocast_enabled("cpu")
    if storage_of(model) is not None and dtypes != {torch.float32}:
        return TorchDecoder(model, cache)
    if is_one_dtype and dispatch.can_serve(*tensors) and all(tensor.is_contiguous() for tensor in tensors):
        return KernelDecoder(model, cache)
    return TorchDecoder(model, cache)


def _indices(numbers: Iterable[int]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.long, device="cpu")


def _float32(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _rotations(blocks: Sequence[TransformerBlock]) -> tuple[Tensor, Tensor]:
    """Return the tables of the rotation that the layers share; empty ones if none rotates."""
    ropes = [block.attention.rope for block in blocks if block.attention.rope is not None]
    return (ropes[0].cos, ropes[0].sin) if ropes else (_float32(0), _float32(0))


def _matrix(module: Linear | Embedding) -> tuple[Tensor, Tensor]:
    """Return the memory of a matrix: its numbers, and their scales (of floats: nothing)."""
    if isinstance(module, QuantizedLinear | QuantizedEmbedding):
        return module.numbers, module.scales
    return module.weight, torch.empty(0, dtype=torch.float16, device="cpu")


def _parts(block: TransformerBlock) -> list[tuple[int, int]]:
    """Return a layer's row in the order of generation_layout.py: addresses of its weights, each with that of
    its scales, and numbers.

    0 for an absent norm or bias, and for scales of floats.
    """
    attention, feedforward = block.attention, block.feedforward
    parts: list[Linear | RMSNorm | None] = [
        block.attention_norm,
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.output_proj),
        block.feedforward_norm,
        *(feedforward.w1, feedforward.w3, feedforward.w2),
        *(attention.q_norm, attention.k_norm),
    ]
    biases = [layer.bias for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
    row = [
        *map(_addresses, parts),
        *((0 if bias is None else bias.data_ptr(), 0) for bias in biases),
        *((number, 0) for number in (attention.window or 0, int(attention.rope is not None))),
    ]
    assert len(row) == NUM_MATRICES
    return row


def _addresses(part: Linear | RMSNorm | None) -> tuple[int, int]:
    if isinstance(part, Linear):
        numbers, scales = _matrix(part)
        return numbers.data_ptr(), scales.data_ptr()
    return (0 if part is None else part.weight.data_ptr()), 0
