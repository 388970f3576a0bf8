"""Products of matrices with the inputs of one or several tokens, for generation.

A matrix is stored in float32, bfloat16, or in eight or four bits (generation_integers.py). A product of a row
and a token is one sum in one order, for any number of tokens.

Products are of float32 numbers; where the processor multiplies pairs of bfloat16 numbers, the inputs of a
bfloat16 matrix are bfloat16 too. Few tokens are multiplied with bfloat16 numbers that are widened in
registers, so that only stored bytes are read from memory; for many, some rows are widened once, and
multiplied from a cache. The bits are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types
from numba.extending import intrinsic, overload

from transformerlm.kernels.generation_integers import byte_at, nibble_at, project_integers
from transformerlm.kernels.generation_layout import BLOCK_ROWS, TILE_ROWS
from transformerlm.kernels.generation_tiles import make_tile, make_weighted_sum, widen
from transformerlm.kernels.primitives import MEMORY, ZERO, compiled, i64, wide
from transformerlm.kernels.vectors import (
    BYTES_AHEAD,
    HAS_LARGE_REGISTERS,
    HAS_PAIR_PRODUCTS,
    LANES,
    are_integers,
    are_pairs,
    bits_of_number,
    step_of,
)

WEIGHTS = MEMORY | {"int8": "i8*", "int4": "u8*"}
"""Storage of the matrices -> memory type; four bits are stored in pairs."""
INPUTS = dict.fromkeys(WEIGHTS, MEMORY["float32"]) | (
    {"bfloat16": MEMORY["bfloat16"]} if HAS_PAIR_PRODUCTS else {}
)
"""Storage of a matrix -> memory type of its inputs, before they are rounded for integers."""
MIN_WIDENED_TOKENS = 32
"""Number of tokens from which it saves time to widen some rows first."""
FEW_TOKENS = 2
"""Number of tokens up to which rows far apart are multiplied: such products wait for memory."""


class Matrix(NamedTuple):
    """A matrix [rows, width] in memory."""

    numbers: Any
    """Float32 or bfloat16 numbers, or eight or four bits each."""
    scales: Any
    """Of eight and four bits: float16 scales of groups. Otherwise not read.

    Both as nn.quantization.QuantizedMatrix has them.
    """


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


def number_at(matrix, row, i, width):
    """Number `i` of a row, in float32."""


@overload(number_at, inline="always")
def _number_at(matrix, row, i, width):
    numbers = matrix[0]
    if not are_integers(numbers):
        return lambda matrix, row, i, width: wide(matrix.numbers[row * width + i])
    if bits_of_number(numbers) == 8:
        return lambda matrix, row, i, width: byte_at(matrix, row, i, width)
    return lambda matrix, row, i, width: nibble_at(matrix, row, i, width)


# ---- products ---------------------------------------------------------------------------------------

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


three_by_eight, one_by_eight = make_tile(3, 8), make_tile(1, 8)
more_three_by_eight, more_one_by_eight = make_tile(3, 8, False), make_tile(1, 8, False)
three_by_four, one_by_four = make_tile(3, 4), make_tile(1, 4)
four_by_two, one_by_two = make_tile(4, 2), make_tile(1, 2)
four_by_one, one_by_one = make_tile(4, 1), make_tile(1, 1)


def _rows_of(many: Any, num_rows: int, one: Any) -> Any:
    """Return a kernel that multiplies rows with some tokens, `num_rows` at a time, then one by one."""

    @compiled
    def rows_of(numbers, at, rows, x, x_at, width, out, to, out_width, later, later_at):
        row = i64(0)
        while row + num_rows - 1 < rows:
            many(
                numbers, at + row * width, i64(1), x.numbers, x_at, width, out, to + row, out_width,
                later, later_at + row * width,
            )  # fmt: skip
            row += num_rows
        while row < rows:
            one(
                numbers, at + row * width, i64(1), x.numbers, x_at, width, out, to + row, out_width,
                later, later_at + row * width,
            )  # fmt: skip
            row += 1

    return rows_of


rows_by_eight = _rows_of(three_by_eight, 3, one_by_eight)
more_rows_by_eight = _rows_of(more_three_by_eight, 3, more_one_by_eight)  # which others have prefetched
rows_by_four = _rows_of(three_by_four, 3, one_by_four)
rows_by_two = _rows_of(four_by_two, 4, one_by_two)
# Of four rows the sums do not wait for each other.
rows_by_one = _rows_of(four_by_one, 4, one_by_one)


@compiled
def project_block(numbers, at, rows, x, x_at, tokens, width, out, out_at, out_width, later, later_at):
    """out[token, row] = row . x[token], without the remainder of the width, for rows from number `at` on.

    As many rows of the matrix `later`, from number `later_at` on, are prefetched.
    """
    token = i64(0)
    while token < tokens:
        source, to, left = x_at + token * width, out_at + token * out_width, tokens - token
        if HAS_LARGE_REGISTERS and left >= 8:
            if token > 0 and is_prefetched_once(numbers):
                more_rows_by_eight(
                    numbers, at, rows, x, source, width, out, to, out_width, later, later_at
                )  # fmt: skip
            else:
                rows_by_eight(numbers, at, rows, x, source, width, out, to, out_width, later, later_at)
            token += 8
        elif left >= 4:
            rows_by_four(numbers, at, rows, x, source, width, out, to, out_width, later, later_at)
            token += 4
        elif left >= 2:
            rows_by_two(numbers, at, rows, x, source, width, out, to, out_width, later, later_at)
            token += 2
        else:
            rows_by_one(numbers, at, rows, x, source, width, out, to, out_width, later, later_at)
            token += 1


@compiled
def project_few(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width):
    """`project_floats` with one or two tokens, without the remainder of the width and of the rows; returns
    the first row that is left.

    The rows of a tile are a quarter of all apart: memory is then read as four sequences, each in pages of its
    own, which processors prefetch better than neighbouring rows (docs/performance.md).
    """
    apart, ahead = (last - first) // 4, numbers_ahead(matrix.numbers)
    for row in range(first, first + apart):
        at, to = row * width, out_at + row
        numbers = matrix.numbers
        if tokens == 2:
            four_by_two(numbers, at, apart, x.numbers, x_at, width, out, to, out_width, numbers, at + ahead)
        else:
            four_by_one(numbers, at, apart, x.numbers, x_at, width, out, to, out_width, numbers, at + ahead)
    return first + 4 * apart


@compiled
def project_floats(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at):
    """`project` with a matrix of floats."""
    numbers, start = matrix.numbers, first
    if tokens <= FEW_TOKENS:
        start = project_few(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width)
    for block in range(start, last, TILE_ROWS):
        rows, at, to = min(last - block, TILE_ROWS), block * width, out_at + block
        later_at = at + TILE_ROWS * width
        if may_be_widened(numbers, x.numbers) and tokens >= MIN_WIDENED_TOKENS:
            copy = floats_of(tile, tile_at)
            for row in range(rows):  # each for itself: the steps of a tile begin at a row
                widen(numbers, at + row * width, width, copy, row * width)
            project_block(
                copy, i64(0), rows, x, x_at, tokens, width, out, to, out_width, numbers, later_at
            )  # fmt: skip
        else:
            project_block(numbers, at, rows, x, x_at, tokens, width, out, to, out_width, numbers, later_at)
    add_remainder(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width)


@compiled
def add_remainder(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width):
    """Add the products of the numbers that do not fill a step."""
    whole = width // step_size(matrix.numbers, x.numbers) * step_size(matrix.numbers, x.numbers)
    if whole < width:
        for token in range(tokens):
            for row in range(first, last):
                total = ZERO
                for i in range(whole, width):
                    total += number_at(matrix, row, i, width) * wide(x.numbers[x_at + token * width + i])
                out[out_at + token * out_width + row] += total


def project(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at):
    """out[token, row] = matrix[row] . x[token] for rows from first to before last; `out` has rows of
    out_width.

    x: Inputs, of which number `x_at` is the first token's first.
    tile: memory of this thread for TILE_ROWS rows in float32, from `tile_at` on.
    """


@overload(project)
def _project(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at):
    if not are_integers(matrix[0]):
        return lambda matrix, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at: (
            project_floats(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at)
        )
    bits = i64(bits_of_number(matrix[0]))

    def project(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at):
        block_bytes = BLOCK_ROWS * width * bits // 8
        project_integers(
            matrix, block_bytes, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at
        )  # fmt: skip

    return project
