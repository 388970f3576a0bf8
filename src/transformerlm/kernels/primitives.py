"""Loads, stores and elementary functions that the kernels of training and generation share.

Numbers in memory are float32, or bfloat16 as the upper half of a float32; computation is in float32.
Importing this file imports numba, which is needed only to compile: see library.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

f32, u32, i32, i64 = np.float32, np.uint32, np.int32, np.int64
ONE, HALF, ZERO = f32(1), f32(0.5), f32(0)

OPTIONS: dict[str, object] = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}}
"""Options of numba's compiler: sums may be reordered into vectors. Infinity and NaN keep their meaning."""

MEMORY = {"float32": "f32*", "bfloat16": "u16*"}
"""Dtype -> type of an array of it, in the notation of a kernel module's `parameters`."""

compiled = njit(error_model="numpy", **OPTIONS)


@intrinsic  # type: ignore[untyped-decorator]
def bits_of(context: Any, x: Any) -> Any:
    """Return the 32 bits of a float32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), build


@intrinsic  # type: ignore[untyped-decorator]
def float_of(context: Any, bits: Any) -> Any:
    """Return the float32 with these bits; inverse of `bits_of`."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), build


@intrinsic  # type: ignore[untyped-decorator]
def floats_at(context: Any, address: Any) -> Any:
    """Return an address as an array of float32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), build


def wide(x):
    """Convert a number from memory to float32."""


@overload(wide, inline="always")
def _wide(x):
    if x == types.uint16:
        return lambda x: float_of(u32(x) << u32(16))
    return lambda x: x


def put(memory, at, x):
    """Store a float32, rounded to the nearest bfloat16 (ties to even) if `memory` holds bfloat16."""


@overload(put, inline="always")
def _put(memory, at, x):
    if memory.dtype == types.uint16:

        def store(memory, at, x):
            bits = bits_of(x)
            memory[at] = np.uint16((bits + u32(0x7FFF) + ((bits >> u32(16)) & u32(1))) >> u32(16))
    else:

        def store(memory, at, x):
            memory[at] = x

    return store


LOG2_E, LN2_HIGH, LN2_LOW = f32(1.4426950408889634), f32(0.693359375), f32(-2.12194440e-4)
EXP_TERMS = tuple(f32(1 / divisor) for divisor in (5040, 720, 120, 24, 6, 2, 1, 1))
SMALLEST, LARGEST = f32(-87), f32(89)


@compiled
def exp(x):
    """e^x to a few units in the last place from -87 to 88; below, its value at -87; above, infinity.

    x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its power series to r^7, 2^n by its bits.
    """
    x = min(max(x, SMALLEST), LARGEST)
    n = np.floor(x * LOG2_E + HALF)
    r = x - n * LN2_HIGH - n * LN2_LOW
    power = EXP_TERMS[0]
    for term in EXP_TERMS[1:]:
        power = power * r + term
    return power * float_of(u32(i32(n) + i32(127)) << u32(23))


@compiled
def share_of(number, part, parts):
    """Return the range (end exclusive) of `number` items that belongs to a part."""
    return number * part // parts, number * (part + 1) // parts
