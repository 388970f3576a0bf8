"""Vector and memory instructions of the tokenizer's kernels.

Importing this module imports numba, which is needed to compile only.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_BITS = {width: ir.IntType(width) for width in (1, 8, 16, 32, 64)}


def _address(builder: Any, pointer: Any, index: Any, kind: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())


@intrinsic  # type: ignore[untyped-decorator]
def load64(context: Any, pointer: Any, index: Any) -> Any:
    """Load the eight bytes at `pointer[index]` as one number (little-endian); they need not be aligned."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_address(builder, *arguments, _BITS[64]))
        value.align = 1
        return value

    return types.uint64(pointer, index), build


@intrinsic  # type: ignore[untyped-decorator]
def load16(context: Any, pointer: Any, index: Any) -> Any:
    """Load the two bytes at `pointer[index]` as one number (little-endian); they need not be aligned."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_address(builder, *arguments, _BITS[16]))
        value.align = 1
        return builder.zext(value, _BITS[64])

    return types.int64(pointer, index), build


@intrinsic  # type: ignore[untyped-decorator]
def store64(context: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Store a number as the eight bytes at `pointer[index]`; they need not be aligned."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, index, value = arguments
        store = builder.store(value, _address(builder, pointer, index, _BITS[64]))
        store.align = 1
        return context.get_dummy_value()

    return types.void(pointer, index, types.uint64), build


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(context: Any, pointer: Any, index: Any) -> Any:
    """Prefetch the cache line of `pointer[index]`."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where = builder.gep(arguments[0], [arguments[1]])
        kinds = [where.type, *[_BITS[32]] * 3]
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [where.type], ir.FunctionType(ir.VoidType(), kinds)
        )
        builder.call(function, [where, *(ir.Constant(_BITS[32], number) for number in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(pointer, index), build


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(context: Any, mask: Any) -> Any:
    """Return the index of the lowest set bit, 64 for zero."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(_BITS[1], 0))

    return types.int64(types.uint64), build


def _compare(builder: Any, block: Any, first: int, number: int) -> Any:
    """Return the lanes of a byte vector that are in first ... first + number - 1."""
    constants = [ir.Constant(block.type, [value] * 64) for value in (first, number)]
    return builder.icmp_unsigned("<", builder.sub(block, constants[0]), constants[1])


@intrinsic  # type: ignore[untyped-decorator]
def classes_of_64(context: Any, pointer: Any, index: Any) -> Any:
    """Return masks of pointer[index : index + 64]: letters, numbers, spaces, " ", "'", not ASCII."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block = builder.load(_address(builder, *arguments, ir.VectorType(_BITS[8], 64)))
        block.align = 1
        lower = builder.or_(block, ir.Constant(block.type, [0x20] * 64))
        blanks = _compare(builder, block, ord(" "), 1)
        masks = [
            _compare(builder, lower, ord("a"), 26),
            _compare(builder, block, ord("0"), 10),
            builder.or_(blanks, _compare(builder, block, ord("\t"), 5)),
            blanks,
            _compare(builder, block, ord("'"), 1),
            _compare(builder, block, 128, 128),
        ]
        bits = [builder.bitcast(mask, _BITS[64]) for mask in masks]
        return context.make_tuple(builder, signature.return_type, bits)

    return types.UniTuple(types.uint64, 6)(pointer, index), build


@intrinsic  # type: ignore[untyped-decorator]
def equal_in_64(context: Any, pointer: Any, index: Any, byte: Any) -> Any:
    """Compare pointer[index : index + 64] with `byte`, one bit per byte."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, index, byte = arguments
        vector = ir.VectorType(_BITS[8], 64)
        block = builder.load(_address(builder, pointer, index, vector))
        block.align = 1
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), byte, ir.Constant(_BITS[32], 0))
        lanes = ir.Constant(ir.VectorType(_BITS[32], 64), [0] * 64)
        every = builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)
        return builder.bitcast(builder.icmp_unsigned("==", block, every), _BITS[64])

    return types.uint64(pointer, index, types.uint8), build
