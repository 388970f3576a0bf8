"""Products of matrices with the inputs of one or several tokens, for generation.

A matrix is stored in float32, bfloat16, or in eight or four bits (generation_integers.py). A product of a row
and a token is one sum in one order, for any number of tokens.

Products are of float32 numbers; where the processor multiplies pairs of bfloat16 numbers, the inputs of a
bfloat16 matrix are bfloat16 too. Few tokens are multiplied with bfloat16 numbers that are widened in
registers, so that only stored bytes are read from memory; for many, some rows are widened once, and
multiplied from a cache. The bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from transformerlm.kernels.generation_integers import byte_at, nibble_at, project_integers
from transformerlm.kernels.generation_layout import BLOCK_ROWS, TILE_ROWS
from transformerlm.kernels.primitives import MEMORY, ZERO, compiled, i64, wide
from transformerlm.kernels.vectors import (
    BYTES_AHEAD,
    FLOATS,
    HAS_LARGE_REGISTERS,
    HAS_PAIR_PRODUCTS,
    LANES,
    LINE_BYTES,
    NUMBER,
    add_numbers,
    add_pairs,
    are_integers,
    are_pairs,
    bits_of_number,
    broadcast,
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


# ---- tiles -------------------------------------------------------------------------------------------


def build_tile(
    builder: Any, kinds: Any, num_rows: int, num_tokens: int, prefetches: bool, arguments: Any
) -> None:
    """Build the body of a tile; `kinds` are the types of the matrix, the inputs, and what is prefetched."""
    numbers, at, apart, x, x_at, width, out, out_at, out_width, later, later_at = arguments
    kind, x_kind, later_kind = kinds
    as_pairs, size = are_pairs(kind, x_kind), step_of(kind, x_kind)
    add = add_pairs if as_pairs else add_numbers
    row_places = [builder.mul(NUMBER(row), apart) for row in range(num_rows)]
    row_starts = [builder.add(at, builder.mul(place, width)) for place in row_places]
    token_starts = [builder.add(x_at, builder.mul(NUMBER(token), width)) for token in range(num_tokens)]
    places = [(token, row) for token in range(num_tokens) for row in range(num_rows)]
    totals = {place: cgutils.alloca_once_value(builder, FLOATS([0.0] * LANES)) for place in places}

    def multiply_step(index: Any) -> None:
        i = builder.mul(index, NUMBER(size))
        rows = [load_step(builder, numbers, builder.add(start, i), as_pairs) for start in row_starts]
        for token, start in enumerate(token_starts):
            values = load_step(builder, x, builder.add(start, i), as_pairs)
            for row, step in enumerate(rows):
                total = totals[token, row]
                builder.store(add(builder, builder.load(total), step, values), total)

    def prefetch_rows(index: Any) -> None:
        first = builder.add(later_at, builder.mul(index, NUMBER(size)))
        for place in row_places:
            prefetch(builder, later, builder.add(first, builder.mul(place, width)))

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

    The function takes a matrix, of which every `apart`-th row is multiplied, inputs, and memory for the
    results, each with the number at which it begins; results have rows of `out_width`. The last two arguments
    are a matrix, and the number from which on as many rows of it are prefetched, if the tile `prefetches`.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # A function of its own, which is not inlined: the same tile is called from several places.
        kinds = signature.args[0], signature.args[3], signature.args[9]
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
        x: Any,
        x_at: Any,
        width: Any,
        out: Any,
        out_at: Any,
        out_width: Any,
        later: Any,
        later_at: Any,
    ) -> Any:
        kinds = numbers, at, apart, x, x_at, width, out, out_at, out_width, later, later_at
        return types.void(*kinds), build

    return intrinsic(tile)


@intrinsic  # type: ignore[untyped-decorator]
def widen(context: Any, numbers: Any, at: Any, number: Any, out: Any, out_at: Any) -> Any:
    """Convert bfloat16 numbers, without a remainder of less than LANES, to float32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, at, number, out, out_at = arguments
        with cgutils.for_range(builder, builder.udiv(number, NUMBER(LANES))) as loop:
            first = builder.mul(loop.index, NUMBER(LANES))
            address = builder.gep(out, [builder.add(out_at, first)])
            vector = vector_at(builder, numbers, builder.add(at, first))
            builder.store(vector, builder.bitcast(address, vector.type.as_pointer()), align=4)
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
