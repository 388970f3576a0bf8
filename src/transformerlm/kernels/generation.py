"""Tokens of several texts through the whole model on a CPU, in one call.

A pass takes any tokens: the newest of every text, which is a decoding step, or several of one text, which is
a part of its prompt. Each attends to the tokens of its own text up to itself.

Generation is bound by memory: every weight is read once per token, and a processor computes faster than its
memory delivers weights. A weight that has been read is therefore used for all texts of the batch at once, and
overhead is avoided: one call per token, and threads that synchronise only at `barrier`.

A token's results do not depend, to the last bit, on the other tokens of the pass: each sum is formed in the
same order for any number of tokens (see generation_products.py). What is multiplied with one token is
multiplied with eight by other instructions, but not in another order.

Sums and intermediate values are float32 for any storage of the weights. Only the inputs of matrix products,
`inputs`, are rounded to bfloat16, if the weights are bfloat16 and the processor multiplies pairs of such
numbers (twice as many per instruction), PyTorch rounds there too; and to 16 bits for weights in eight or four
bits. The gains of norms and the cache are float32 then.

nn and infer/sampling.py define the results; tests compare the two. Importing this file imports numba, which
is needed only to compile: see library.py.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from transformerlm.kernels.generation_integers import round_inputs
from transformerlm.kernels.generation_layout import (
    ALIGNED,
    HAS_ROPE,
    K_BIAS,
    K_NORM,
    NORM,
    NUM_MATRICES,
    OUTPUT,
    Q_BIAS,
    Q_NORM,
    SECOND_NORM,
    TILE_ROWS,
    V_BIAS,
    W1,
    W2,
    W3,
    WINDOW,
    K,
    Q,
    V,
)
from transformerlm.kernels.generation_products import (
    INPUTS,
    WEIGHTS,
    Inputs,
    Matrix,
    add_rows,
    floats_of,
    has_scales,
    number_at,
    project,
    shorts_of,
)
from transformerlm.kernels.generation_sampling import sample
from transformerlm.kernels.primitives import (
    MEMORY,
    ONE,
    OPTIONS,
    ZERO,
    compiled,
    exp,
    f32,
    i64,
    put,
    share_of,
    wide,
)
from transformerlm.kernels.vectors import are_integers
from transformerlm.kernels.waiting import barrier

__all__ = ["ENTRIES", "OPTIONS", "parameters"]

# ---- memory --------------------------------------------------------------------------------------------


@intrinsic  # type: ignore[untyped-decorator]
def at_address(context: Any, like: Any, address: Any) -> Any:
    """Return an address as an array of the type of `like`."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[1], context.get_value_type(signature.return_type))

    return like(like, types.int64), build


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
def attend(x, q, keys, values, first, length, d_head, scale, powers):
    """softmax(q k^T scale) v of one head over `length` keys, contiguous from number `first` on.

    `q` and `powers` are offsets in `x`; the result overwrites q.
    """
    project(keys, first, first + length, Inputs(x, x), q, 1, d_head, x, powers - first, 0, x, powers)
    highest = -f32(np.inf)
    for key in range(length):
        highest = max(highest, x[powers + key])
    for key in range(length):
        x[powers + key] = exp((x[powers + key] - highest) * scale)
    total = ZERO
    for key in range(length):
        total += x[powers + key]
    add_rows(values, first * d_head, d_head, x, powers, length, x, q)
    for i in range(d_head):
        x[q + i] /= total


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
    scales: Any
    """Addresses of the matrices' scales, in the same order; of stored floats they are not used."""
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
    tile: Any
    """Rows of a matrix in float32, or results of a block: [tile_size], this thread's own."""
    rounded: Any
    """Inputs in 16 bits and their scales: [rounded_size], this thread's own."""
    part: Any
    parts: Any


@compiled
def tile_size(widest):
    """`generation_layout.tile_size`, for kernels."""
    return TILE_ROWS * widest


@compiled
def rounded_size(tokens, widest):
    """`generation_layout.rounded_size`, for kernels."""
    return tokens * (widest // 2 + ALIGNED)


@compiled
def make_workspace(scratch, inputs, barrier_state, tokens, model, capacity, part, parts):
    """Return the workspace of a thread; its size is in generation_layout.py."""
    stream = i64(0)
    qkv = stream + tokens * model.d_model
    gate = qkv + tokens * (model.heads + 2 * model.kv_heads) * model.d_head
    up = gate + tokens * model.d_ff
    branch = up + tokens * model.d_ff
    exponentials = branch + tokens * model.d_model + part * capacity
    widest = max(model.d_model, model.d_ff, model.heads * model.d_head)
    tiles = branch + tokens * model.d_model + parts * capacity
    tile = tiles + part * tile_size(widest)
    rounded = tiles + parts * tile_size(widest) + part * rounded_size(tokens, widest)
    scales = floats_of(scratch, rounded + tokens * (widest // 2))
    attended = i64(0)
    activated = attended + tokens * model.heads * model.d_head
    normed = activated + tokens * model.d_ff + part * tokens * model.d_model
    return Workspace(
        scratch, inputs, barrier_state, tokens,
        stream, qkv, gate, up, branch, exponentials, attended, activated, normed, tile,
        Inputs(shorts_of(scratch, rounded), scales), part, parts,
    )  # fmt: skip


@compiled
def matrix(model, layer, which):
    """Return a matrix of a layer; `which` is its position in generation_layout.py."""
    at = layer * NUM_MATRICES + which
    numbers = at_address(model.head.numbers, model.weights[at])
    return Matrix(numbers, at_address(model.head.scales, model.scales[at]))


@compiled
def gain(model, layer, which):
    """Return the gains of a norm of a layer."""
    return at_address(model.final_norm, model.weights[layer * NUM_MATRICES + which])


@compiled
def prepare(source, tokens, width, model, work):
    """Round the inputs at offset `source` to 16 bits, where the matrices are multiplied with such.

    Each thread rounds all of them: cheaper than a barrier.
    """
    if has_scales(model.head.numbers):
        for token in range(tokens):
            round_inputs(work.inputs, source + token * width, width, work.rounded, token)


def prepared(numbers, source, work):
    """Return the inputs of a matrix of such `numbers` as `project` takes them, and their offset."""


@overload(prepared, inline="always")
def _prepared(numbers, source, work):
    if are_integers(numbers):
        return lambda numbers, source, work: (work.rounded, i64(0))
    return lambda numbers, source, work: (Inputs(work.inputs, work.scratch), source)


@compiled
def multiply(weight, first, last, source, tokens, width, model, work, out, out_at, out_width):
    """`project` with the inputs at offset `source`, after `prepare`."""
    x, x_at = prepared(weight.numbers, source, work)
    project(weight, first, last, x, x_at, tokens, width, out, out_at, out_width, work.scratch, work.tile)


@compiled
def add_bias(model, layer, which, first, memory, at, number):
    """Add numbers from `first` on of a layer's bias to those at offset `at`, if the layer has it."""
    address = model.weights[layer * NUM_MATRICES + which]
    if address != 0:
        bias = at_address(model.final_norm, address)
        for i in range(number):
            memory[at + i] += wide(bias[first + i])


@compiled
def embed(ids, model, work):
    """Set the residual stream to the embeddings of the ids."""
    first, last = share_of(model.d_model, work.part, work.parts)
    for token in range(work.tokens):
        for i in range(first, last):
            number = number_at(model.embedding, ids[token], i, model.d_model)
            work.scratch[work.stream + token * model.d_model + i] = number


@compiled
def norm_input(gains, model, work):
    """Barrier, then RMSNorm of the residual stream.

    Each thread normalises its own copy: cheaper than a second barrier.
    """
    barrier(work.barrier_state, work.parts)
    normalise(
        work.scratch, work.stream, gains, work.inputs, work.normed, work.tokens, model.d_model, model.eps
    )
    prepare(work.normed, work.tokens, model.d_model, model, work)


@compiled
def project_and_add(which, source, width, model, work, layer):
    """Barrier, then add the product of a matrix and the inputs at offset `source` to the residual stream."""
    barrier(work.barrier_state, work.parts)
    prepare(source, work.tokens, width, model, work)
    first, last = share_of(model.d_model, work.part, work.parts)
    memory, by = work.scratch, model.d_model
    weight = matrix(model, layer, which)
    multiply(weight, first, last, source, work.tokens, width, model, work, memory, work.branch, by)
    for token in range(work.tokens):
        for i in range(first, last):
            memory[work.stream + token * by + i] += memory[work.branch + token * by + i]


@compiled
def project_heads(which, first_head, num_heads, model, work, layer):
    """Project to those of this thread's heads that are queries, keys or values (`which`): `num_heads` from
    `first_head` on."""
    all_heads = model.heads + 2 * model.kv_heads
    first, last = share_of(all_heads, work.part, work.parts)
    begin, end = max(first - first_head, 0) * model.d_head, min(last - first_head, num_heads) * model.d_head
    if begin < end:
        weight, place = matrix(model, layer, which), work.qkv + first_head * model.d_head
        width, by = model.d_model, all_heads * model.d_head
        multiply(weight, begin, end, work.normed, work.tokens, width, model, work, work.scratch, place, by)


@compiled
def qkv_projection(model, cache, work, layer):
    """Project to queries, keys and values, rotate them, and store keys and values in the cache.

    Each thread computes whole heads.
    """
    memory, num_heads = work.scratch, model.heads + 2 * model.kv_heads
    first, last = share_of(num_heads, work.part, work.parts)
    project_heads(Q, i64(0), model.heads, model, work, layer)
    project_heads(K, model.heads, model.kv_heads, model, work, layer)
    project_heads(V, model.heads + model.kv_heads, model.kv_heads, model, work, layer)
    for head in range(first, last):
        kind = Q if head < model.heads else K if head < model.heads + model.kv_heads else V
        bias = Q_BIAS if kind == Q else K_BIAS if kind == K else V_BIAS
        number = head - (i64(0) if kind == Q else model.heads if kind == K else model.heads + model.kv_heads)
        start, at = number * model.d_head, work.qkv + head * model.d_head
        by = num_heads * model.d_head
        for token in range(work.tokens):
            place, position = at + token * by, cache.positions[token]
            row = layer * cache.rows + cache.row_of[token]
            slot = (row * model.kv_heads + number) * cache.capacity + position
            add_bias(model, layer, bias, start, memory, place, model.d_head)
            if kind == V:
                store(cache.values, slot * model.d_head, memory, place, model.d_head)
                continue
            norm = Q_NORM if kind == Q else K_NORM
            if model.weights[layer * NUM_MATRICES + norm] != 0:
                gains = gain(model, layer, norm)
                normalise(memory, place, gains, memory, place, 1, model.d_head, model.eps)
            if model.weights[layer * NUM_MATRICES + HAS_ROPE] != 0:
                pairs = model.d_head // 2
                apply_rope(memory, place, model.cos, model.sin, position * pairs, pairs)
            if kind == K:
                store(cache.keys, slot * model.d_head, memory, place, model.d_head)


@compiled
def attention(model, cache, work, layer, wanted, num_wanted):
    """Barrier, then attention of tokens to those of their text up to themselves, in the layer's window.

    Of all tokens; in the last layer of those at `wanted`, whose outputs follow each other.
    """
    barrier(work.barrier_state, work.parts)
    is_last = layer == model.layers - 1
    window = model.weights[layer * NUM_MATRICES + WINDOW]
    scale = ONE / np.sqrt(f32(model.d_head))
    tokens = num_wanted if is_last else work.tokens
    first, last = share_of(tokens * model.heads, work.part, work.parts)
    for one in range(first, last):
        token, head = one // model.heads, one % model.heads
        token = wanted[token] if is_last else token
        query = work.qkv + (token * (model.heads + 2 * model.kv_heads) + head) * model.d_head
        row = layer * cache.rows + cache.row_of[token]
        row = row * model.kv_heads + head // (model.heads // model.kv_heads)
        keys, length = Matrix(cache.keys, model.head.scales), cache.positions[token] + 1
        first_key = max(length - window, 0) if window != 0 else i64(0)
        attend(
            work.scratch, query, keys, cache.values, row * cache.capacity + first_key,
            length - first_key, model.d_head, scale, work.exponentials,
        )  # fmt: skip
        store(work.inputs, work.attended + one * model.d_head, work.scratch, query, model.d_head)


@compiled
def keep_wanted(wanted, num_wanted, model, work):
    """Let the residual stream have the tokens at `wanted` alone; return the workspace for these.

    Each thread moves the columns that it will add to: no other reads them before the next barrier.
    """
    first, last = share_of(model.d_model, work.part, work.parts)
    for place in range(num_wanted):  # ascending, so that nothing is overwritten that is still to be moved
        source, target = work.stream + wanted[place] * model.d_model, work.stream + place * model.d_model
        for i in range(first, last):
            work.scratch[target + i] = work.scratch[source + i]
    return Workspace(
        work.scratch, work.inputs, work.barrier_state, num_wanted,
        work.stream, work.qkv, work.gate, work.up, work.branch, work.exponentials,
        work.attended, work.activated, work.normed, work.tile, work.rounded, work.part, work.parts,
    )  # fmt: skip


@compiled
def swiglu(model, work, layer):
    """silu(W1 x) * W3 x"""
    memory, width, d_ff = work.scratch, model.d_model, model.d_ff
    first, last = share_of(d_ff, work.part, work.parts)
    for which, place in ((W1, work.gate), (W3, work.up)):
        weight = matrix(model, layer, which)
        multiply(weight, first, last, work.normed, work.tokens, width, model, work, memory, place, d_ff)
    for token in range(work.tokens):
        for i in range(token * d_ff + first, token * d_ff + last):
            gate = memory[work.gate + i]
            put(work.inputs, work.activated + i, gate / (ONE + exp(-gate)) * memory[work.up + i])


def decode(
    ids, row_of, positions, wanted,
    embedding, embedding_scales, weights, scales, final_norm, head, head_scales,
    keys, values, cos, sin, logits, scratch, inputs, barrier_state,
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
        Matrix(embedding, embedding_scales), weights, scales, final_norm, Matrix(head, head_scales), cos, sin,
        layers, d_model, heads, kv_heads, d_head, d_ff, f32(eps),
    )  # fmt: skip
    cache = Cache(keys, values, row_of, positions, rows, capacity)
    work = make_workspace(scratch, inputs, barrier_state, tokens, model, capacity, part, parts)
    embed(ids, model, work)
    for layer in range(layers):
        norm_input(gain(model, layer, NORM), model, work)
        qkv_projection(model, cache, work, layer)
        if layer == layers - 1 and num_wanted == 0:
            return 0
        attention(model, cache, work, layer, wanted, num_wanted)
        if layer == layers - 1:  # of the other tokens, only keys and values are still needed
            work = keep_wanted(wanted, num_wanted, model, work)
        project_and_add(OUTPUT, work.attended, heads * d_head, model, work, layer)
        norm_input(gain(model, layer, SECOND_NORM), model, work)
        swiglu(model, work, layer)
        project_and_add(W2, work.activated, d_ff, model, work, layer)
    barrier(work.barrier_state, work.parts)
    normalise(work.scratch, work.stream, final_norm, work.inputs, work.normed, num_wanted, d_model, model.eps)
    prepare(work.normed, num_wanted, d_model, model, work)
    first, last = share_of(vocabulary, part, parts)
    multiply(model.head, first, last, work.normed, num_wanted, d_model, model, work, logits, 0, vocabulary)
    return 0


# ---- the table ---------------------------------------------------------------------------------------

_KINDS = {
    **dict.fromkeys(("ids", "row_of", "positions", "wanted", "weights", "scales", "barrier_state"), "i64*"),
    **dict.fromkeys(("cos", "sin", "logits", "scratch", "uniforms"), "f32*"),
    **dict.fromkeys(("eps", "temperature", "top_p", "min_p"), "f64"),
    "bins": "f64*",
}

ENTRIES: dict[str, Callable[..., int]] = {
    **{f"decode_{dtype}": decode for dtype in MEMORY},
    "sample_float32": sample,
}
"""Kernels by name. Each returns 0. Those for eight and four bits are in generation_quantized.py."""


def parameters(name: str) -> dict[str, str]:
    """Return the parameters of a kernel in order with their types: "f32*" is an array, "f64" a number."""
    storage = name.rpartition("_")[-1]
    kinds = _KINDS | dict.fromkeys(("embedding", "head"), WEIGHTS[storage]) | {"inputs": INPUTS[storage]}
    kinds |= dict.fromkeys(("embedding_scales", "head_scales"), "u16*")
    kinds |= dict.fromkeys(("final_norm", "keys", "values"), MEMORY.get(storage, MEMORY["float32"]))
    function = sample if name.startswith("sample") else decode
    return {parameter: kinds.get(parameter, "i64") for parameter in signature(function).parameters}
