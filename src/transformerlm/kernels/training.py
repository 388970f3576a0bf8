"""Training kernels for a CPU: functions of nn and optim, each in one pass over memory.

PyTorch's operations read their inputs from memory and write their outputs there, one after the other; here a
row stays in the first-level cache until all operations on it are done. Every kernel does one `part` of
`parts`, so that threads share the work; only the order of sums over rows depends on the division.

No loop both sums and stores. The compiler precedes such a loop with a test whether the arrays overlap, and
takes a slow version of the loop if they lie close together; that version sums in another order, so the last
bits would depend on the addresses that the allocator returns.

Importing this file imports numba, which is needed only to compile: see library.py.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import numpy as np

from transformerlm.kernels.primitives import (
    MEMORY,
    ONE,
    OPTIONS,
    ZERO,
    compiled,
    exp,
    f32,
    floats_at,
    put,
    share_of,
    wide,
)

__all__ = ["ENTRIES", "OPTIONS", "parameters"]

LANES = 32
"""Rows cut by causality are processed to the next multiple of this, so that only whole vectors occur."""


# ---- norm -------------------------------------------------------------------------------------------


def rms_norm(x, weight, out, inverse_rms, rows, width, eps, part, parts):
    """x [rows, width] -> out, and the factor of each row, inverse_rms [rows]."""
    first, last = share_of(rows, part, parts)
    for row in range(first, last):
        at = row * width
        total = ZERO
        for i in range(width):
            value = wide(x[at + i])
            total += value * value
        inverse = ONE / np.sqrt(total / f32(width) + f32(eps))
        inverse_rms[row] = inverse
        for i in range(width):
            put(out, at + i, wide(x[at + i]) * inverse * weight[i])
    return 0


def rms_norm_back(grad, x, weight, inverse_rms, grad_x, grad_weight, rows, width, part, parts):
    """grad [rows, width] -> grad_x, and the sum over each part's rows of the weight's gradient [parts,
    width]."""
    gains = part * width
    for i in range(width):
        grad_weight[gains + i] = ZERO
    first, last = share_of(rows, part, parts)
    for row in range(first, last):
        at, inverse = row * width, inverse_rms[row]
        dot = ZERO
        for i in range(width):
            dot += wide(grad[at + i]) * weight[i] * wide(x[at + i])
        along = dot * inverse * inverse / f32(width)
        for i in range(width):
            upper, value = wide(grad[at + i]), wide(x[at + i])
            grad_weight[gains + i] += upper * value * inverse
            put(grad_x, at + i, inverse * (upper * weight[i] - value * along))
    return 0


# ---- activation -------------------------------------------------------------------------------------


def swiglu(gate_up, out, rows, width, part, parts):
    """silu(gate) * up, from rows [gate, up]."""
    first, last = share_of(rows, part, parts)
    for row in range(first, last):
        gate, up, at = 2 * row * width, (2 * row + 1) * width, row * width
        for i in range(width):
            value = wide(gate_up[gate + i])
            put(out, at + i, value / (ONE + exp(-value)) * wide(gate_up[up + i]))
    return 0


def swiglu_back(grad, gate_up, grad_gate_up, rows, width, part, parts):
    """The gradient of `swiglu`."""
    first, last = share_of(rows, part, parts)
    for row in range(first, last):
        gate, up, at = 2 * row * width, (2 * row + 1) * width, row * width
        for i in range(width):
            value, upper = wide(gate_up[gate + i]), wide(grad[at + i])
            sigmoid = ONE / (ONE + exp(-value))
            silu = value * sigmoid
            put(grad_gate_up, up + i, upper * silu)
            slope = sigmoid + silu * (ONE - sigmoid)
            put(grad_gate_up, gate + i, upper * wide(gate_up[up + i]) * slope)
    return 0


# ---- rotation ---------------------------------------------------------------------------------------


def rotate(
    x, x_batch, x_head, x_time, cos, sin, out, out_batch, out_head, out_time,
    batch, heads, times, pairs, sign, part, parts,
):  # fmt: skip
    """Rotate the pairs of each vector by the angles of its position; in reverse if sign is -1.

    `x_batch`, `x_head`, `x_time` and those of `out` are strides.
    """
    first, last = share_of(batch * heads, part, parts)
    turn = f32(sign)
    for row in range(first, last):
        source = row // heads * x_batch + row % heads * x_head
        target = row // heads * out_batch + row % heads * out_head
        for time in range(times):
            read, write, angle = source + time * x_time, target + time * out_time, time * pairs
            for i in range(pairs):
                even, odd = wide(x[read + 2 * i]), wide(x[read + 2 * i + 1])
                c, s = cos[angle + i], sin[angle + i] * turn
                put(out, write + 2 * i, even * c - odd * s)
                put(out, write + 2 * i + 1, even * s + odd * c)
    return 0


# ---- attention --------------------------------------------------------------------------------------


@compiled
def visible_keys(row, queries, first_query, keys):
    """Return the number of keys that a row's query attends to, and it rounded up to whole vectors."""
    number = row % queries + first_query + 1
    return number, min((number + LANES - 1) // LANES * LANES, keys)


def attend(scores, log_sums, scratch, rows, queries, first_query, keys, scale, part, parts):
    """Causal softmax of scores [rows, keys] times `scale`, in place; the queries repeat every `queries` rows.

    `log_sums` gets the log of each row's sum of exponentials. Masked keys get 0.
    """
    factor, powers = f32(scale), part * keys
    first, last = share_of(rows, part, parts)
    for row in range(first, last):
        at = row * keys
        number, end = visible_keys(row, queries, first_query, keys)
        highest = wide(scores[at])
        for i in range(end):
            score = wide(scores[at + i])
            highest = max(highest, score if i < number else highest)
        total = ZERO
        for i in range(end):
            power = exp((wide(scores[at + i]) - highest) * factor)
            scratch[powers + i] = power if i < number else ZERO
        for i in range(end):
            total += scratch[powers + i]
        log_sums[row] = highest * factor + np.log(total)
        inverse = ONE / total
        for i in range(end):
            put(scores, at + i, scratch[powers + i] * inverse)
        for i in range(end, keys):
            put(scores, at + i, ZERO)
    return 0


def attend_back(scores, grad, log_sums, scratch, rows, queries, first_query, keys, scale, part, parts):
    """Recompute the softmax in `scores`, and turn its gradient `grad` into that of the scores, in place."""
    factor, weights = f32(scale), part * keys
    first, last = share_of(rows, part, parts)
    for row in range(first, last):
        at, log_sum = row * keys, log_sums[row]
        number, end = visible_keys(row, queries, first_query, keys)
        dot = ZERO
        for i in range(end):
            weight = exp(wide(scores[at + i]) * factor - log_sum)
            scratch[weights + i] = weight if i < number else ZERO
        for i in range(end):
            dot += scratch[weights + i] * wide(grad[at + i])
        for i in range(end):
            weight = scratch[weights + i]
            put(grad, at + i, weight * (wide(grad[at + i]) - dot) * factor)
            put(scores, at + i, weight)
        for i in range(end, keys):
            put(grad, at + i, ZERO)
            put(scores, at + i, ZERO)
    return 0


# ---- loss -------------------------------------------------------------------------------------------


def cross_entropy(logits, targets, nats, rows, width, scale, part, parts):
    """Nats of each row's target; logits [rows, width] become scale * (softmax - one_hot)."""
    factor = f32(scale)
    first, last = share_of(rows, part, parts)
    for row in range(first, last):
        at = row * width
        highest = wide(logits[at])
        for i in range(width):
            highest = max(highest, wide(logits[at + i]))
        total = ZERO
        for i in range(width):
            total += exp(wide(logits[at + i]) - highest)
        target = at + targets[row]
        right = wide(logits[target]) - highest
        nats[row] = np.log(total) - right
        share = factor / total
        for i in range(width):
            put(logits, at + i, exp(wide(logits[at + i]) - highest) * share)
        put(logits, target, exp(right) * share - factor)
    return 0


# ---- optimizer --------------------------------------------------------------------------------------


def adamw(addresses, sizes, tensors, beta1, beta2, step_size, decay, root, eps, part, parts):
    """w = decay w - step_size m / (root sqrt(v) + eps), after m and v are updated with the gradient.

    For many tensors; `addresses` [4, tensors] are those of w, gradient, m and v.
    """
    b1, b2, step, kept = f32(beta1), f32(beta2), f32(step_size), f32(decay)
    scale, epsilon = f32(root), f32(eps)
    new1, new2 = f32(1 - beta1), f32(1 - beta2)
    for tensor in range(tensors):
        weight, grad = floats_at(addresses[tensor]), floats_at(addresses[tensors + tensor])
        mean, square = floats_at(addresses[2 * tensors + tensor]), floats_at(addresses[3 * tensors + tensor])
        first, last = share_of(sizes[tensor], part, parts)
        for i in range(first, last):
            g = grad[i]
            m = b1 * mean[i] + new1 * g
            v = b2 * square[i] + new2 * g * g
            mean[i], square[i] = m, v
            weight[i] = kept * weight[i] - step * m / (scale * np.sqrt(v) + epsilon)
    return 0


# ---- the table --------------------------------------------------------------------------------------

_FLOAT32 = {
    *("weight", "inverse_rms", "grad_weight", "cos", "sin", "log_sums", "scratch", "nats"),
}
_INT64 = {"targets", "addresses", "sizes"}
_NUMBERS = {"eps", "sign", "scale", "beta1", "beta2", "step_size", "decay", "root"}


def _variants() -> dict[str, tuple[Callable[..., int], dict[str, str]]]:
    """Return all kernels for all their dtypes: name -> (function, dtype of each parameter that has
    several)."""
    table: dict[str, tuple[Callable[..., int], dict[str, str]]] = {"adamw_float32": (adamw, {})}
    for inside in MEMORY:
        for kernel in (swiglu, swiglu_back, rotate, attend, attend_back, cross_entropy):
            table[f"{kernel.__name__}_{inside}"] = kernel, dict.fromkeys(signature(kernel).parameters, inside)
    for inside, outside in (("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")):
        kinds = {"x": inside, "grad_x": inside, "out": outside, "grad": outside}
        for kernel in (rms_norm, rms_norm_back):
            table[f"{kernel.__name__}_{inside}_{outside}"] = kernel, kinds
    return table


_VARIANTS = _variants()
ENTRIES = {name: kernel for name, (kernel, _) in _VARIANTS.items()}
"""Kernels by name. Each returns 0."""
_EITHER = {"x", "out", "grad", "grad_x", "gate_up", "grad_gate_up", "scores", "logits"}


def parameters(name: str) -> dict[str, str]:
    """Return the parameters of a kernel in order with their types: "f32*" is an array, "f64" a number."""
    kernel, dtypes = _VARIANTS[name]
    kinds = {parameter: MEMORY[dtype] for parameter, dtype in dtypes.items() if parameter in _EITHER}
    kinds |= dict.fromkeys(_FLOAT32, "f32*") | dict.fromkeys(_NUMBERS, "f64") | dict.fromkeys(_INT64, "i64*")
    return {parameter: kinds.get(parameter, "i64") for parameter in signature(kernel).parameters}
