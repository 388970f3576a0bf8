"""Matrices in eight and four bits: what is stored, what it stands for, and modules that compute with it.

A row is divided into groups of 32 numbers. A group has a scale in float16, and each number is a whole number
of scales: from -127 to 127 in eight bits, from -8 to 7 in four. These are the values of GGML's Q8_0 and Q4_0,
so that a GGUF file can hold exactly what is computed with here. In four bits the scale is not that of GGML's
own quantisation but the best of several: the one with the smallest squared error. They are stored in another
order than GGML's, 16 rows at a time (`pack`), for which products need far fewer instructions.

Only matrices are quantized; the gains of norms stay as they are. Inputs in float32 are rounded to 16 bits
(`round_inputs`), so that a CPU can multiply integers. Relative to a product with random weights that is an
error of some 0.00003 with inputs of similar size; if one is far larger than all others, as in some large
models, sqrt(width) / 113,000: 0.001 with 14,336 numbers. Rounding the matrix to eight bits costs 0.005.

Source: https://github.com/ggml-org/ggml, ggml-quants.c (Q8_0, Q4_0); Dettmers et al., "8-bit Optimizers via
Block-wise Quantization", 2021, on scales for blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from transformerlm.kernels.generation_layout import BLOCK_ROWS, GROUP
from transformerlm.nn.embedding import Embedding
from transformerlm.nn.linear import Linear
from transformerlm.nn.transformer import TransformerLM

Storage = Literal["int8", "int4"]
LIMITS = {"int8": 127, "int4": 8}
"""Largest magnitude of a number, in scales."""
_DIVISORS = tuple(7 + step / 2 for step in range(7))
"""Candidates for the magnitude of a group's largest number in four bits, in scales. Beyond 8 the largest
number is cut off, and the others are rounded less; below, the opposite."""
MAX_INPUT = 32767
"""Largest magnitude of a rounded input, in scales."""
SMALLEST_INPUT = 2.0**-100
"""A token whose inputs are no larger has inputs of 0."""
_CHUNK_ROWS = 32
"""Rows that are quantized at a time: what is computed with stays in a cache."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix [rows, width] in eight or four bits, in blocks of 16 rows, of which the last is filled up."""

    storage: Storage
    numbers: Tensor
    """As `pack` orders them: int8 [blocks, width / 2, 16, 2], or uint8 [blocks, width / 8, 16, 4]."""
    scales: Tensor
    """float16 [blocks, width / 32, 16]"""
    num_rows: int

    @property
    def shape(self) -> torch.Size:
        """[rows, width]"""
        return torch.Size([self.num_rows, self.scales.shape[1] * GROUP])

    def numel(self) -> int:
        """Return the number of weights."""
        return self.shape.numel()

    def rows(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows: whole numbers, int8 [indices, width], and scales, float16 [indices, width / 32]."""
        place = indices // BLOCK_ROWS, slice(None), indices % BLOCK_ROWS
        numbers = self.numbers[place].flatten(1)
        return numbers if self.storage == "int8" else unpack_bits(numbers), self.scales[place]

    def all_rows(self) -> tuple[Tensor, Tensor]:
        """Return `rows` of the whole matrix."""
        return self.rows(torch.arange(self.num_rows, dtype=torch.long, device=self.scales.device))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the matrix [rows, width] that this stands for; float32 holds it exactly."""
        return dequantized(*self.all_rows()).to(dtype)


def dequantized(integers: Tensor, scales: Tensor) -> Tensor:
    """Return what whole numbers [rows, width] and scales [rows, width / 32] stand for, in float32."""
    groups = integers.view(*scales.shape, GROUP).float()
    return (groups * scales.float().unsqueeze(-1)).flatten(1)


def can_quantize(*widths: int) -> bool:
    """Return True if rows of these widths are divided into whole groups."""
    return all(width % GROUP == 0 for width in widths)


def quantize(matrix: Tensor, storage: Storage) -> QuantizedMatrix:
    """Round a matrix [rows, width] to eight or four bits.

    Raises:
        ValueError: rows that do not divide into whole groups, or numbers that are not finite or too large for
            a scale in float16.
    """
    rows, width = matrix.shape
    if not can_quantize(width):
        raise ValueError(f"expected a width that is a multiple of {GROUP}, got {width}")
    parts = [_quantize_rows(part.float(), storage) for part in torch.split(matrix.detach(), _CHUNK_ROWS)]
    integers, scales = (torch.cat(part) for part in zip(*parts, strict=True))
    if not bool(scales.isfinite().all()):
        raise ValueError(f"expected finite numbers below {LIMITS[storage]} * 65504, got others")
    return pack(integers.view(rows, width), scales, storage)


def _quantize_rows(matrix: Tensor, storage: Storage) -> tuple[Tensor, Tensor]:
    """Return whole numbers, int8 [rows, groups, 32], and scales, float16 [rows, groups]."""
    groups = matrix.reshape(len(matrix), -1, GROUP)
    # The number of largest magnitude: in four bits it is on the side that reaches to -8.
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    if storage == "int8":
        scale = largest.abs() / 127
        # Halves away from zero, by the scale before it is rounded: GGML's numbers.
        ratio = groups * _inverse(scale)
        whole = ratio.abs().floor()
        integers = torch.copysign(whole + (2 * (ratio.abs() - whole)).floor(), ratio)
    else:
        scale = best_scale(groups, largest)
        integers = _in_scales(groups, scale)
    return integers.nan_to_num_().to(torch.int8), scale.half().squeeze(-1)


def best_scale(groups: Tensor, largest: Tensor) -> Tensor:
    """Return the scale with the smallest squared error in four bits, of _DIVISORS, as float16 holds it.

    groups: [..., 32]. largest, and the result: [..., 1].
    """
    best = torch.zeros_like(largest)
    best_error = torch.full_like(largest, float("inf"))
    for divisor in _DIVISORS:
        scale = (largest / -divisor).half().float()
        error = _in_scales(groups, scale).mul_(scale).sub_(groups).square_().sum(-1, keepdim=True)
        # What is no number has no smallest error: its scale is taken, and refused.
        is_better = (error < best_error) | ~error.isfinite()
        best, best_error = torch.where(is_better, scale, best), torch.where(is_better, error, best_error)
    return best


def _in_scales(groups: Tensor, scale: Tensor) -> Tensor:
    """Return the nearest whole numbers of scales in four bits, as floats."""
    return (groups * _inverse(scale)).round_().clamp_(-8, 7)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)


def pack(integers: Tensor, scales: Tensor, storage: Storage) -> QuantizedMatrix:
    """Store whole numbers, int8 [rows, width], and their scales, float16 [rows, width / 32].

    A block's columns follow each other, and each has a number of every row, so that a register holds numbers
    of 16 rows, to be multiplied with the same inputs. In eight bits a row's two numbers of a pair of columns
    are neighbours. In four bits eight columns are together, in four bytes a row (`pack_bits`).
    """
    width = integers.shape[1]
    numbers = integers.view(-1, width // 2, 2) if storage == "int8" else pack_bits(integers)
    return QuantizedMatrix(storage, _in_blocks(numbers), _in_blocks(scales), num_rows=len(integers))


def _in_blocks(rows: Tensor) -> Tensor:
    """[rows, number, ...] -> [blocks, number, 16, ...]"""
    missing = rows.new_zeros(-len(rows) % BLOCK_ROWS, *rows.shape[1:])
    whole = torch.cat([rows, missing])
    return whole.view(-1, BLOCK_ROWS, *rows.shape[1:]).transpose(1, 2).contiguous()


def pack_bits(integers: Tensor) -> Tensor:
    """Pack numbers from -8 to 7, int8 [rows, width], in pairs: uint8 [rows, width / 8, 4].

    Eight numbers are two words of 16 bits, from the lowest bits up in two's complement: numbers 0, 2, 4, 6
    and 1, 3, 5, 7. A kernel widens two neighbours to 16 bits by one shift of both words.
    """
    eights = integers.view(len(integers), -1, 2, 2, 2)  # [rows, eights, byte of a word, half of it, word]
    low, high = eights.unbind(-2)
    return ((low & 15) | (high & 15) << 4).view(torch.uint8).transpose(-1, -2).flatten(-2)


def unpack_bits(packed: Tensor) -> Tensor:
    """Inverse of `pack_bits`: uint8 [rows, width / 2] -> int8 [rows, width]."""
    words = packed.view(len(packed), -1, 2, 2).transpose(-1, -2)  # [rows, eights, byte, word]
    halves = torch.stack([words & 15, words >> 4], -2).view(torch.int8)
    return ((halves ^ 8) - 8).flatten(1)


def round_inputs(x: Tensor) -> Tensor:
    """Round the inputs of each token, float32 [..., width], to whole multiples of 1/32767 of the largest one.

    Two neighbours may be equally near; either may be taken.
    """
    largest = x.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > SMALLEST_INPUT, MAX_INPUT / largest, 0.0)
    return (x * inverse).round() * (largest / MAX_INPUT)


class _Quantized(nn.Module):
    """A module with a matrix in eight or four bits. Its tensors are buffers, which move with the module."""

    numbers: Tensor
    scales: Tensor

    def hold(self, matrix: QuantizedMatrix) -> None:
        """Use a matrix."""
        self._storage: Storage = matrix.storage
        self._num_rows = matrix.num_rows
        self.register_buffer("numbers", matrix.numbers)
        self.register_buffer("scales", matrix.scales)

    @property
    def matrix(self) -> QuantizedMatrix:
        """The matrix as it is stored."""
        return QuantizedMatrix(self._storage, self.numbers, self.scales, self._num_rows)

    @property
    def weight(self) -> Tensor:
        """The matrix in float32, computed at each access."""
        return self.matrix.dequantize()


class QuantizedLinear(_Quantized, Linear):  # type: ignore[misc]  # `weight` is computed
    """`Linear` whose matrix is stored in eight or four bits; its bias stays as it is."""

    def __init__(self, matrix: QuantizedMatrix, bias: nn.Parameter | None = None) -> None:
        nn.Module.__init__(self)
        self.bias = bias
        self.hold(matrix)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        x = round_inputs(x) if x.dtype == torch.float32 else x
        y = x @ self.matrix.dequantize(x.dtype).T
        return y if self.bias is None else y + self.bias.to(y.dtype)


class QuantizedEmbedding(_Quantized, Embedding):  # type: ignore[misc]  # the same
    """`Embedding` whose table is stored in eight or four bits."""

    def __init__(self, matrix: QuantizedMatrix, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.dtype = dtype
        self.hold(matrix)

    def tie_to(self, head: Linear) -> None:
        """Use the matrix of the head."""
        assert isinstance(head, QuantizedLinear)
        self.hold(head.matrix)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Ids [...] of int32 or int64 -> [..., embedding_dim], in `dtype`."""
        rows = dequantized(*self.matrix.rows(token_ids.flatten())).to(self.dtype)
        return rows.view(*token_ids.shape, rows.shape[1])


def quantize_(model: TransformerLM, matrix_of: Callable[[str, Tensor], QuantizedMatrix]) -> None:
    """Replace all matrices of a model by quantized ones: those of the blocks, the embedding and the head.

    Args:
        matrix_of: returns the matrix of a weight's name and value; called once for a tied pair.
    """
    dtype = model.final_norm.weight.dtype
    tied = matrix_of("head.weight", model.head.weight) if model.config.tie_embeddings else None
    for name, module in list(model.named_modules()):
        if not isinstance(module, Linear | Embedding):
            continue
        is_tied = module in (model.head, model.embedding) and tied is not None
        matrix = cast(QuantizedMatrix, tied) if is_tied else matrix_of(f"{name}.weight", module.weight)
        new: nn.Module = QuantizedEmbedding(matrix, dtype)
        if not isinstance(module, Embedding):
            new = QuantizedLinear(matrix, module.bias)
        parent, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(parent), own_name, new)


def storage_of(model: TransformerLM) -> Storage | None:
    """Return how the matrices of a model are stored; None: as floats."""
    return model.head.matrix.storage if isinstance(model.head, QuantizedLinear) else None
