"""Products of matrices with the inputs of one or several tokens, for generation.

A matrix is stored in float32, bfloat16, or in eight or four bits (nn/quantization.py defines those). However
it is stored, a product of a row and a token is one sum in one order: that of the same matrix widened to
float32. Few tokens are multiplied with numbers that are widened in registers, so that only stored bytes are
read from memory; for many, a block of rows is widened once, and multiplied as float32. The bits are the same.

The exception are bfloat16 numbers where the processor multiplies pairs of them: the inputs are bfloat16 too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from transformerlm.kernels.generation_layout import GROUP, TILE_ROWS
from transformerlm.kernels.primitives import (
    MEMORY,
    ZERO,
    compiled,
    f32,
    float_of,
    i64,
    u32,
    wide,
)
from transformerlm.kernels.target import target

HAS_LARGE_REGISTERS = "avx512f" in target().instructions
"""True: 32 vector registers of 16 floats (AVX-512). Otherwise possibly 16 registers of 8 floats, or less."""
LANES = 16 if HAS_LARGE_REGISTERS else 8
"""Floats per vector."""
HAS_PAIR_PRODUCTS = HAS_LARGE_REGISTERS and "avx512bf16" in target().instructions
"""True: an instruction multiplies two bfloat16 vectors and adds pairs of products to a float32 vector."""
WEIGHTS = MEMORY | {"int8": "i8*", "int4": "u8*"}
"""Storage of the matrices -> memory type; four bits are stored in pairs."""
INPUTS = dict.fromkeys(WEIGHTS, MEMORY["float32"]) | (
    {"bfloat16": MEMORY["bfloat16"]} if HAS_PAIR_PRODUCTS else {}
)
"""Storage of a matrix -> memory type of the inputs that it is multiplied with."""
MIN_WIDENED_TOKENS = 8
"""Number of tokens from which it saves time to widen a block of rows first."""
MAX_PREFETCH_TOKENS = 2
"""Number of tokens up to which products wait for memory."""
BYTES_AHEAD = 8192
"""Prefetch distance, in bytes of a matrix."""
LINE_BYTES = 64
"""Size of a cache line."""
FUSED = ("contract",)
"""LLVM flag: a product and a sum may be fused into one instruction."""


class Bfloat16(ir.types.Type):  # type: ignore[misc]
    """LLVM's type bfloat, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"


BYTE, WORD, NUMBER = ir.IntType(8), ir.IntType(32), ir.IntType(64)
PAIRS = ir.VectorType(Bfloat16(), 2 * LANES)
FLOATS = ir.VectorType(ir.FloatType(), LANES)
WORDS = ir.VectorType(WORD, LANES)


class Matrix(NamedTuple):
    """A matrix [rows, width] in memory."""

    numbers: Any
    """Float32 or bfloat16 numbers, or eight or four bits each."""
    scales: Any
    """Of eight and four bits: float16 scales of groups, [rows, width / GROUP]. Otherwise not read."""


# ---- numbers as they are stored ------------------------------------------------------------------------


def bits_of_weight(kind: Any) -> int:
    """Return the bits per number of a memory type."""
    return 4 if kind.dtype == types.uint8 else int(kind.dtype.bitwidth)


def is_quantized(kind: Any) -> bool:
    """Return True for memory of eight or four bits per number, which have scales."""
    return bits_of_weight(kind) <= 8


def are_pairs(*memory: Any) -> bool:
    """Return True if numbers of these arrays are multiplied in pairs."""
    return HAS_PAIR_PRODUCTS and all(array.dtype == types.uint16 for array in memory)


def step_of(numbers: Any, x: Any) -> int:
    """Return how many numbers of a row a tile multiplies per step."""
    if is_quantized(numbers):
        return GROUP
    return 2 * LANES if are_pairs(numbers, x) else LANES


def step_size(numbers, x):
    """`step_of`, for kernels."""


@overload(step_size, inline="always")
def _step_size(numbers, x):
    number = i64(step_of(numbers, x))
    return lambda numbers, x: number


def has_scales(numbers):
    """`is_quantized`, for kernels."""


@overload(has_scales, inline="always")
def _has_scales(numbers):
    answer = is_quantized(numbers)
    return lambda numbers: answer


def may_be_widened(numbers, x):
    """Return True if many tokens are multiplied with float32 copies of these numbers."""


@overload(may_be_widened, inline="always")
def _may_be_widened(numbers, x):
    answer = numbers.dtype != types.float32 and not are_pairs(numbers, x)
    return lambda numbers, x: answer


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
    if not is_quantized(numbers):
        return lambda matrix, row, i, width: wide(matrix.numbers[row * width + i])
    if bits_of_weight(numbers) == 8:

        def number(matrix, row, i, width):
            scale = float_of_half(matrix.scales[row * (width // GROUP) + i // GROUP])
            return f32(matrix.numbers[row * width + i]) * scale
    else:

        def number(matrix, row, i, width):
            group, place = row * (width // GROUP) + i // GROUP, i % GROUP
            # Word `place % 4` of the group has it among its eight: see nn/quantization.py.
            byte = matrix.numbers[group * (GROUP // 2) + place % 4 * 4 + place // 8]
            bits = (i64(byte) >> (place // 4 % 2 * 4)) & 15
            return f32((bits ^ 8) - 8) * float_of_half(matrix.scales[group])

    return number


@compiled
def widen_scales(matrix, row, number, width, out, out_at):
    """Convert the scales of `number` rows to float32."""
    groups = width // GROUP
    for i in range(number * groups):
        out[out_at + i] = float_of_half(matrix.scales[row * groups + i])


# ---- LLVM: vectors of a row ----------------------------------------------------------------------------


def vectors_at(builder: Any, kind: Any, memory: Any, at: Any, scale: Any) -> list[Any]:
    """Load the numbers of one step from number `at` of a matrix on, as float32 vectors.

    Args:
        kind: numba's type of the memory.
        scale: address of the group's scale in float32, if the matrix has scales.
    """
    if not is_quantized(kind):
        return [vector_at(builder, memory, at)]
    if bits_of_weight(kind) == 8:
        vectors = [
            bytes_at(builder, memory, builder.add(at, NUMBER(first))) for first in range(0, GROUP, LANES)
        ]
    else:
        vectors = nibbles_at(builder, memory, builder.lshr(at, NUMBER(1)))
    factor = broadcast(builder, builder.load(scale))
    return [builder.fmul(builder.sitofp(vector, FLOATS), factor) for vector in vectors]


def bytes_at(builder: Any, memory: Any, at: Any) -> Any:
    """Load LANES signed bytes as words."""
    place = builder.bitcast(builder.gep(memory, [at]), ir.VectorType(BYTE, LANES).as_pointer())
    return builder.sext(builder.load(place, align=1), WORDS)


def nibbles_at(builder: Any, memory: Any, at: Any) -> list[Any]:
    """Load a group of four bits each as words.

    Word j of its four holds numbers j, j + 4, j + 8 ... from the lowest bits up, in two's complement. All
    four are loaded into each quarter of a vector, and each lane shifts its number to the top and back.
    """
    four = ir.VectorType(WORD, 4)
    place = builder.bitcast(builder.gep(memory, [at]), four.as_pointer())
    quarters = ir.Constant(WORDS, [lane % 4 for lane in range(LANES)])
    words = builder.shuffle_vector(builder.load(place, align=1), ir.Constant(four, ir.Undefined), quarters)
    vectors = []
    for first in range(0, GROUP, LANES):
        above = ir.Constant(WORDS, [28 - (first + lane) // 4 * 4 for lane in range(LANES)])
        vectors.append(builder.ashr(builder.shl(words, above), ir.Constant(WORDS, [28] * LANES)))
    return vectors


def vector_at(builder: Any, memory: Any, at: Any) -> Any:
    """Load LANES numbers of float32 or bfloat16 as float32."""
    kind = memory.type.pointee
    place = builder.bitcast(builder.gep(memory, [at]), ir.VectorType(kind, LANES).as_pointer())
    values = builder.load(place, align=4 if kind == ir.FloatType() else 2)
    if kind == ir.FloatType():
        return values
    bits = builder.shl(builder.zext(values, WORDS), WORDS([16] * LANES))
    return builder.bitcast(bits, FLOATS)


def pairs_at(builder: Any, memory: Any, at: Any) -> Any:
    """Load 2 * LANES bfloat16 numbers."""
    return builder.load(builder.bitcast(builder.gep(memory, [at]), PAIRS.as_pointer()), align=2)


def broadcast(builder: Any, value: Any) -> Any:
    """Return a vector of one value."""
    one = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), value, WORD(0))
    return builder.shuffle_vector(one, ir.Constant(FLOATS, ir.Undefined), ir.Constant(WORDS, [0] * LANES))


def prefetch(builder: Any, kind: Any, numbers: Any, at: Any, number: int) -> None:
    """Prefetch the cache lines of `number` numbers that are needed some time after number `at` of a matrix.

    Into the second-level cache: in the first level it would evict the inputs of the tokens.
    """
    bits = bits_of_weight(kind)
    place = builder.lshr(at, NUMBER(1)) if bits == 4 else at
    for line in range(0, number * bits // 8, LINE_BYTES):
        ahead = builder.add(place, NUMBER((BYTES_AHEAD + line) * 8 // max(8, bits)))
        prefetch_line(builder, builder.gep(numbers, [ahead]))


def prefetch_line(builder: Any, address: Any) -> None:
    """Prefetch a cache line into the second-level cache."""
    byte = BYTE.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, WORD, WORD, WORD])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(address, byte), WORD(0), WORD(2), WORD(1)])


def add_numbers(builder: Any, total: Any, row: Any, values: Any) -> Any:
    """total + row * values"""
    return builder.fadd(total, builder.fmul(row, values, flags=FUSED), flags=FUSED)


def add_pairs(builder: Any, total: Any, row: Any, values: Any) -> Any:
    """total[i] + row[2 i] * values[2 i] + row[2 i + 1] * values[2 i + 1]"""
    kind = ir.FunctionType(FLOATS, [FLOATS, PAIRS, PAIRS])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
    return builder.call(function, [total, row, values])


def sums_of(builder: Any, vectors: list[Any]) -> list[Any]:
    """Return the horizontal sum of each vector, formed in the same order for any number of them.

    Each step adds the halves of two vectors and joins them: [a b] [c d] -> [a+b c+d].
    """
    size = min(LANES, 1 << (len(vectors).bit_length() - 1))
    if size < len(vectors):
        return sums_of(builder, vectors[:size]) + sums_of(builder, vectors[size:])
    width = size = LANES
    while size > 1:
        size //= 2
        width = width // 2 if len(vectors) == 1 else width
        starts = range(0, 2 * width, 2 * size)
        masks = [
            ir.Constant(
                ir.VectorType(WORD, width), [start + half + i for start in starts for i in range(size)]
            )
            for half in (0, size)
        ]
        pairs = [(vectors[i], vectors[min(i + 1, len(vectors) - 1)]) for i in range(0, len(vectors), 2)]
        vectors = [builder.fadd(*(builder.shuffle_vector(*pair, mask) for mask in masks)) for pair in pairs]
    return [builder.extract_element(vectors[0], WORD(i)) for i in range(width)]


# ---- tiles -------------------------------------------------------------------------------------------


def build_tile(builder: Any, kind: Any, x_kind: Any, num_rows: int, num_tokens: int, arguments: Any) -> None:
    """Build the body of a tile, whose matrix and inputs are memory of types `kind` and `x_kind`."""
    numbers, at, scales, scales_at, x, x_at, width, out, out_at, out_width = arguments
    as_pairs, step = are_pairs(kind, x_kind), step_of(kind, x_kind)
    groups = builder.lshr(width, NUMBER(GROUP.bit_length() - 1))
    row_starts = [builder.add(at, builder.mul(NUMBER(row), width)) for row in range(num_rows)]
    scale_starts = [builder.add(scales_at, builder.mul(NUMBER(row), groups)) for row in range(num_rows)]
    token_starts = [builder.add(x_at, builder.mul(NUMBER(token), width)) for token in range(num_tokens)]
    places = [(token, row) for token in range(num_tokens) for row in range(num_rows)]
    totals = {place: cgutils.alloca_once_value(builder, FLOATS([0.0] * LANES)) for place in places}
    with cgutils.for_range(builder, builder.udiv(width, NUMBER(step))) as loop:
        i = builder.mul(loop.index, NUMBER(step))
        if num_tokens <= MAX_PREFETCH_TOKENS:
            prefetch(
                builder, kind, numbers, builder.add(at, builder.mul(i, NUMBER(num_rows))), num_rows * step
            )
        rows = []
        for start, scale_start in zip(row_starts, scale_starts, strict=True):
            place = builder.add(start, i)
            scale = builder.gep(scales, [builder.add(scale_start, loop.index)])
            if as_pairs:
                rows.append([pairs_at(builder, numbers, place)])
            else:
                rows.append(vectors_at(builder, kind, numbers, place, scale))
        for part in range(len(rows[0])):
            for token, start in enumerate(token_starts):
                here = builder.add(start, builder.add(i, NUMBER(part * LANES)))
                values = pairs_at(builder, x, here) if as_pairs else vector_at(builder, x, here)
                for row in range(num_rows):
                    total, add = totals[token, row], add_pairs if as_pairs else add_numbers
                    builder.store(add(builder, builder.load(total), rows[row][part], values), total)
    sums = sums_of(builder, [builder.load(total) for total in totals.values()])
    for (token, row), total in zip(totals, sums, strict=True):
        place = builder.add(builder.add(out_at, builder.mul(NUMBER(token), out_width)), NUMBER(row))
        builder.store(total, builder.gep(out, [place]))


def make_tile(num_rows: int, num_tokens: int) -> Any:
    """Return a function that multiplies `num_rows` rows of a matrix with the inputs of `num_tokens` tokens.

    Register tiling: each value that is loaded is used in several products while it is in a register, which a
    compiler does not find by itself. Each product of a row and a token is summed up in one vector register,
    from the first number of the row to the last, and the lanes of that register in `sums_of`: the order is
    the same in every tile. The remainder of a width that is no multiple of `step_size` is left to `project`.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # A function of its own, which is not inlined: the same tile is called from several places.
        number_kind, x_kind = signature.args[0], signature.args[4]
        name = f"tile_{num_rows}_{num_tokens}_{number_kind.dtype}_{x_kind.dtype}"
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        if function.is_declaration:
            function.linkage = "internal"
            function.attributes.add("noinline")
            inside = ir.IRBuilder(function.append_basic_block())
            build_tile(inside, number_kind, x_kind, num_rows, num_tokens, function.args)
            inside.ret_void()
        builder.call(function, arguments)
        return context.get_dummy_value()

    def tile(
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
        out_width: Any,
    ) -> Any:
        return types.void(numbers, at, scales, scales_at, x, x_at, width, out, out_at, out_width), build

    return intrinsic(tile)


@intrinsic  # type: ignore[untyped-decorator]
def widen(
    context: Any,
    numbers: Any,
    at: Any,
    scales: Any,
    scales_at: Any,
    number: Any,
    out: Any,
    out_at: Any,
) -> Any:
    """Convert `number` numbers of a matrix, a multiple of the step of a tile, to float32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, at, scales, scales_at, number, out, out_at = arguments
        step = step_of(signature.args[0], signature.args[5])
        with cgutils.for_range(builder, builder.udiv(number, NUMBER(step))) as loop:
            i = builder.mul(loop.index, NUMBER(step))
            scale = builder.gep(scales, [builder.add(scales_at, loop.index)])
            vectors = vectors_at(builder, signature.args[0], numbers, builder.add(at, i), scale)
            for part, vector in enumerate(vectors):
                place = builder.add(out_at, builder.add(i, NUMBER(part * LANES)))
                address = builder.bitcast(builder.gep(out, [place]), FLOATS.as_pointer())
                builder.store(vector, address, align=4)
        return context.get_dummy_value()

    return types.void(numbers, at, scales, scales_at, number, out, out_at), build


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


two_by_eight, one_by_eight = make_tile(2, 8), make_tile(1, 8)
three_by_four, one_by_four = make_tile(3, 4), make_tile(1, 4)
four_by_two, one_by_two = make_tile(4, 2), make_tile(1, 2)
four_by_one, one_by_one = make_tile(4, 1), make_tile(1, 1)


def _rows_of(many: Any, num_rows: int, one: Any) -> Any:
    """Return a kernel that multiplies rows with some tokens, `num_rows` at a time, then one by one."""

    @compiled
    def rows_of(numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width):
        groups, row = width // GROUP, i64(0)
        while row + num_rows - 1 < rows:
            many(
                numbers, at + row * width, scales, scales_at + row * groups,
                x, source, width, out, to + row, out_width,
            )  # fmt: skip
            row += num_rows
        while row < rows:
            one(
                numbers, at + row * width, scales, scales_at + row * groups,
                x, source, width, out, to + row, out_width,
            )  # fmt: skip
            row += 1

    return rows_of


rows_by_eight = _rows_of(two_by_eight, 2, one_by_eight)
rows_by_four = _rows_of(three_by_four, 3, one_by_four)
rows_by_two = _rows_of(four_by_two, 4, one_by_two)
# Of four rows the sums do not wait for each other.
rows_by_one = _rows_of(four_by_one, 4, one_by_one)


@compiled
def project_block(
    numbers, at, scales, scales_at, rows, x, x_at, tokens, width, out, out_at, out_width
):  # fmt: skip
    """out[token, row] = row . x[token], without the remainder of the width, for rows from number `at` on."""
    token = i64(0)
    while token < tokens:
        source, to, left = x_at + token * width, out_at + token * out_width, tokens - token
        if HAS_LARGE_REGISTERS and left >= 8:
            rows_by_eight(numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width)
            token += 8
        elif left >= 4:
            rows_by_four(numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width)
            token += 4
        elif left >= 2:
            rows_by_two(numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width)
            token += 2
        else:
            rows_by_one(numbers, at, scales, scales_at, rows, x, source, width, out, to, out_width)
            token += 1


@compiled
def project(matrix, first, last, x, x_at, tokens, width, out, out_at, out_width, tile, tile_at):
    """out[token, row] = matrix[row] . x[token] for rows from first to before last; `out` has rows of
    out_width.

    tile: memory of this thread for TILE_ROWS rows in float32, from `tile_at` on.
    """
    whole = width // step_size(matrix.numbers, x) * step_size(matrix.numbers, x)
    for block in range(first, last, TILE_ROWS):
        rows, at, groups = min(last - block, TILE_ROWS), block * width, width // GROUP
        if has_scales(matrix.numbers):
            widen_scales(matrix, block, rows, width, tile, tile_at)
        if may_be_widened(matrix.numbers, x) and tokens >= MIN_WIDENED_TOKENS:
            copy = tile_at + TILE_ROWS * groups
            for row in range(rows):
                widen(
                    matrix.numbers, at + row * width, tile, tile_at + row * groups, width,
                    tile, copy + row * width,
                )  # fmt: skip
            project_block(
                tile, copy, tile, tile_at, rows, x, x_at, tokens, width, out, out_at + block, out_width
            )
        else:
            project_block(
                matrix.numbers,
                at,
                tile,
                tile_at,
                rows,
                x,
                x_at,
                tokens,
                width,
                out,
                out_at + block,
                out_width,
            )
    if whole < width:
        for token in range(tokens):
            for row in range(first, last):
                total = ZERO
                for i in range(whole, width):
                    total += number_at(matrix, row, i, width) * wide(x[x_at + token * width + i])
                out[out_at + token * out_width + row] += total
