"""Memory for the kernels: text as they read it, special tokens, and what a thread needs to look at text."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from itertools import takewhile

import numpy as np

from transformerlm.kernels.bpe_layout import BATCH, ENTRY, MASKS, PADDING, STATE, WINDOW
from transformerlm.tokenizer.kernel_library import Arguments, Array, classes, kernels
from transformerlm.tokenizer.pretokenize import utf8

_python = ctypes.pythonapi
_utf8_of_text, _memory_of_bytes = _python.PyUnicode_AsUTF8AndSize, _python.PyBytes_AsString
_utf8_of_text.argtypes, _utf8_of_text.restype = [ctypes.py_object, ctypes.c_void_p], ctypes.c_void_p
_memory_of_bytes.argtypes, _memory_of_bytes.restype = [ctypes.py_object], ctypes.c_void_p


def utf8_memory(text: str | bytes) -> tuple[int, int]:
    """The bytes of a text, UTF-8 where it is not bytes already: their address and their number.

    They live as long as the text. Python keeps ASCII text as UTF-8 anyway; other text keeps its UTF-8 from
    its first use on.

    Raises:
        DataError: for half a surrogate pair.
    """
    if isinstance(text, bytes):
        return _memory_of_bytes(text), len(text)
    if text.isascii():
        return _utf8_of_text(text, None), len(text)
    size = ctypes.c_ssize_t()
    try:
        return _utf8_of_text(text, ctypes.byref(size)), size.value
    except UnicodeEncodeError:
        utf8(text)  # says what is wrong
        raise


def special_arrays(special_token_ids: Mapping[str, int]) -> Arguments:
    """Special tokens as the kernels' parameters, longest first."""
    tokens = sorted(((utf8(token), token_id) for token, token_id in special_token_ids.items()), key=_longest)
    firsts = sorted({token[0] for token, _ in tokens})
    lengths = [len(token) for token, _ in tokens]
    return {
        "special_text": np.frombuffer(b"".join(token for token, _ in tokens) + b"\0", np.uint8),
        "special_bounds": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "special_ids": np.array([token_id for _, token_id in tokens] or [0], np.int32),
        "firsts": np.array(firsts or [0], np.uint8),
        "num_specials": len(tokens),
        "num_firsts": len(firsts),
        "num_shared": sum(1 for _ in takewhile(_is_one, zip(*(token for token, _ in tokens), strict=False))),
    }


def _is_one(column: tuple[int, ...]) -> bool:
    return len(set(column)) == 1


def _longest(item: tuple[bytes, int]) -> int:
    return -len(item[0])


def window_arrays() -> Arguments:
    """What a thread needs to look at a text, as the kernels' parameters."""
    return {
        "state": np.zeros(STATE, np.int64),
        "keys": np.zeros(4 * BATCH, np.uint64),
        "window": np.zeros(WINDOW + PADDING, np.uint8),
        "masks": np.zeros((WINDOW // 64 + 2) * MASKS, np.uint64),
        "starts": np.zeros(WINDOW + PADDING, np.int32),
        "classes": classes(),
    }


def word_table(capacity: int) -> Arguments:
    """An empty table of words, as the kernels' parameters.

    Args:
        capacity: entries, a power of two; half of them may be in use.
    """
    arena_size = 4 * capacity + WINDOW + PADDING
    return {
        "table": np.zeros(ENTRY * capacity, np.uint64),
        "capacity": capacity,
        "arena": np.empty(arena_size + PADDING, np.uint8),
        "arena_size": arena_size,
    }


def extended(array: Array, size: int, used: int) -> Array:
    """A larger array with the same beginning; the rest of it is not touched, and so no memory yet."""
    larger = np.empty(size, array.dtype)
    larger[:used] = array[:used]
    return larger


def grow_words(words: Arguments, num_words: int, arena_size: int, arena_used: int) -> None:
    """Make a table larger, so that it holds so many words, and so many bytes of long ones in all."""
    arena, capacity = words["arena"], int(words["capacity"])
    assert isinstance(arena, np.ndarray)
    if arena_size > int(words["arena_size"]):
        arena_size = max(arena_size, 2 * int(words["arena_size"]))
        larger = extended(arena, arena_size + PADDING, arena_used)
        # Both at once: Ctrl-C must not leave a size without its memory.
        words.update(arena=larger, arena_size=arena_size)
    new_capacity = capacity
    while new_capacity < 2 * num_words:
        new_capacity *= 2
    if new_capacity > capacity:
        table = np.zeros(ENTRY * new_capacity, np.uint64)
        old = words["table"]
        kernels().move_words(old=old, old_capacity=capacity, table=table, capacity=new_capacity)
        words.update(table=table, capacity=new_capacity)
