"""Tiles of matrix products, written with LLVM's builder: some rows of floats times the inputs of some tokens.

generation_products.py puts products of whole matrices together from them. Importing this file imports numba,
which is needed only to compile: see library.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from transformerlm.kernels.vectors import (
    FLOATS,
    LANES,
    LINE_BYTES,
    NUMBER,
    add_numbers,
    add_pairs,
    are_pairs,
    bits_of_number,
    broadcast,
    load_step,
    prefetch,
    step_of,
    sums_of,
    vector_at,
)


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
