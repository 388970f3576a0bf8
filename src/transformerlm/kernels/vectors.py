"""Vectors of numbers as LLVM sees them: loads from every storage, products, and horizontal sums.

numba compiles loops over single numbers well. Products of matrices need more: which numbers stay in
registers, and in which order a sum is formed. The functions here write such code with LLVM's `builder`, for
registers of any size; generation_tiles.py and generation_integers.py put tiles together from them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from transformerlm.kernels.target import target

_INSTRUCTIONS = target().instructions
HAS_LARGE_REGISTERS = "avx512f" in _INSTRUCTIONS
"""True: 32 vector registers of 16 floats (AVX-512). Otherwise possibly 16 registers of 8 floats, or less."""
LANES = 16 if HAS_LARGE_REGISTERS else 8
"""Floats per vector."""
HAS_PAIR_PRODUCTS = (
    HAS_LARGE_REGISTERS and "avx512bf16" in _INSTRUCTIONS and target().name.startswith("znver")
)
"""True: an instruction multiplies two bfloat16 vectors and adds pairs of products to a float32 vector, and it
is quick. On Intel's processors it takes about twice as long as products of float32 (docs/performance.md)."""
INTEGER_PRODUCTS = (
    ("avx512bw", 16, "llvm.x86.avx512.pmaddw.d.512"),
    ("avx2", 8, "llvm.x86.avx2.pmadd.wd"),
    ("sse4.1", 4, "llvm.x86.sse2.pmadd.wd"),
)
"""Instructions that multiply two vectors of 16 bits and add pairs of products: where, sums, LLVM's name."""
BYTES_AHEAD = 1024
"""Prefetch distance where few tokens are multiplied, in bytes of a row and the rows behind it."""
LINE_BYTES = 64
"""Size of a cache line."""
FUSED = ("contract",)
"""LLVM flag: a product and a sum may be fused into one instruction."""


class Bfloat16(ir.types.Type):  # type: ignore[misc]
    """LLVM's type bfloat, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"


BYTE, SHORT, WORD, NUMBER = (ir.IntType(bits) for bits in (8, 16, 32, 64))
PAIRS = ir.VectorType(Bfloat16(), 2 * LANES)
SHORTS = ir.VectorType(SHORT, 2 * LANES)
FLOATS = ir.VectorType(ir.FloatType(), LANES)
WORDS = ir.VectorType(WORD, LANES)


# ---- numbers in memory ---------------------------------------------------------------------------------


def bits_of_number(kind: Any) -> int:
    """Return the bits per number of a memory type; numbers of four bits are stored in pairs."""
    return 4 if kind.dtype == types.uint8 else int(kind.dtype.bitwidth)


def are_integers(kind: Any) -> bool:
    """Return True for memory of eight or four bits per number, whose groups have scales."""
    return kind.dtype in (types.int8, types.uint8)


def are_pairs(*memory: Any) -> bool:
    """Return True if numbers of these arrays are multiplied in pairs."""
    return HAS_PAIR_PRODUCTS and all(array.dtype == types.uint16 for array in memory)


def step_of(numbers: Any, x: Any) -> int:
    """Return how many numbers of a row are multiplied per step."""
    return 2 * LANES if are_pairs(numbers, x) else LANES


def load_step(builder: Any, memory: Any, at: Any, as_pairs: bool) -> Any:
    """Load the numbers of one step from number `at` of an array on: float32, or pairs of bfloat16."""
    return (pairs_at if as_pairs else vector_at)(builder, memory, at)


def load_as(builder: Any, kind: Any, memory: Any, at: Any, align: int) -> Any:
    """Load a vector of type `kind` from number `at` of an array on."""
    return builder.load(builder.bitcast(builder.gep(memory, [at]), kind.as_pointer()), align=align)


def vector_at(builder: Any, memory: Any, at: Any) -> Any:
    """Load LANES numbers of float32 or bfloat16 as float32."""
    if memory.type.pointee == ir.FloatType():
        return load_as(builder, FLOATS, memory, at, 4)
    values = load_as(builder, ir.VectorType(SHORT, LANES), memory, at, 2)
    bits = builder.shl(builder.zext(values, WORDS), WORDS([16] * LANES))
    return builder.bitcast(bits, FLOATS)


def pairs_at(builder: Any, memory: Any, at: Any) -> Any:
    """Load 2 * LANES bfloat16 numbers."""
    return load_as(builder, PAIRS, memory, at, 2)


def signed_bytes_at(builder: Any, memory: Any, at: Any) -> Any:
    """Load 2 * LANES numbers of eight bits, as 16 bits."""
    return builder.sext(load_as(builder, ir.VectorType(BYTE, 2 * LANES), memory, at, 1), SHORTS)


def halves_at(builder: Any, memory: Any, at: Any) -> Any:
    """Load LANES numbers of float16, none of which is infinite or NaN, as float32."""
    halves = load_as(builder, ir.VectorType(SHORT, LANES), memory, at, 2)
    if "f16c" in _INSTRUCTIONS:
        return builder.fpext(builder.bitcast(halves, ir.VectorType(ir.HalfType(), LANES)), FLOATS)
    # The exponent is taken for that of a float32, and is too small by 127 - 15.
    bits = builder.zext(halves, WORDS)
    sign = builder.shl(builder.and_(bits, WORDS([0x8000] * LANES)), WORDS([16] * LANES))
    rest = builder.shl(builder.and_(bits, WORDS([0x7FFF] * LANES)), WORDS([13] * LANES))
    return builder.fmul(builder.bitcast(builder.or_(sign, rest), FLOATS), FLOATS([2.0**112] * LANES))


def broadcast_pair(builder: Any, memory: Any, at: Any) -> Any:
    """Load two numbers of 16 bits; return a vector that repeats them."""
    pair = builder.load(builder.bitcast(builder.gep(memory, [at]), WORD.as_pointer()), align=2)
    return builder.bitcast(splat(builder, pair, WORDS), SHORTS)


def broadcast(builder: Any, value: Any) -> Any:
    """Return a vector of one float32."""
    return splat(builder, value, FLOATS)


def splat(builder: Any, value: Any, kind: Any) -> Any:
    """Return a vector of type `kind` of one value."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, WORD(0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), WORDS([0] * LANES))


def prefetch(builder: Any, numbers: Any, at: Any) -> None:
    """Prefetch the cache line of number `at` of an array.

    Into the second-level cache: in the first level it would evict the inputs of the tokens.
    """
    address = builder.gep(numbers, [at])
    byte = BYTE.as_pointer()
    arguments = [byte, WORD, WORD, WORD]
    function = ir.FunctionType(ir.VoidType(), arguments)
    call(builder, "llvm.prefetch.p0", function, [builder.bitcast(address, byte), WORD(0), WORD(2), WORD(1)])


def call(builder: Any, name: str, kind: Any, arguments: list[Any]) -> Any:
    """Call a function that LLVM knows by its name."""
    function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
    return builder.call(function, arguments)


# ---- products and sums ---------------------------------------------------------------------------------


def add_numbers(builder: Any, total: Any, row: Any, values: Any) -> Any:
    """total + row * values"""
    return builder.fadd(total, builder.fmul(row, values, flags=FUSED), flags=FUSED)


def add_pairs(builder: Any, total: Any, row: Any, values: Any) -> Any:
    """total[i] + row[2 i] * values[2 i] + row[2 i + 1] * values[2 i + 1]"""
    kind = ir.FunctionType(FLOATS, [FLOATS, PAIRS, PAIRS])
    return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", kind, [total, row, values])


def pairs_of_products(builder: Any, a: Any, b: Any) -> Any:
    """a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1] in 32 bits."""
    for instructions, sums, name in INTEGER_PRODUCTS:
        if instructions in _INSTRUCTIONS and sums <= LANES:
            return _by_instruction(builder, a, b, sums, name)

    def half(vector: Any, parity: int) -> Any:
        places = WORDS([2 * lane + parity for lane in range(LANES)])
        return builder.sext(builder.shuffle_vector(vector, vector, places), WORDS)

    even, odd = (builder.mul(half(a, parity), half(b, parity)) for parity in (0, 1))
    return builder.add(even, odd)


def _by_instruction(builder: Any, a: Any, b: Any, sums: int, name: str) -> Any:
    """`pairs_of_products` by an instruction that forms `sums` of them at a time."""
    size = 2 * sums
    kind = ir.FunctionType(ir.VectorType(WORD, sums), [ir.VectorType(SHORT, size)] * 2)
    parts = []
    for start in range(0, 2 * LANES, size):
        places = ir.Constant(ir.VectorType(WORD, size), list(range(start, start + size)))
        parts.append(call(builder, name, kind, [builder.shuffle_vector(v, v, places) for v in (a, b)]))
    while len(parts) > 1:
        joined = 2 * parts[0].type.count
        places = ir.Constant(ir.VectorType(WORD, joined), list(range(joined)))
        parts = [builder.shuffle_vector(*parts[i : i + 2], places) for i in range(0, len(parts), 2)]
    return parts[0]


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
