"""Products of matrices with the inputs of one or several tokens, for generation.

A matrix is stored in float32, bfloat16, or in eight or four bits (nn/quantization.py defines those). A
product of a row and a token is one sum in one order, for any number of tokens. Few tokens are multiplied with
numbers that are widened in registers, so that only stored bytes are read from memory; for many, a block of
rows is widened once, and multiplied from a cache. The bits are the same.

- **float32, bfloat16**: products of float32 numbers. Where the processor multiplies pairs of bfloat16
  numbers, the inputs of a bfloat16 matrix are bfloat16 too.
- **Eight and four bits**: products of integers. A token's inputs are rounded to 16 bits
  (nn.quantization.round_inputs). Sums within a group are exact, and are added up in float32, times the
  group's scale. That takes half the instructions of products of floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from transformerlm.kernels.generation_layout import GROUP, TILE_ROWS
from transformerlm.kernels.primitives import (
    MEMORY,
    ZERO,
    bits_of,
    compiled,
    f32,
    float_of,
    i64,
    u32,
    wide,
)
from transformerlm.kernels.vectors import (
    BYTES_AHEAD,
    FLOATS,
    HAS_LARGE_REGISTERS,
    HAS_PAIR_PRODUCTS,
    LANES,
    LINE_BYTES,
    NUMBER,
    add_numbers,
    add_products,
    are_integers,
    are_pairs,
    bits_of_number,
    broadcast,
    integers_at,
    load_step,
    prefetch,
    step_of,
    sums_of,
    vector_at,
)

WEIGHTS = MEMORY | {"int8": "i8*", "int4": "u8*"}
"""Storage of the matrices -> memory type; four bits are stored in pairs."""
INPUTS = dict.fromkeys(WEIGHTS, MEMORY["float32"]) | (
    {"bfloat16": MEMORY["bfloat16"]} if HAS_PAIR_PRODUCTS else {}
)
"""Storage of a matrix -> memory type of its inputs, before they are rounded for integers."""
MIN_WIDENED_TOKENS = 8
"""Number of tokens from which it saves time to widen a block of rows first."""
FEW_TOKENS = 2
"""Number of tokens up to which rows far apart are multiplied: such products wait for memory."""
MAX_INPUT = f32(32767)
"""Largest magnitude of a rounded input, in scales."""
SMALLEST_INPUT = f32(2.0**-100)
"""A token whose inputs are no larger has inputs of 0."""
ROUNDER = f32(1.5 * 2**23)
"""Added to a number below 2^22, it leaves the nearest whole number in the sum's lowest bits."""


class Matrix(NamedTuple):
    """A matrix [rows, width] in memory."""

    numbers: Any
    """Float32 or bfloat16 numbers, or eight or four bits each."""
    scales: Any
    """Of eight and four bits: float16 scales of groups, [rows, width / GROUP]. Otherwise not read."""


class Inputs(NamedTuple):
    """Inputs [tokens, width] in memory."""

    numbers: Any
    """Float32 or bfloat16 numbers; for matrices of eight and four bits 16 bits each."""
    scales: Any
    """Of 16 bits: a float32 scale for each token, [tokens]. Otherwise not read."""


# ---- numbers as they are stored ------------------------------------------------------------------------


def step_size(numbers, x):
    """`step_of`, for kernels."""


@overload(step_size, inline="always")
def _step_size(numbers, x):
    number = i64(step_of(numbers, x))
    return lambda numbers, x: number


def numbers_ahead(numbers):
    """Return how many numbers further on a row is prefetched of which few tokens are multiplied."""


@overload(numbers_ahead, inline="always")
def _numbers_ahead(numbers):
    number = i64(BYTES_AHEAD * 8 // bits_of_number(numbers))
    return lambda numbers: number


def has_scales(numbers):
    """`are_integers`, for kernels."""


@overload(has_scales, inline="always")
def _has_scales(numbers):
    answer = are_integers(numbers)
    return lambda numbers: answer


def may_be_widened(numbers, x):
    """Return True if many tokens are multiplied with widened copies of these numbers."""


@overload(may_be_widened, inline="always")
def _may_be_widened(numbers, x):
    answer = numbers.dtype != types.float32 and not are_pairs(numbers, x)
    return lambda numbers, x: answer


def is_prefetched_once(numbers):
    """Return True if only the first tokens' products prefetch the rows that follow.

    With float32 numbers, all are faster if all do (measured on Zen 4); with others, the rest take longer.
    """


@overload(is_prefetched_once, inline="always")
def _is_prefetched_once(numbers):
    answer = numbers.dtype != types.float32
    return lambda numbers: answer


def _make_view(number: Any) -> Any:
    """Return a function that returns memory from number `at` of a float32 array on, as another array."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.gep(arguments[0], [arguments[1]])
        return builder.bitcast(place, context.get_value_type(signature.return_type))

    def view(context: Any, memory: Any, at: Any) -> Any:
        return types.CPointer(number)(memory, at), build

    return intrinsic(view)


shorts_of, floats_of = _make_view(types.int16), _make_view(types.float32)


def widened_view(numbers, memory, at):
    """Return memory from number `at` of a float32 array on, for widened numbers: 16 bits or float32."""


@overload(widened_view, inline="always")
def _widened_view(numbers, memory, at):
    view = shorts_of if are_integers(numbers) else floats_of
    return lambda numbers, memory, at: view(memory, at)


@compiled
def float_of_half(half):
    """Convert a float16 number, which is not infinite or NaN, from its bits.

    Its exponent is taken for that of a float32, and is too small by 127 - 15.
    """
    bits = u32(half)
    return float_of((bits & u32(0x8000)) << u32(16) | (bits & u32(0x7FFF)) << u32(13)) * f32(2.0**112)


def number_at(matrix, row, i, width):
    """Number `i` of a row, in float32."""


@overload(number_at, inline="always")
def _number_at(matrix, row, i, width):
    numbers = matrix[0]
    if not are_integers(numbers):
        return lambda matrix, row, i, width: wide(matrix.numbers[row * width + i])
    if bits_of_number(numbers) == 8:

        def number(matrix, row, i, width):
            scale = float_of_half(matrix.scales[row * (width // GROUP) + i // GROUP])
            return f32(matrix.numbers[row * width + i]) * scale
    else:

        def number(matrix, row, i, width):
            group, place = row * (width // GROUP) + i // GROUP, i % GROUP
            # Short `place % 8` of the group has it among its four: see nn/quantization.py.
            byte = matrix.numbers[group * (GROUP // 2) + place % 8 * 2 + place // 16]
            bits = (i64(byte) >> (place // 8 % 2 * 4)) & 15
            return f32((bits ^ 8) - 8) * float_of_half(matrix.scales[group])

    return number


@compiled
def widen_scales(matrix, row, number, width, out, out_at):
    """Convert the scales of `number` rows to float32."""
    groups = width // GROUP
    for i in range(number * groups):
        out[out_at + i] = float_of_half(matrix.scales[row * groups + i])


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


def build_tile(
    builder: Any, kinds: Any, num_rows: int, num_tokens: int, prefetches: bool, arguments: Any
) -> None:
    """Build the body of a tile; `kinds` are the types of the matrix, the inputs, and what is prefetched."""
    numbers, at, apart, scales, scales_at, x, x_at, width, out, out_at, out_width, later, later_at = arguments
    kind, x_kind, later_kind = kinds
    as_pairs, size = are_pairs(kind, x_kind), step_of(kind, x_kind)
    groups = builder.udiv(width, NUMBER(GROUP))
    row_places = [builder.mul(NUMBER(row), apart) for row in range(num_rows)]
    row_starts = [builder.add(at, builder.mul(place, width)) for place in row_places]
    scale_starts = [builder.add(scales_at, builder.mul(NUMBER(row), groups)) for row in range(num_rows)]
    token_starts = [builder.add(x_at, builder.mul(NUMBER(token), width)) for token in range(num_tokens)]
    places = [(token, row) for token in range(num_tokens) for row in range(num_rows)]
    totals = {place: cgutils.alloca_once_value(builder, FLOATS([0.0] * LANES)) for place in places}

    def multiply_step(index: Any) -> None:
        i, rows = builder.mul(index, NUMBER(size)), []
        for start, scale_start in zip(row_starts, scale_starts, strict=True):
            step = load_step(builder, kind, numbers, builder.add(start, i), as_pairs)
            if are_integers(kind):
                scale = builder.load(builder.gep(scales, [builder.add(scale_start, index)]))
                step = step._replace(scale=broadcast(builder, scale))
            rows.append(step)
        for token, start in enumerate(token_starts):
            values = load_step(builder, x_kind, x, builder.add(start, i), as_pairs)
            for row, step in enumerate(rows):
                total = totals[token, row]
                builder.store(add_products(builder, builder.load(total), step, values), total)

    def prefetch_rows(index: Any) -> None:
        first = builder.add(later_at, builder.mul(index, NUMBER(size)))
        for place in row_places:
            prefetch(builder, later_kind, later, builder.add(first, builder.mul(place, width)))

    steps = builder.udiv(width, NUMBER(size))
    per_line = max(1, 8 * LINE_BYTES // (size * bits_of_number(later_kind))) if prefetches else 1
    for_steps(builder, steps, per_line, prefetch_rows if prefetches else None, multiply_step)
    sums = sums_of(builder, [builder.load(total) for total in totals.values()])
    for (token, row), total in zip(totals, sums, strict=True):
        place = builder.add(builder.add(out_at, builder.mul(NUMBER(token), out_width)), row_places[row])
        builder.store(total, builder.gep(out, [place]))


def for_steps(
    builder: Any,
    steps: Any,
    per_line: int,
    begin_line: Callable[[Any], None] | None,
    step: Callable[[Any], None],
) -> None:
    """Build a loop over `steps` steps, `per_line` of which are unrolled: the numbers of a row in a cache
    line."""
    whole = builder.udiv(steps, NUMBER(per_line))
    with cgutils.for_range(builder, whole) as loop:
        first = builder.mul(loop.index, NUMBER(per_line))
        if begin_line is not None:
            begin_line(first)
        for part in range(per_line):
            step(builder.add(first, NUMBER(part)))
    if per_line > 1:
        done = builder.mul(whole, NUMBER(per_line))
        with cgutils.for_range(builder, builder.sub(steps, done)) as loop:
            step(builder.add(done, loop.index))


def make_tile(num_rows: int, num_tokens: int, prefetches: bool = True) -> Any:
    """Return a function that multiplies `num_rows` rows of a matrix with the inputs of `num_tokens` tokens.

    Register tiling: each value that is loaded is used in several products while it is in a register, which a
    compiler does not find by itself. Each product of a row and a token is summed up in one vector register,
    from the first number of the row to the last, and the lanes of that register in `sums_of`: the order is
    the same in every tile. The remainder of a width that is no multiple of `step_size` is left to `project`.

    The function takes a matrix, of which every `apart`-th row is multiplied, the scales of those rows in
    float32, inputs, and memory for the results, each with the number at which it begins; results have rows of
    `out_width`. `finish` multiplies with the inputs' scales. The last two arguments are a matrix, and the
    number from which on as many rows of it are prefetched, if the tile `prefetches`.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # A function of its own, which is not inlined: the same tile is called from several places.
        kinds = signature.args[0], signature.args[5], signature.args[11]
        name = "_".join(
            ["tile", *map(str, (num_rows, num_tokens, prefetches)), *(str(k.dtype) for k in kinds)]
        )
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        if function.is_declaration:
            function.linkage = "internal"
            function.attributes.add("noinline")
            inside = ir.IRBuilder(function.append_basic_block())
            build_tile(inside, kinds, num_rows, num_tokens, prefetches, function.args)
            inside.ret_void()
        builder.call(function, arguments)
        return context.get_dummy_value()

    def tile(
        context: Any,
        numbers: Any,
        at: Any,
        apart: Any,
        scales: Any,
        scales_at: Any,
        x: Any,
        x_at: Any,
        width: Any,
        out: Any,
        out_at: Any,
        out_width: Any,
        later: Any,
        later_at: Any,
    ) -> Any:
        kinds = numbers, at, apart, scales, scales_at, x, x_at, width, out, out_at, out_width, later, later_at
        return types.void(*kinds), build

    return intrinsic(tile)


@intrinsic  # type: ignore[untyped-decorator]
def widen(context: Any, numbers: Any, at: Any, number: Any, out: Any, out_at: Any) -> Any:
    """Convert numbers of a matrix, without a remainder of less than a step, to 16 bits or float32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, at, number, out, out_at = arguments
        kind, out_kind = signature.args[0], signature.args[3]
        size = step_of(kind, out_kind)
        with cgutils.for_range(builder, builder.udiv(number, NUMBER(size))) as loop:
            first = builder.mul(loop.index, NUMBER(size))
            place = builder.add(at, first)
            if are_integers(kind):
                vectors = integers_at(builder, kind, numbers, place)
            else:
                vectors = [vector_at(builder, numbers, place)]
            for part, vector in enumerate(vectors):
                to = builder.add(builder.add(out_at, first), NUMBER(part * vector.type.count))
                address = builder.gep(out, [to])
                builder.store(vector, builder.bitcast(address, vector.type.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(numbers, at, number, out, out_at), build


def make_weighted_sum(num_vectors: int) -> Any:
    """Return a function that adds up `num_vectors` vectors of each of several rows, times its weight.

    out[i] = sum of weights[row] * rows[row, i], in registers, from the first row to the last.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, at, width, weights, weights_at, number, out, out_at = arguments
        totals = [cgutils.alloca_once_value(builder, FLOATS([0.0] * LANES)) for _ in range(num_vectors)]
        with cgutils.for_range(builder, number) as loop:
            weight = builder.load(builder.gep(weights, [builder.add(weights_at, loop.index)]))
            factor, start = broadcast(builder, weight), builder.add(at, builder.mul(loop.index, width))
            for part, total in enumerate(totals):
                values = vector_at(builder, rows, builder.add(start, NUMBER(part * LANES)))
                builder.store(add_numbers(builder, builder.load(total), values, factor), total)
        for part, total in enumerate(totals):
            address = builder.gep(out, [builder.add(out_at, NUMBER(part * LANES))])
            builder.store(builder.load(total), builder.bitcast(address, FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    def weighted_sum(
        context: Any,
        rows: Any,
        at: Any,
        width: Any,
        weights: Any,
        weights_at: Any,
        number: Any,
        out: Any,
        out_at: Any,
    ) -> Any:
        return types.void(rows, at, width, weights, weights_at, number, out, out_at), build

    return intrinsic(weighted_sum)


four_vectors, one_vector = make_weighted_sum(4), make_weighted_sum(1)


@compiled
def add_rows(rows, at, width, weights, weights_at, number, out, out_at):
    """out[i] = sum of weights[row] * rows[row, i], for rows of `width` numbers from number `at` on."""
    i = i64(0)
    while i + 4 * LANES <= width:
        four_vectors(rows, at + i, width, weights, weights_at, number, out, out_at + i)
        i += 4 * LANES
    while i + LANES <= width:
        one_vector(rows, at + i, width, weights, weights_at, number, out, out_at + i)
        i += LANES
    while i < width:
        total = ZERO
        for row in range(number):
            total += weights[weights_at + row] * wide(rows[at + row * width + i])
        out[out_at + i] = total
        i += 1


three_by_eight, two_by_eight, one_by_eight = make_tile(3, 8), make_tile(2, 8), make_tile(1, 8)
more_three_by_eight, more_one_by_eight = make_tile(3, 8, False), make_tile(1, 8, False)
more_two_by_eight = make_tile(2, 8, False)
three_by_four, two_by_four, one_by_four = make_tile(3, 4), make_tile(2, 4), make_tile(1, 4)
four_by_two, one_by_two = make_tile(4, 2), make_tile(1, 2)
four_by_one, one_by_one = make_tile(4, 1), make_tile(1, 1)


def _rows_of(many: Any, num_rows: int, one: Any) -> Any:
    """Return a kernel that multiplies rows with some tokens, `num_rows` at a time, then one by one."""

    @compiled
    def rows_of(
        numbers, at, scales, scales_at, rows, x, x_at, width, out, to, out_width, later, later_at
    ):  # fmt: skip
        groups, row = width // GROUP, i64(0)
        while row + num_rows - 1 < rows:
            many(
                numbers, at + row * width, i64(1), scales, scales_at + row * groups,
                x.numbers, x_at, width, out, to + row, out_width, later, later_at + row * width,
            )  # fmt: skip
            row += num_rows
        while row < rows:
            one(
                numbers, at + row * width, i64(1), scales, scales_at + row * groups,
                x.numbers, x_at, width, out, to + row, out_width, later, later_at + row * width,
            )  # fmt: skip
            row += 1

    return rows_of


rows_by_eight = _rows_of(three_by_eight, 3, one_by_eight)
integer_rows_by_eight = _rows_of(two_by_eight, 2, one_by_eight)
more_integer_rows_by_eight = _rows_of(more_two_by_eight, 2, more_one_by_eight)
more_rows_by_eight = _rows_of(more_three_by_eight, 3, more_one_by_eight)  # which others have prefetched
rows_by_four = _rows_of(three_by_four, 3, one_by_four)
integer_rows_by_four = _rows_of(two_by_four, 2, one_by_four)
rows_by_two = _rows_of(four_by_two, 4, one_by_two)
# Of four rows the sums do not wait for each other.
rows_by_one = _rows_of(four_by_one, 4, one_by_one)


@compiled
def project_block(
    numbers, at, scales, scales_at, rows, x, x_at, tokens, width, out, out_at, out_width, later, later_at
):  # fmt: skip
    """out[token, row] = row . x[token], without the remainder of the width, for rows from number `at` on.

    As many rows of the matrix `later`, from number `later_at` on, are prefetched.
    """
    token = i64(0)
    while token < tokens:
        source, to, left = x_at + token * width, out_at + token * out_width, tokens - token
        if HAS_LARGE_REGISTERS and left >= 8 and has_scales(numbers) and token > 0:
            more_integer_rows_by_eight(
                numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width, later, later_at
            )  # fmt: skip
            token += 8
        elif HAS_LARGE_REGISTERS and left >= 8 and has_scales(numbers):
            integer_rows_by_eight(
                numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width, later, later_at
            )  # fmt: skip
            token += 8
        elif HAS_LARGE_REGISTERS and left >= 8 and token > 0 and is_prefetched_once(numbers):
            more_rows_by_eight(
                numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width, later, later_at
            )  # fmt: skip
            token += 8
        elif HAS_LARGE_REGISTERS and left >= 8:
            rows_by_eight(
                numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width, later, later_at
            )  # fmt: skip
            token += 8
        elif left >= 4 and has_scales(numbers) and not HAS_LARGE_REGISTERS:
            integer_rows_by_four(
                numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width, later, later_at
            )  # fmt: skip
            token += 4
        elif left >= 4:
            rows_by_four(
                numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width, later, later_at
            )  # fmt: skip
            token += 4
        elif left >= 2:
            rows_by_two(
                numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width, later, later_at
            )  # fmt: skip
            token += 2
        else:
            rows_by_one(
                numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width, later, later_at
            )  # fmt: skip
            token += 1


@compiled
def project_few(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at):
    """`project` with one or two tokens, without the remainder of the width and of the rows; returns the first
    row that is left.

    The rows of a tile are a quarter of all apart: memory is then read as four sequences, each in pages of its
    own, which processors prefetch better than neighbouring rows (docs/performance.md).
    """
    apart, groups, at_a_time = (last - first) // 4, width // GROUP, TILE_ROWS // 4
    ahead = numbers_ahead(matrix.numbers)
    for block in range(first, first + apart, at_a_time):
        rows = min(first + apart - block, at_a_time)
        if has_scales(matrix.numbers):
            for place in range(4 * rows):
                row = block + place // 4 + place % 4 * apart
                widen_scales(matrix, row, 1, width, tile, tile_at + place * groups)
        for place in range(rows):
            row, scales_at = block + place, tile_at + 4 * place * groups
            if tokens == 2:
                four_by_two(
                    matrix.numbers, row * width, apart, tile, scales_at,
                    x.numbers, x_at, width, out, out_at + row, out_width, matrix.numbers, row * width + ahead,
                )  # fmt: skip
            else:
                four_by_one(
                    matrix.numbers, row * width, apart, tile, scales_at,
                    x.numbers, x_at, width, out, out_at + row, out_width, matrix.numbers, row * width + ahead,
                )  # fmt: skip
    return first + 4 * apart


@compiled
def project(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at):
    """out[token, row] = matrix[row] . x[token] for rows from first to before last; `out` has rows of
    out_width.

    x: Inputs, of which number `x_at` is the first token's first.
    tile: memory of this thread for TILE_ROWS rows in float32, from `tile_at` on.
    """
    numbers, start = matrix.numbers, first
    if tokens <= FEW_TOKENS:
        start = project_few(
            matrix, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at
        )
    for block in range(start, last, TILE_ROWS):
        rows, at, groups = min(last - block, TILE_ROWS), block * width, width // GROUP
        later_at = at + TILE_ROWS * width
        if has_scales(numbers):
            widen_scales(matrix, block, rows, width, tile, tile_at)
        if may_be_widened(numbers, x.numbers) and tokens >= MIN_WIDENED_TOKENS:
            copy = widened_view(numbers, tile, tile_at + TILE_ROWS * groups)
            for row in range(rows):  # each for itself: the steps of a tile begin at a row
                widen(numbers, at + row * width, width, copy, row * width)
            project_block(
                copy, i64(0), tile, tile_at, rows, x, x_at, tokens, width, out, out_at + block, out_width,
                numbers, later_at,
            )  # fmt: skip
        else:
            project_block(
                numbers, at, tile, tile_at, rows, x, x_at, tokens, width, out, out_at + block, out_width,
                numbers, later_at,
            )  # fmt: skip
    finish(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width)


def finish(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width):
    """Of floats, add the products of the numbers that do not fill a step; of integers, multiply the results
    with the scales of the tokens."""


@overload(finish)
def _finish(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width):
    if are_integers(matrix[0]):

        def scale(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width):
            for token in range(tokens):
                for row in range(first, last):
                    out[out_at + token * out_width + row] *= x.scales[token]

        return scale

    def add(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width):
        whole = width // step_size(matrix.numbers, x.numbers) * step_size(matrix.numbers, x.numbers)
        if whole < width:
            for token in range(tokens):
                for row in range(first, last):
                    total = ZERO
                    for i in range(whole, width):
                        total += number_at(matrix, row, i, width) * wide(x.numbers[x_at + token * width + i])
                    out[out_at + token * out_width + row] += total

    return add
