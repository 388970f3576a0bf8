"""Products of matrices in eight or four bits with the inputs of one or several tokens.

A token's inputs are rounded to 16 bits (nn.quantization.round_inputs), and integers are multiplied. The sum
of a group's products is exact; such sums are added up in float32, times the group's scale, from a row's first
group to its last. So a product has the same bits for any number of tokens, and for any size of registers.

Matrices are stored in blocks of BLOCK_ROWS rows (nn.quantization.pack): what one lane of a register adds up
belongs to one row. No sum over the lanes is needed, a group is converted to float32 once for all its
products, and memory is read in one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from transformerlm.kernels.generation_layout import BLOCK_ROWS, GROUP
from transformerlm.kernels.primitives import ZERO, bits_of, compiled, f32, float_of, i64, u32, wide
from transformerlm.kernels.vectors import (
    BYTES_AHEAD,
    FLOATS,
    HAS_LARGE_REGISTERS,
    LANES,
    LINE_BYTES,
    NUMBER,
    SHORTS,
    WORDS,
    add_numbers,
    bits_of_number,
    broadcast_pair,
    halves_at,
    load_as,
    pairs_of_products,
    prefetch,
    signed_bytes_at,
)

MAX_INPUT = f32(32767)
"""Largest magnitude of a rounded input, in scales."""
SMALLEST_INPUT = f32(2.0**-100)
"""A token whose inputs are no larger has inputs of 0."""
ROUNDER = f32(1.5 * 2**23)
"""Added to a number below 2^22, it leaves the nearest whole number in the sum's lowest bits."""
CHUNK = 8
"""Columns of a block that are loaded at a time: in four bits they fill a register."""
PARTS = range(0, BLOCK_ROWS, LANES)
"""First rows of the registers that a block's rows are divided into."""


@compiled
def float_of_half(half):
    """Convert a float16 number, which is not infinite or NaN, from its bits.

    Its exponent is taken for that of a float32, and is too small by 127 - 15.
    """
    bits = u32(half)
    return float_of((bits & u32(0x8000)) << u32(16) | (bits & u32(0x7FFF)) << u32(13)) * f32(2.0**112)


@compiled
def byte_at(matrix, row, i, width):
    """Number `i` of a row, in float32, of a matrix in eight bits."""
    block, place = row // BLOCK_ROWS, row % BLOCK_ROWS
    pair = (block * (width // 2) + i // 2) * BLOCK_ROWS + place
    return f32(matrix.numbers[2 * pair + i % 2]) * scale_at(matrix, row, i, width)


@compiled
def nibble_at(matrix, row, i, width):
    """Number `i` of a row, in float32, of a matrix in four bits."""
    block, place, column = row // BLOCK_ROWS, row % BLOCK_ROWS, i % CHUNK
    chunk = (block * (width // CHUNK) + i // CHUNK) * BLOCK_ROWS + place
    # Columns 0, 2, 4, 6 are in the first two bytes, from the lowest bits up, the others in the next two.
    byte = matrix.numbers[4 * chunk + 2 * (column % 2) + column // 4]
    bits = (i64(byte) >> (column // 2 % 2 * 4)) & 15
    return f32((bits ^ 8) - 8) * scale_at(matrix, row, i, width)


@compiled
def scale_at(matrix, row, i, width):
    """Return the scale of number `i` of a row."""
    group = row // BLOCK_ROWS * (width // GROUP) + i // GROUP
    return float_of_half(matrix.scales[group * BLOCK_ROWS + row % BLOCK_ROWS])


@compiled
def round_inputs(x, at, width, out, token):
    """nn.quantization.round_inputs of the numbers from `at` on, as a token of `out`."""
    bits = u32(0)
    for i in range(width):  # the order of positive floats is that of their bits, and NaN is the largest
        bits = max(bits, bits_of(wide(x[at + i])) & u32(0x7FFFFFFF))
    largest = float_of(bits)
    inverse = MAX_INPUT / largest if largest > SMALLEST_INPUT else ZERO
    for i in range(width):
        rounded = bits_of(wide(x[at + i]) * inverse + ROUNDER)
        out.numbers[token * width + i] = np.int16(rounded & u32(0xFFFF))
    out.scales[token] = largest / MAX_INPUT


# ---- tiles -------------------------------------------------------------------------------------------


def columns_at(builder: Any, kind: Any, numbers: Any, at: Any, first_row: int) -> list[Any]:
    """Load CHUNK columns of LANES rows of a block, from byte `at` of its columns on.

    Returns:
        A vector of 16 bits for each pair of columns: 2 numbers for each row.
    """
    if bits_of_number(kind) == 8:
        places = [2 * (pair * BLOCK_ROWS + first_row) for pair in range(CHUNK // 2)]
        return [signed_bytes_at(builder, numbers, builder.add(at, NUMBER(place))) for place in places]
    words = load_as(builder, SHORTS, numbers, builder.add(at, NUMBER(4 * first_row)), 1)
    vectors = []
    for above in (12, 8, 4, 0):  # four bits are shifted to the top and back, which extends their sign
        shifted = builder.shl(words, SHORTS([above] * (2 * LANES))) if above else words
        vectors.append(builder.ashr(shifted, SHORTS([12] * (2 * LANES))))
    return vectors


def group_sums(builder: Any, kind: Any, numbers: Any, at: Any, x: Any, starts: Sequence[Any]) -> list[Any]:
    """Return the sums of a group's products in 32 bits, by parts of the block and tokens.

    at: the byte at which the group begins. starts: the number at which each token's group begins.
    """
    places = [(token, part) for token in range(len(starts)) for part in range(len(PARTS))]
    sums = {place: WORDS([0] * LANES) for place in places}
    chunk_bytes = BLOCK_ROWS * CHUNK * bits_of_number(kind) // 8
    for chunk in range(GROUP // CHUNK):
        place = builder.add(at, NUMBER(chunk * chunk_bytes))
        for line in range(0, chunk_bytes, LINE_BYTES):
            prefetch(builder, numbers, builder.add(place, NUMBER(line + BYTES_AHEAD)))
        columns = [columns_at(builder, kind, numbers, place, first_row) for first_row in PARTS]
        for pair in range(CHUNK // 2):
            for token, start in enumerate(starts):
                values = broadcast_pair(builder, x, builder.add(start, NUMBER(chunk * CHUNK + 2 * pair)))
                for part in range(len(PARTS)):
                    products = pairs_of_products(builder, columns[part][pair], values)
                    sums[token, part] = builder.add(sums[token, part], products)
    return list(sums.values())


def build_block(builder: Any, kind: Any, num_tokens: int, arguments: Any) -> None:
    """Build the body of a tile; see `make_block`."""
    numbers, at, scales, scales_at, x, x_at, width, out, out_at = arguments
    tokens = [builder.add(x_at, builder.mul(NUMBER(token), width)) for token in range(num_tokens)]
    places = num_tokens * len(PARTS)
    totals = [cgutils.alloca_once_value(builder, FLOATS([0.0] * LANES)) for _ in range(places)]
    group_bytes = NUMBER(BLOCK_ROWS * GROUP * bits_of_number(kind) // 8)
    with cgutils.for_range(builder, builder.udiv(width, NUMBER(GROUP))) as loop:
        group, first = loop.index, builder.mul(loop.index, NUMBER(GROUP))
        starts = [builder.add(token, first) for token in tokens]
        sums = group_sums(builder, kind, numbers, builder.add(at, builder.mul(group, group_bytes)), x, starts)
        scale_at = builder.add(scales_at, builder.mul(group, NUMBER(BLOCK_ROWS)))
        factors = [halves_at(builder, scales, builder.add(scale_at, NUMBER(row))) for row in PARTS]
        for place, total in enumerate(totals):
            number = builder.sitofp(sums[place], FLOATS)
            factor = factors[place % len(PARTS)]
            builder.store(add_numbers(builder, builder.load(total), number, factor), total)
    for place, total in enumerate(totals):
        address = builder.gep(out, [builder.add(out_at, NUMBER(place * LANES))])
        builder.store(builder.load(total), builder.bitcast(address, FLOATS.as_pointer()), align=4)


def make_block(num_tokens: int) -> Any:
    """Return a function that multiplies a block of rows with the inputs of `num_tokens` tokens.

    It takes the matrix and the byte at which the block begins, its scales and the number at which they begin,
    inputs in 16 bits and the number at which they begin, the width, and memory for [num_tokens, BLOCK_ROWS]
    results. These are still to be multiplied with the scales of the inputs.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # A function of its own, which is not inlined: the same tile is called from several places.
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        name = f"block_{num_tokens}_{signature.args[0].dtype}"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        if function.is_declaration:
            function.linkage = "internal"
            function.attributes.add("noinline")
            inside = ir.IRBuilder(function.append_basic_block())
            build_block(inside, signature.args[0], num_tokens, function.args)
            inside.ret_void()
        builder.call(function, arguments)
        return context.get_dummy_value()

    def block(
        context: Any,
        numbers: Any,
        at: Any,
        scales: Any,
        scales_at: Any,
        x: Any,
        x_at: Any,
        width: Any,
        out: Any,
        out_at: Any,
    ) -> Any:
        return types.void(numbers, at, scales, scales_at, x, x_at, width, out, out_at), build

    return intrinsic(block)


block_by_sixteen, block_by_eight, block_by_four = make_block(16), make_block(8), make_block(4)
block_by_two, block_by_one = make_block(2), make_block(1)


@compiled
def multiply_block(numbers, at, scales, scales_at, x, x_at, tokens, width, out, out_at):
    """Multiply a block with the first of `tokens` tokens, as many as a tile has; return their number."""
    if HAS_LARGE_REGISTERS and tokens >= 16:
        block_by_sixteen(numbers, at, scales, scales_at, x, x_at, width, out, out_at)
        return 16
    if HAS_LARGE_REGISTERS and tokens >= 8:
        block_by_eight(numbers, at, scales, scales_at, x, x_at, width, out, out_at)
        return 8
    if tokens >= 4:
        block_by_four(numbers, at, scales, scales_at, x, x_at, width, out, out_at)
        return 4
    if tokens >= 2:
        block_by_two(numbers, at, scales, scales_at, x, x_at, width, out, out_at)
        return 2
    block_by_one(numbers, at, scales, scales_at, x, x_at, width, out, out_at)
    return 1


@compiled
def project_integers(
    matrix, block_bytes, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at
):  # fmt: skip
    """`generation_products.project` with a matrix of integers, whose blocks have `block_bytes` each."""
    block_scales = BLOCK_ROWS * (width // GROUP)
    for block in range(first // BLOCK_ROWS, (last + BLOCK_ROWS - 1) // BLOCK_ROWS):
        row = block * BLOCK_ROWS
        start, end = max(first - row, 0), min(last - row, BLOCK_ROWS)
        token = i64(0)
        while token < tokens:
            number = multiply_block(
                matrix.numbers, block * block_bytes, matrix.scales, block * block_scales,
                x.numbers, x_at + token * width, tokens - token, width, tile, tile_at,
            )  # fmt: skip
            for place in range(number):
                to, source = out_at + (token + place) * out_width + row, tile_at + place * BLOCK_ROWS
                for i in range(start, end):
                    out[to + i] = tile[source + i] * x.scales[token + place]
            token += number
