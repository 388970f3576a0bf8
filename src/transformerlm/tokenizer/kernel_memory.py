"""Memory for the kernels: text as UTF-8, special tokens, scratch of a thread, hash tables of words."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from itertools import takewhile

import numpy as np

from transformerlm.config import GPT2_PATTERN
from transformerlm.kernels.bpe_layout import BATCH, ENTRY, MASKS, PADDING, STATE, WINDOW
from transformerlm.tokenizer.kernel_library import Arguments, Array, classes, kernels
from transformerlm.tokenizer.patterns.compiled import compile_pattern
from transformerlm.tokenizer.pretokenize import utf8
from transformerlm.tokenizer.splits import Pattern

# Function objects of our own: the attributes of ctypes.pythonapi are shared by the whole process, and so are
# the types that are set on them.
_utf8_type = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
_utf8_address = _utf8_type(("PyUnicode_AsUTF8AndSize", ctypes.pythonapi))
_bytes_type = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)
_bytes_address = _bytes_type(("PyBytes_AsString", ctypes.pythonapi))


def utf8_buffer(text: str | bytes) -> tuple[int, int]:
    """Return address and number of the bytes of a text (its UTF-8) or of a bytes object.

    The memory lives as long as the object: Python stores ASCII text as UTF-8, and keeps the UTF-8 of other
    text once it has been asked for.

    Raises:
        DataError: an unpaired surrogate in a text.
    """
    if isinstance(text, bytes):
        return _bytes_address(text), len(text)
    if text.isascii():
        return _utf8_address(text, None), len(text)
    size = ctypes.c_ssize_t()
    try:
        return _utf8_address(text, ctypes.byref(size)), size.value
    except UnicodeEncodeError:
        utf8(text)  # raises a DataError that names the character
        raise


def special_arrays(special_token_ids: Mapping[str, int]) -> Arguments:
    """Return special tokens as arguments of the kernels, longest first."""
    tokens = sorted(((utf8(token), token_id) for token, token_id in special_token_ids.items()), key=_longest)
    firsts = sorted({token[0] for token, _ in tokens})
    lengths = [len(token) for token, _ in tokens]
    columns = zip(*(token for token, _ in tokens), strict=False)
    return {
        "special_text": np.frombuffer(b"".join(token for token, _ in tokens) + b"\0", np.uint8),
        "special_bounds": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "special_ids": np.array([token_id for _, token_id in tokens] or [0], np.int32),
        "firsts": np.array(firsts or [0], np.uint8),
        "num_specials": len(tokens),
        "num_firsts": len(firsts),
        "num_shared": sum(1 for _ in takewhile(_all_equal, columns)),
    }


def _all_equal(column: tuple[int, ...]) -> bool:
    return len(set(column)) == 1


def _longest(item: tuple[bytes, int]) -> int:
    return -len(item[0])


def pattern_arrays(pattern: Pattern) -> Arguments:
    """Return what the kernels divide text by: an automaton, or for GPT-2's pattern classes of characters."""
    if pattern == GPT2_PATTERN:
        nothing: Arguments = {"automaton": np.zeros(1, np.uint32), "start_rows": np.zeros(1, np.int32)}
        nothing |= dict.fromkeys(["groups_of_symbols", "safe_pairs", "safe_ascii"], np.zeros(1, np.uint8))
        return {**nothing, "end_symbol": 0, "classes": classes()}
    compiled = compile_pattern(pattern)
    assert compiled is not None
    return compiled.arguments


def window_arrays() -> Arguments:
    """Return the scratch memory in which a thread divides text, as arguments of the kernels."""
    return {
        "state": np.zeros(STATE, np.int64),
        "keys": np.zeros(4 * BATCH, np.uint64),
        **{name: np.zeros(WINDOW + PADDING, np.uint8) for name in ("window", "flags")},
        "masks": np.zeros((WINDOW // 64 + 2) * MASKS, np.uint64),
        **{name: np.zeros(WINDOW + PADDING, np.int32) for name in ("starts", "pieces")},
    }


def word_table(capacity: int) -> Arguments:
    """Return an empty hash table of words, as arguments of the kernels.

    Args:
        capacity: number of entries, a power of two; at most half of them are used.
    """
    arena_size = 4 * capacity + WINDOW + PADDING
    return {
        "table": np.zeros(ENTRY * capacity, np.uint64),
        "capacity": capacity,
        "arena": np.empty(arena_size + PADDING, np.uint8),
        "arena_size": arena_size,
    }


def whole_word_table(tokens: Mapping[bytes, int]) -> Arguments:
    """Return a hash table of tokens that whole pre-tokens become, with their ids; empty for no tokens.

    It is read by all threads.
    """
    if not tokens:
        nothing = np.zeros(ENTRY, np.uint64)
        return {"whole_table": nothing, "whole_capacity": 1, "whole_arena": np.zeros(1, np.uint8)}
    ends = np.cumsum([len(token) for token in tokens], dtype=np.int64)
    text = np.frombuffer(b"".join(tokens) + bytes(PADDING), np.uint8)
    words = word_table(1 << (2 * len(tokens)).bit_length())
    arena_size = len(text) + 16 * len(tokens)
    words |= {"arena": np.empty(arena_size + PADDING, np.uint8), "arena_size": arena_size}
    kernels().fill_whole_words(
        text=text,
        begins=np.concatenate([np.zeros(1, np.int64), ends[:-1]]),
        ends=ends,
        ids=np.fromiter(tokens.values(), np.int32, len(tokens)),
        number=len(tokens),
        state=np.zeros(STATE, np.int64),
        keys=np.zeros(4 * BATCH, np.uint64),
        **words,
    )
    return {f"whole_{name}": words[name] for name in ("table", "capacity", "arena")}


def extended(array: Array, size: int, used: int) -> Array:
    """Return an array of `size` elements whose first `used` are those of `array`; the rest is not written."""
    larger = np.empty(size, array.dtype)
    larger[:used] = array[:used]
    return larger


def grow_words(words: Arguments, num_words: int, arena_size: int, arena_used: int) -> None:
    """Enlarge a table of words in place, to `num_words` words and `arena_size` bytes of long ones."""
    arena, capacity = words["arena"], int(words["capacity"])
    assert isinstance(arena, np.ndarray)
    if arena_size > int(words["arena_size"]):
        arena_size = max(arena_size, 2 * int(words["arena_size"]))
        larger = extended(arena, arena_size + PADDING, arena_used)
        # In one step: Ctrl-C must not leave a size that the memory does not have.
        words.update(arena=larger, arena_size=arena_size)
    new_capacity = capacity
    while new_capacity < 2 * num_words:
        new_capacity *= 2
    if new_capacity > capacity:
        table = np.zeros(ENTRY * new_capacity, np.uint64)
        old = words["table"]
        kernels().rehash_words(old=old, old_capacity=capacity, table=table, capacity=new_capacity)
        words.update(table=table, capacity=new_capacity)
