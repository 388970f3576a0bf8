"""Vectors of numbers as LLVM sees them: loads from every storage, products, and horizontal sums.

numba compiles loops over single numbers well. Products of matrices need more: which numbers stay in
registers, and in which order a sum is formed. The functions here write such code with LLVM's `builder`, for
registers of any size; generation_products.py puts tiles together from them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils

from transformerlm.kernels.generation_layout import GROUP
from transformerlm.kernels.target import target

_INSTRUCTIONS = target().instructions
HAS_LARGE_REGISTERS = "avx512f" in _INSTRUCTIONS
"""True: 32 vector registers of 16 floats (AVX-512). Otherwise possibly 16 registers of 8 floats, or less."""
LANES = 16 if HAS_LARGE_REGISTERS else 8
"""Floats per vector."""
HAS_PAIR_PRODUCTS = HAS_LARGE_REGISTERS and "avx512bf16" in _INSTRUCTIONS
"""True: an instruction multiplies two bfloat16 vectors and adds pairs of products to a float32 vector."""
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
    """Return True for memory of 16, eight or four bits per number, whose groups have scales."""
    return kind.dtype in (types.int16, types.int8, types.uint8)


def are_pairs(*memory: Any) -> bool:
    """Return True if numbers of these arrays are multiplied in pairs."""
    return HAS_PAIR_PRODUCTS and all(array.dtype == types.uint16 for array in memory)


def step_of(numbers: Any, x: Any) -> int:
    """Return how many numbers of a row are multiplied per step."""
    if are_integers(numbers):
        return GROUP
    return 2 * LANES if are_pairs(numbers, x) else LANES


class Step(NamedTuple):
    """Numbers of one step in registers."""

    vectors: list[Any]
    """One of float32 or of bfloat16 pairs; of integers a whole group, 16 bits each."""
    scale: Any = None
    """The scale of a matrix's group, in every lane of a float32 vector; None for others."""


def load_step(builder: Any, kind: Any, memory: Any, at: Any, as_pairs: bool) -> Step:
    """Load the numbers of one step from number `at` of an array of numba's type `kind` on."""
    if are_integers(kind):
        return Step(integers_at(builder, kind, memory, at))
    return Step([(pairs_at if as_pairs else vector_at)(builder, memory, at)])


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


def integers_at(builder: Any, kind: Any, memory: Any, at: Any) -> list[Any]:
    """Load a group of integers as vectors of 16 bits."""
    if bits_of_number(kind) == 4:
        return nibbles_at(builder, memory, builder.lshr(at, NUMBER(1)))
    places = [builder.add(at, NUMBER(first)) for first in range(0, GROUP, 2 * LANES)]
    if bits_of_number(kind) == 16:
        return [load_as(builder, SHORTS, memory, place, 2) for place in places]
    bytes_ = ir.VectorType(BYTE, 2 * LANES)
    return [builder.sext(load_as(builder, bytes_, memory, place, 1), SHORTS) for place in places]


def nibbles_at(builder: Any, memory: Any, at: Any) -> list[Any]:
    """Load a group of four bits each, as `nn.quantization.pack` orders them.

    Short j of its eight has numbers j, j + 8, j + 16 and j + 24 from the lowest bits up. All eight are loaded
    into every part of a vector, and each lane shifts its number to the top and back.
    """
    eight = ir.VectorType(SHORT, 8)
    parts = ir.Constant(ir.VectorType(WORD, 2 * LANES), [lane % 8 for lane in range(2 * LANES)])
    shorts = builder.shuffle_vector(
        load_as(builder, eight, memory, at, 1), ir.Constant(eight, ir.Undefined), parts
    )
    vectors = []
    for first in range(0, GROUP, 2 * LANES):
        above = SHORTS([12 - (first + lane) // 8 * 4 for lane in range(2 * LANES)])
        vectors.append(builder.ashr(builder.shl(shorts, above), SHORTS([12] * (2 * LANES))))
    return vectors


def broadcast(builder: Any, value: Any) -> Any:
    """Return a vector of one value."""
    one = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), value, WORD(0))
    return builder.shuffle_vector(one, ir.Constant(FLOATS, ir.Undefined), WORDS([0] * LANES))


def prefetch(builder: Any, kind: Any, numbers: Any, at: Any) -> None:
    """Prefetch the cache line of number `at` of a matrix.

    Into the second-level cache: in the first level it would evict the inputs of the tokens.
    """
    place = builder.lshr(at, NUMBER(1)) if bits_of_number(kind) == 4 else at
    address = builder.gep(numbers, [place])
    byte = BYTE.as_pointer()
    arguments = [byte, WORD, WORD, WORD]
    function = ir.FunctionType(ir.VoidType(), arguments)
    call(builder, "llvm.prefetch.p0", function, [builder.bitcast(address, byte), WORD(0), WORD(2), WORD(1)])


def call(builder: Any, name: str, kind: Any, arguments: list[Any]) -> Any:
    """Call a function that LLVM knows by its name."""
    function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
    return builder.call(function, arguments)


# ---- products and sums ---------------------------------------------------------------------------------


def add_products(builder: Any, total: Any, row: Step, values: Step) -> Any:
    """Add the products of a row's step and a token's to a float32 vector."""
    if row.scale is not None:
        return add_numbers(builder, total, integer_products(builder, row.vectors, values.vectors), row.scale)
    (numbers,), (x,) = row.vectors, values.vectors
    return (add_pairs if numbers.type == PAIRS else add_numbers)(builder, total, numbers, x)


def add_numbers(builder: Any, total: Any, row: Any, values: Any) -> Any:
    """total + row * values"""
    return builder.fadd(total, builder.fmul(row, values, flags=FUSED), flags=FUSED)


def add_pairs(builder: Any, total: Any, row: Any, values: Any) -> Any:
    """total[i] + row[2 i] * values[2 i] + row[2 i + 1] * values[2 i + 1]"""
    kind = ir.FunctionType(FLOATS, [FLOATS, PAIRS, PAIRS])
    return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", kind, [total, row, values])


def integer_products(builder: Any, row: list[Any], values: list[Any]) -> Any:
    """Return the sums over a group's vectors of row[2 i] * values[2 i] + row[2 i + 1] * values[2 i + 1].

    The sums are whole numbers, in float32: four products of eight and sixteen bits stay below 2^24.
    """
    first, *others = [pairs_of_products(builder, *pair) for pair in zip(row, values, strict=True)]
    for other in others:
        first = builder.add(first, other)
    return builder.sitofp(first, FLOATS)


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
