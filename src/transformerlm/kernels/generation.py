"""Tokens of several texts through the whole model on a CPU, in one call.

A pass takes any tokens: the newest of every text, which is a decoding step, or several of one text, which is
a part of its prompt. Each attends to the tokens of its own text up to itself.

Generation is bound by memory: every weight is read once per token, and a processor computes faster than its
memory delivers weights. A weight that has been read is therefore used for all texts of the batch at once, and
overhead is avoided: one call per token, and threads that synchronise only at `barrier`.

A token's results do not depend, to the last bit, on the other tokens of the pass: each sum is formed in the
same order for any number of tokens (see `make_tile`). What is multiplied with one token is multiplied with
eight by other instructions, but not in another order.

Sums and intermediate values are float32 for any dtype of the weights. Only the inputs of matrix products,
`inputs`, are rounded to bfloat16, if the weights are bfloat16 and the processor multiplies pairs of such
numbers (twice as many per instruction); PyTorch rounds there too.

nn and infer/sampling.py define the results; tests compare the two. Importing this file imports numba, which
is needed only to compile: see library.py.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from transformerlm.kernels.generation_layout import (
    BIN_BITS,
    HAS_ROPE,
    K_BIAS,
    K_NORM,
    NORM,
    NUM_BINS,
    NUM_MATRICES,
    OUTPUT,
    Q_BIAS,
    Q_NORM,
    SECOND_NORM,
    V_BIAS,
    W1,
    W2,
    W3,
    WINDOW,
    K,
    Q,
    V,
)
from transformerlm.kernels.primitives import (
    MEMORY,
    ONE,
    OPTIONS,
    SMALLEST,
    ZERO,
    bits_of,
    compiled,
    exp,
    f32,
    float_of,
    i64,
    put,
    share_of,
    u32,
    wide,
)
from transformerlm.kernels.target import target
from transformerlm.kernels.waiting import barrier

__all__ = ["ENTRIES", "OPTIONS", "parameters"]

f64 = np.float64
SMALLEST_DIVISOR = 2.0**-126

HAS_LARGE_REGISTERS = "avx512f" in target().instructions
"""True: 32 vector registers of 16 floats (AVX-512). Otherwise possibly 16 registers of 8 floats, or less."""
LANES = 16 if HAS_LARGE_REGISTERS else 8
"""Floats per vector."""
HAS_PAIR_PRODUCTS = HAS_LARGE_REGISTERS and "avx512bf16" in target().instructions
"""True: an instruction multiplies two bfloat16 vectors and adds pairs of products to a float32 vector."""
INPUTS = MEMORY | ({} if HAS_PAIR_PRODUCTS else {"bfloat16": MEMORY["float32"]})
"""Dtype of a matrix -> memory type of the inputs that it is multiplied with."""
ROWS_AHEAD = 8
"""Prefetch distance in rows."""
FUSED = ("contract",)
"""LLVM flag: a product and a sum may be fused into one instruction."""
ROWS_AT_A_TIME = 16
"""Block of matrix rows that stays in a cache while it is multiplied with all texts."""

# ---- memory --------------------------------------------------------------------------------------------


@intrinsic  # type: ignore[untyped-decorator]
def at_address(context: Any, like: Any, address: Any) -> Any:
    """Return an address as an array of the type of `like`."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[1], context.get_value_type(signature.return_type))

    return like(like, types.int64), build


# ---- matrix products ---------------------------------------------------------------------------------


class Bfloat16(ir.types.Type):  # type: ignore[misc]
    """LLVM's type bfloat, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"


PAIRS = ir.VectorType(Bfloat16(), 2 * LANES)
SUMS = ir.VectorType(ir.FloatType(), LANES)


def are_pairs(*memory: Any) -> bool:
    """Return True if numbers of these arrays are multiplied in pairs."""
    return HAS_PAIR_PRODUCTS and all(array.dtype == types.uint16 for array in memory)


def step_size(weight, x):
    """Return how many numbers of a row a tile multiplies per step."""


@overload(step_size, inline="always")
def _step_size(weight, x):
    number = i64(2 * LANES if are_pairs(weight, x) else LANES)
    return lambda weight, x: number


def make_tile(num_rows: int, num_tokens: int) -> Any:
    """Return a function that multiplies `num_rows` rows of a matrix with the inputs of `num_tokens` tokens.

    Register tiling: each value that is loaded is used in several products while it is in a register, which a
    compiler does not find by itself. Each product of a row and a token is summed up in one vector register,
    from the first number of the row to the last, and the lanes of that register in `sums_of`: the order is
    the same in every tile. The remainder of a width that is no multiple of `step_size` is left to `project`.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weight, at, x, x_at, width, out, out_at, out_width = arguments
        as_pairs = are_pairs(signature.args[0], signature.args[2])
        number, step = ir.IntType(64), 2 * LANES if as_pairs else LANES
        load, add_products = (pairs_at, add_pairs) if as_pairs else (vector_at, add_numbers)
        row_starts = [builder.add(at, builder.mul(number(row), width)) for row in range(num_rows)]
        token_starts = [builder.add(x_at, builder.mul(number(token), width)) for token in range(num_tokens)]
        places = [(token, row) for token in range(num_tokens) for row in range(num_rows)]
        totals = {place: cgutils.alloca_once_value(builder, SUMS([0.0] * LANES)) for place in places}
        with cgutils.for_range(builder, builder.udiv(width, number(step))) as loop:
            i = builder.mul(loop.index, number(step))
            rows = [load(builder, weight, builder.add(start, i)) for start in row_starts]
            for start in row_starts:
                ahead = builder.add(builder.add(start, builder.mul(number(ROWS_AHEAD), width)), i)
                prefetch(builder, builder.gep(weight, [ahead]))
            for token, start in enumerate(token_starts):
                values = load(builder, x, builder.add(start, i))
                for row in range(num_rows):
                    total = totals[token, row]
                    builder.store(add_products(builder, builder.load(total), rows[row], values), total)
        sums = sums_of(builder, [builder.load(total) for total in totals.values()])
        for (token, row), total in zip(totals, sums, strict=True):
            place = builder.add(builder.add(out_at, builder.mul(number(token), out_width)), number(row))
            builder.store(total, builder.gep(out, [place]))
        return context.get_dummy_value()

    def tile(
        context: Any,
        weight: Any,
        at: Any,
        x: Any,
        x_at: Any,
        width: Any,
        out: Any,
        out_at: Any,
        out_width: Any,
    ) -> Any:
        return types.void(weight, at, x, x_at, width, out, out_at, out_width), build

    return intrinsic(tile)


def add_numbers(builder: Any, total: Any, row: Any, values: Any) -> Any:
    """total + row * values"""
    return builder.fadd(total, builder.fmul(row, values, flags=FUSED), flags=FUSED)


def add_pairs(builder: Any, total: Any, row: Any, values: Any) -> Any:
    """total[i] + row[2 i] * values[2 i] + row[2 i + 1] * values[2 i + 1]"""
    kind = ir.FunctionType(SUMS, [SUMS, PAIRS, PAIRS])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
    return builder.call(function, [total, row, values])


def prefetch(builder: Any, address: Any) -> Any:
    """Prefetch a cache line that is needed soon.

    Into the second-level cache: in the first level it would evict the inputs of the tokens.
    """
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(address, byte), word(0), word(2), word(1)])


def pairs_at(builder: Any, memory: Any, at: Any) -> Any:
    """Load 2 * LANES bfloat16 numbers."""
    return builder.load(builder.bitcast(builder.gep(memory, [at]), PAIRS.as_pointer()), align=2)


def vector_at(builder: Any, memory: Any, at: Any) -> Any:
    """Load LANES numbers as float32."""
    kind = memory.type.pointee
    vector = ir.VectorType(kind, LANES)
    place = builder.bitcast(builder.gep(memory, [at]), vector.as_pointer())
    values = builder.load(place, align=4 if kind == ir.FloatType() else 2)
    if kind == ir.FloatType():
        return values
    wide = ir.VectorType(ir.IntType(32), LANES)
    bits = builder.shl(builder.zext(values, wide), wide([16] * LANES))
    return builder.bitcast(bits, ir.VectorType(ir.FloatType(), LANES))


def sums_of(builder: Any, vectors: list[Any]) -> list[Any]:
    """Return the horizontal sum of each of 1, 2, 4 ... vectors, at most LANES.

    Each step adds the halves of two vectors and joins them: [a b] [c d] -> [a+b c+d].
    """
    width = size = LANES
    while size > 1:
        size //= 2
        width = width // 2 if len(vectors) == 1 else width
        starts = range(0, 2 * width, 2 * size)
        masks = [
            ir.Constant(
                ir.VectorType(ir.IntType(32), width),
                [start + half + i for start in starts for i in range(size)],
            )
            for half in (0, size)
        ]
        pairs = [(vectors[i], vectors[min(i + 1, len(vectors) - 1)]) for i in range(0, len(vectors), 2)]
        vectors = [builder.fadd(*(builder.shuffle_vector(*pair, mask) for mask in masks)) for pair in pairs]
    return [builder.extract_element(vectors[0], ir.IntType(32)(i)) for i in range(width)]


pair_by_eight, by_eight, by_four, by_two = make_tile(2, 8), make_tile(1, 8), make_tile(1, 4), make_tile(1, 2)
four_by_one, by_one = make_tile(4, 1), make_tile(1, 1)


@compiled
def dot(weight, at, x, x_at, first, last):
    """Product of a part of a matrix row and one token's inputs."""
    total = ZERO
    for i in range(first, last):
        total += wide(weight[at + i]) * wide(x[x_at + i])
    return total


@compiled
def project(weight, first, last, x, x_at, tokens, width, out, out_at, out_width):
    """out[token, row] = weight[row] . x[token] for rows from first to before last; `out` has rows of
    out_width."""
    whole = width // step_size(weight, x) * step_size(weight, x)
    for block in range(first, last, ROWS_AT_A_TIME):
        end = min(block + ROWS_AT_A_TIME, last)
        token = 0
        while token < tokens:
            source, target, left = x_at + token * width, out_at + token * out_width, tokens - token
            row = block
            if left >= 8:
                while HAS_LARGE_REGISTERS and row + 1 < end:
                    pair_by_eight(weight, row * width, x, source, width, out, target + row, out_width)
                    row += 2
                while row < end:
                    by_eight(weight, row * width, x, source, width, out, target + row, out_width)
                    row += 1
                token += 8
            elif left >= 4:
                for row in range(block, end):
                    by_four(weight, row * width, x, source, width, out, target + row, out_width)
                token += 4
            elif left >= 2:
                for row in range(block, end):
                    by_two(weight, row * width, x, source, width, out, target + row, out_width)
                token += 2
            else:
                while row + 3 < end:  # sums of four rows that do not wait for each other
                    four_by_one(weight, row * width, x, source, width, out, target + row, out_width)
                    row += 4
                while row < end:
                    by_one(weight, row * width, x, source, width, out, target + row, out_width)
                    row += 1
                token += 1
    if whole < width:
        for token in range(tokens):
            for row in range(first, last):
                out[out_at + token * out_width + row] += dot(
                    weight, row * width, x, x_at + token * width, whole, width
                )


# ---- the parts of a block ----------------------------------------------------------------------------


@compiled
def normalise(x, x_at, gain, out, out_at, rows, width, eps):
    """nn.RMSNorm of rows [rows, width]."""
    for row in range(rows):
        source, target = x_at + row * width, out_at + row * width
        total = ZERO
        for i in range(width):
            total += x[source + i] * x[source + i]
        inverse = ONE / np.sqrt(total / f32(width) + eps)
        for i in range(width):
            put(out, target + i, x[source + i] * inverse * wide(gain[i]))


@compiled
def apply_rope(x, at, cos, sin, angles, pairs):
    """nn.RotaryPositionEmbedding of one head, in place; `angles` is the offset of its position in cos and
    sin."""
    for i in range(pairs):
        even, odd = x[at + 2 * i], x[at + 2 * i + 1]
        c, s = cos[angles + i], sin[angles + i]
        x[at + 2 * i] = even * c - odd * s
        x[at + 2 * i + 1] = even * s + odd * c


@compiled
def attend(x, q, keys, values, at, length, d_head, scale, powers):
    """softmax(q k^T scale) v of one head over `length` keys, contiguous from offset `at`.

    `q` and `powers` are offsets in `x`; the result overwrites q.
    """
    highest = -f32(np.inf)
    for key in range(length):
        score = ZERO
        for i in range(d_head):
            score += x[q + i] * wide(keys[at + key * d_head + i])
        x[powers + key] = score * scale
        highest = max(highest, score * scale)
    for key in range(length):
        x[powers + key] = exp(x[powers + key] - highest)
    total = ZERO
    for key in range(length):
        total += x[powers + key]
    for i in range(d_head):
        x[q + i] = ZERO
    for key in range(length):
        share = x[powers + key] / total
        for i in range(d_head):
            x[q + i] += share * wide(values[at + key * d_head + i])


@compiled
def store(memory, at, x, x_at, number):
    """Copy float32 numbers to another array, converted to its dtype."""
    for i in range(number):
        put(memory, at + i, x[x_at + i])


# ---- the model ---------------------------------------------------------------------------------------


class Model(NamedTuple):
    """Addresses of the weights, and sizes of the model."""

    embedding: Any
    weights: Any
    """Addresses and numbers [layers, NUM_MATRICES]."""
    final_norm: Any
    head: Any
    cos: Any
    sin: Any
    layers: Any
    d_model: Any
    heads: Any
    kv_heads: Any
    d_head: Any
    d_ff: Any
    eps: Any


class Cache(NamedTuple):
    """Key-value cache: keys and values [layers, rows, kv_heads, capacity, d_head]."""

    keys: Any
    values: Any
    row_of: Any
    """Each token's row in the cache, which is that of its text: [tokens]."""
    positions: Any
    """Each token's position in its text: [tokens]."""
    rows: Any
    capacity: Any


class Workspace(NamedTuple):
    """Memory for intermediate results: offsets in `scratch` and `inputs`, shared or one thread's own."""

    scratch: Any
    inputs: Any
    """Inputs of matrix products; for their dtype see INPUTS."""
    barrier_state: Any
    tokens: Any
    stream: Any
    """The residual stream [tokens, d_model]."""
    qkv: Any
    """[tokens, heads + 2 kv_heads, d_head]; the output of attention overwrites the queries."""
    gate: Any
    up: Any
    """Both [tokens, d_ff]."""
    branch: Any
    """A branch's output, to be added to the stream: [tokens, d_model]."""
    exponentials: Any
    """Exponentials of attention scores: [capacity], this thread's own."""
    attended: Any
    """Output of attention: [tokens, heads, d_head], in `inputs`."""
    activated: Any
    """silu(gate) * up: [tokens, d_ff], in `inputs`."""
    normed: Any
    """The normalised stream: [tokens, d_model], this thread's own copy, in `inputs`."""
    part: Any
    parts: Any


@compiled
def make_workspace(scratch, inputs, barrier_state, tokens, model, capacity, part, parts):
    """Return the workspace of a thread; its size is in generation_layout.py."""
    stream = i64(0)
    qkv = stream + tokens * model.d_model
    gate = qkv + tokens * (model.heads + 2 * model.kv_heads) * model.d_head
    up = gate + tokens * model.d_ff
    branch = up + tokens * model.d_ff
    exponentials = branch + tokens * model.d_model + part * capacity
    attended = i64(0)
    activated = attended + tokens * model.heads * model.d_head
    normed = activated + tokens * model.d_ff + part * tokens * model.d_model
    return Workspace(
        scratch, inputs, barrier_state, tokens,
        stream, qkv, gate, up, branch, exponentials, attended, activated, normed, part, parts,
    )  # fmt: skip


@compiled
def matrix(model, layer, which):
    """Return a matrix of a layer; `which` is its position in generation_layout.py."""
    return at_address(model.head, model.weights[layer * NUM_MATRICES + which])


@compiled
def add_bias(model, layer, which, first, memory, at, number):
    """Add numbers from `first` on of a layer's bias to those at offset `at`, if the layer has it."""
    address = model.weights[layer * NUM_MATRICES + which]
    if address != 0:
        bias = at_address(model.head, address)
        for i in range(number):
            memory[at + i] += wide(bias[first + i])


@compiled
def embed(ids, model, work):
    """Set the residual stream to the embeddings of the ids."""
    first, last = share_of(model.d_model, work.part, work.parts)
    for token in range(work.tokens):
        row = ids[token] * model.d_model
        for i in range(first, last):
            work.scratch[work.stream + token * model.d_model + i] = wide(model.embedding[row + i])


@compiled
def norm_input(gain, model, work):
    """Barrier, then RMSNorm of the residual stream.

    Each thread normalises its own copy: cheaper than a second barrier.
    """
    barrier(work.barrier_state, work.parts)
    normalise(
        work.scratch, work.stream, gain, work.inputs, work.normed, work.tokens, model.d_model, model.eps
    )


@compiled
def project_and_add(which, source, width, model, work, layer):
    """Barrier, then add the product of a matrix and the inputs at offset `source` to the residual stream."""
    barrier(work.barrier_state, work.parts)
    first, last = share_of(model.d_model, work.part, work.parts)
    memory, by = work.scratch, model.d_model
    weight = matrix(model, layer, which)
    project(weight, first, last, work.inputs, source, work.tokens, width, memory, work.branch, by)
    for token in range(work.tokens):
        for i in range(first, last):
            memory[work.stream + token * by + i] += memory[work.branch + token * by + i]


@compiled
def qkv_projection(model, cache, work, layer):
    """Project to queries, keys and values, rotate them, and store keys and values in the cache.

    Each thread computes whole heads.
    """
    memory, num_heads = work.scratch, model.heads + 2 * model.kv_heads
    first, last = share_of(num_heads, work.part, work.parts)
    for head in range(first, last):
        kind = Q if head < model.heads else K if head < model.heads + model.kv_heads else V
        bias = Q_BIAS if kind == Q else K_BIAS if kind == K else V_BIAS
        number = head - (i64(0) if kind == Q else model.heads if kind == K else model.heads + model.kv_heads)
        start, at = number * model.d_head, work.qkv + head * model.d_head
        end, by, width = start + model.d_head, num_heads * model.d_head, model.d_model
        weight = matrix(model, layer, kind)
        project(weight, start, end, work.inputs, work.normed, work.tokens, width, memory, at - start, by)
        for token in range(work.tokens):
            place, position = at + token * by, cache.positions[token]
            row = layer * cache.rows + cache.row_of[token]
            slot = (row * model.kv_heads + number) * cache.capacity + position
            add_bias(model, layer, bias, start, memory, place, model.d_head)
            if kind == V:
                store(cache.values, slot * model.d_head, memory, place, model.d_head)
                continue
            gain = model.weights[layer * NUM_MATRICES + (Q_NORM if kind == Q else K_NORM)]
            if gain != 0:
                weight = at_address(model.head, gain)
                normalise(memory, place, weight, memory, place, 1, model.d_head, model.eps)
            if model.weights[layer * NUM_MATRICES + HAS_ROPE] != 0:
                pairs = model.d_head // 2
                apply_rope(memory, place, model.cos, model.sin, position * pairs, pairs)
            if kind == K:
                store(cache.keys, slot * model.d_head, memory, place, model.d_head)


@compiled
def attention(model, cache, work, layer):
    """Barrier, then attention of every token to those of its text up to itself, in the layer's window."""
    barrier(work.barrier_state, work.parts)
    window = model.weights[layer * NUM_MATRICES + WINDOW]
    scale = ONE / np.sqrt(f32(model.d_head))
    first, last = share_of(work.tokens * model.heads, work.part, work.parts)
    for one in range(first, last):
        token, head = one // model.heads, one % model.heads
        query = work.qkv + (token * (model.heads + 2 * model.kv_heads) + head) * model.d_head
        row = layer * cache.rows + cache.row_of[token]
        row = row * model.kv_heads + head // (model.heads // model.kv_heads)
        length = cache.positions[token] + 1
        first_key = max(length - window, 0) if window != 0 else i64(0)
        attend(
            work.scratch, query, cache.keys, cache.values,
            (row * cache.capacity + first_key) * model.d_head,
            length - first_key, model.d_head, scale, work.exponentials,
        )  # fmt: skip
        store(work.inputs, work.attended + one * model.d_head, work.scratch, query, model.d_head)


@compiled
def swiglu(model, work, layer):
    """silu(W1 x) * W3 x"""
    memory, width, d_ff = work.scratch, model.d_model, model.d_ff
    first, last = share_of(d_ff, work.part, work.parts)
    for which, place in ((W1, work.gate), (W3, work.up)):
        weight = matrix(model, layer, which)
        project(weight, first, last, work.inputs, work.normed, work.tokens, width, memory, place, d_ff)
    for token in range(work.tokens):
        for i in range(token * d_ff + first, token * d_ff + last):
            gate = memory[work.gate + i]
            put(work.inputs, work.activated + i, gate / (ONE + exp(-gate)) * memory[work.up + i])


def decode(
    ids, row_of, positions, wanted,
    embedding, weights, final_norm, head, keys, values, cos, sin, logits, scratch, inputs, barrier_state,
    tokens, num_wanted,
    layers, d_model, heads, kv_heads, d_head, d_ff, vocabulary, rows, capacity, eps, part, parts,
):  # fmt: skip
    """Store the keys and values of `tokens` tokens in the cache, and compute logits of those at `wanted`.

    ids, row_of, positions: [tokens], each token's id, row of the cache and position in its text. The tokens
    before it are in the cache, or in this pass.
    wanted: [num_wanted], indices of tokens, ascending. logits: [num_wanted, vocabulary] of what follows them.
    scratch, inputs: generation_layout.scratch_size and inputs_size numbers. barrier_state: three zeros.
    """
    model = Model(
        embedding, weights, final_norm, head, cos, sin,
        layers, d_model, heads, kv_heads, d_head, d_ff, f32(eps),
    )  # fmt: skip
    cache = Cache(keys, values, row_of, positions, rows, capacity)
    work = make_workspace(scratch, inputs, barrier_state, tokens, model, capacity, part, parts)
    embed(ids, model, work)
    for layer in range(layers):
        norm_input(matrix(model, layer, NORM), model, work)
        qkv_projection(model, cache, work, layer)
        attention(model, cache, work, layer)
        project_and_add(OUTPUT, work.attended, heads * d_head, model, work, layer)
        norm_input(matrix(model, layer, SECOND_NORM), model, work)
        swiglu(model, work, layer)
        project_and_add(W2, work.activated, d_ff, model, work, layer)
    barrier(work.barrier_state, work.parts)
    for place in range(num_wanted):
        at, to = work.stream + wanted[place] * d_model, work.normed + place * d_model
        normalise(work.scratch, at, final_norm, work.inputs, to, 1, d_model, model.eps)
    first, last = share_of(vocabulary, part, parts)
    project(head, first, last, inputs, work.normed, num_wanted, d_model, logits, 0, vocabulary)
    return 0


# ---- sampling ----------------------------------------------------------------------------------------


@compiled
def smallest_of_largest(x, at, width, wanted, is_count, bins, bins_at):
    """Return the smallest of the `wanted` largest of `width` numbers from 0 to 1, and the total above it.

    The largest ones are the fewest whose total (with `is_count`: whose number) is at least `wanted`. Radix
    selection: the numbers are divided into bins by their upper bits, the bin at the edge by the next bits,
    and so on.
    """
    edge, above = u32(0), 0.0
    for shift in (u32(2 * BIN_BITS), u32(BIN_BITS), u32(0)):
        for place in range(NUM_BINS):
            bins[bins_at + place] = 0.0
        for i in range(width):
            bits = bits_of(x[at + i]) >> shift
            if bits >> u32(BIN_BITS) == edge:
                place = bins_at + i64(bits & u32(NUM_BINS - 1))
                bins[place] += 1.0 if is_count else f64(x[at + i])
        found = NUM_BINS - 1
        while found > 0 and above + bins[bins_at + found] < wanted:
            above += bins[bins_at + found]
            found -= 1
        edge = edge << u32(BIN_BITS) | u32(found)
    return float_of(edge), above


@compiled
def keep_largest(x, at, width, wanted, is_count, bins, bins_at):
    """Set all but the `wanted` largest numbers to 0; of equal ones at the edge the first are kept."""
    smallest, above = smallest_of_largest(x, at, width, wanted, is_count, bins, bins_at)
    each = 1.0 if is_count else f64(smallest)
    room = width if each == 0.0 else max(i64(np.ceil((wanted - above) / each)), 1)
    equals = 0  # counted first, without a branch: comparisons with the edge are unpredictable
    for i in range(width):
        equals += x[at + i] == smallest
        x[at + i] = x[at + i] if x[at + i] >= smallest else ZERO
    if equals > room:
        for i in range(width):
            if x[at + i] == smallest:
                room -= 1
                x[at + i] = smallest if room >= 0 else ZERO


@compiled
def argmax(logits, at, width):
    """Return the first id with the highest logit; -1 if a logit is NaN or the highest is infinite."""
    best, has_nan = i64(0), False
    for i in range(width):
        has_nan |= logits[at + i] != logits[at + i]
        best = i if logits[at + i] > logits[at + best] else best
    return -1 if has_nan or abs(logits[at + best]) == np.inf else best


@compiled
def sum_of(x, at, width):
    """Return the total of `width` numbers."""
    total = 0.0
    for i in range(width):
        total += f64(x[at + i])
    return total


@compiled
def draw(x, at, width, uniform):
    """Return the id at which the cumulative sum exceeds `uniform` times the total."""
    target, running, newest = f64(uniform) * sum_of(x, at, width), 0.0, i64(-1)
    for i in range(width):
        if x[at + i] > ZERO:
            running, newest = running + f64(x[at + i]), i
            if running > target:
                break
    return newest


ROUNDING = 8 * 2.0**-23
"""Tolerance of a nucleus' total, as in sampling.top_p_filter."""
MIN_TOTAL = 2.0**-60
"""Smallest total of a nucleus: more than 0, so that every nucleus has at least one token."""


def sample(
    logits, uniforms, ids, scratch, bins,
    rows, stride, width, temperature, top_k, top_p, min_p, part, parts,
):  # fmt: skip
    """Sample an id for each row of `width` logits, rows `stride` apart: sampling.sample_rows in one call.

    scratch: [parts, width]; bins: [parts, NUM_BINS]. top_k: 0 for all.
    """
    first, last = share_of(rows, part, parts)
    at, bins_at = part * width, part * NUM_BINS
    for row in range(first, last):
        source = row * stride
        best = argmax(logits, source, width)
        ids[row] = best
        if best < 0 or temperature == 0:
            continue
        highest, divisor = logits[source + best], f32(max(temperature, SMALLEST_DIVISOR))
        for i in range(width):
            power = (logits[source + i] - highest) / divisor
            scratch[at + i] = exp(power) if power > SMALLEST else ZERO
        if 0 < top_k < width:
            keep_largest(scratch, at, width, f64(top_k), True, bins, bins_at)
        if top_p < 1:
            wanted = max(top_p - ROUNDING, MIN_TOTAL) * sum_of(scratch, at, width)
            keep_largest(scratch, at, width, wanted, False, bins, bins_at)
        for i in range(width):
            scratch[at + i] = scratch[at + i] if scratch[at + i] >= f32(min_p) else ZERO
        ids[row] = draw(scratch, at, width, uniforms[row])
    return 0


# ---- the table ---------------------------------------------------------------------------------------

_KINDS = {
    **dict.fromkeys(("ids", "row_of", "positions", "wanted", "weights", "barrier_state"), "i64*"),
    **dict.fromkeys(("cos", "sin", "logits", "scratch", "uniforms"), "f32*"),
    **dict.fromkeys(("eps", "temperature", "top_p", "min_p"), "f64"),
    "bins": "f64*",
}
_IN_MODEL = {"embedding", "final_norm", "head", "keys", "values"}

ENTRIES: dict[str, Callable[..., int]] = {
    **{f"decode_{dtype}": decode for dtype in MEMORY},
    "sample_float32": sample,
}
"""Kernels by name. Each returns 0."""


def parameters(name: str) -> dict[str, str]:
    """Return the parameters of a kernel in order with their types: "f32*" is an array, "f64" a number."""
    dtype = name.rpartition("_")[-1]
    kinds = _KINDS | dict.fromkeys(_IN_MODEL, MEMORY[dtype]) | {"inputs": INPUTS[dtype]}
    return {parameter: kinds.get(parameter, "i64") for parameter in signature(ENTRIES[name]).parameters}
