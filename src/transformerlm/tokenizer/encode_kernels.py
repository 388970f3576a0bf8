"""Encoding and decoding on the kernels; `encode.py` does the same for any pattern, in plain Python."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from transformerlm.kernels.bpe_layout import (
    ARENA_BYTES,
    DONE,
    FULL,
    ID_BITS,
    NEEDED,
    NONE,
    NUM_WORDS,
    OUTPUT,
    PADDING,
    POSITION,
    SHORT_MERGE,
    SPILLED,
    TOO_LONG,
    WINDOW,
    WORD_BYTES,
)
from transformerlm.tokenizer.bpe import NUM_BYTES, Merges, Vocab
from transformerlm.tokenizer.kernel_library import Arguments, Array, kernels
from transformerlm.tokenizer.kernel_memory import (
    extended,
    grow_words,
    special_arrays,
    utf8_memory,
    window_arrays,
    word_table,
)
from transformerlm.tokenizer.pretokenize import Pretokenizer
from transformerlm.tokenizer.vocabulary import Ids, no_such_id

_FIRST_CAPACITY, _MAX_WORDS = 1 << 14, 1 << 20
"""Entries of the table in which a thread remembers words: from 0.5 MB to 32 MB."""
_SHORT = 1 << 19  # bytes of text whose ids go through a buffer that is there already


class FastEncoder:
    """Text to ids and back; may be used by many threads at once, each with its own memory.

    Args:
        vocab: id -> token.
        id_of: token -> id.
        merges: in the order in which they were learned, and as `vocabulary.are_in_order` wants them.
        special_token_ids: special token -> id.
    """

    def __init__(
        self,
        vocab: Vocab,
        id_of: Mapping[bytes, int],
        merges: Merges,
        special_token_ids: Mapping[str, int],
        dtype: np.dtype[np.unsignedinteger[Any]],
    ) -> None:
        self.dtype, self.special_token_ids = dtype, special_token_ids
        self._lengths = np.array([len(vocab[token_id]) for token_id in range(len(vocab))], np.int32)
        self._rules: Arguments = {
            **_pair_table(merges, id_of),
            "byte_ids": np.array([id_of[bytes([byte])] for byte in range(NUM_BYTES)], np.int32),
            "lengths": self._lengths,
            "is_wide": int(dtype.itemsize == 4),
        }
        self._text = np.frombuffer(b"".join(map(vocab.__getitem__, range(len(vocab)))) + bytes(16), np.uint8)
        begins = np.cumsum(self._lengths, dtype=np.uint64) - self._lengths.astype(np.uint64)
        self._spans = begins << np.uint64(32) | self._lengths.astype(np.uint64)
        self._specials: dict[tuple[str, ...], Arguments] = {}
        self._idle: deque[_Workspace] = deque()

    def encode(self, text: str | bytes, pretokenizer: Pretokenizer) -> Ids:
        """The ids of a text, or of any bytes."""
        specials = self._specials.get(pretokenizer.special_tokens)
        if specials is None:
            ids = {token: self.special_token_ids[token] for token in pretokenizer.special_tokens}
            specials = self._specials[pretokenizer.special_tokens] = special_arrays(ids)
        try:
            workspace = self._idle.pop()  # the one whose memory is warm
        except IndexError:
            workspace = _Workspace(self._rules, self.dtype)
        try:
            return workspace.encode(text, specials)
        finally:
            self._idle.append(workspace)

    def decode_bytes(self, ids: Ids) -> memoryview:
        """The bytes of some ids, an array of any kind of integers.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        return self._decoded(ids).data.cast("B")

    def _decoded(self, ids: Ids) -> Array:
        if ids.dtype not in (np.uint16, np.uint32):
            wrong = ids[(ids < 0) | (ids >= len(self._spans))]
            if wrong.size:
                raise no_such_id(int(wrong[0]), len(self._spans))
            ids = ids.astype(np.uint32)
        ids = np.ascontiguousarray(ids)
        address, is_wide = ids.ctypes.data, int(ids.dtype == np.uint32)
        both: Arguments = {"ids16": address, "ids32": address, "is_wide": is_wide, "number": len(ids)}
        both |= {"spans": self._spans}
        size = kernels().measure(**both, num_tokens=len(self._spans))
        if size < 0:
            raise no_such_id(int(ids[-1 - size]), len(self._spans))
        out = np.empty(size + PADDING, np.uint8)
        kernels().decode(**both, text=self._text, out=out)
        return out[:size]


class _Workspace:
    """One thread's memory: the words that it has seen, and scratch."""

    def __init__(self, rules: Arguments, dtype: np.dtype[np.unsignedinteger[Any]]) -> None:
        self._kernel, self._dtype = kernels().encode, dtype
        self._places = self._kernel.places("text", "stop", "out16", "out32")
        self._fixed = {**window_arrays(), **rules, "links": np.empty(2 * SHORT_MERGE, np.int32)}
        self._state: Array = self._fixed["state"]  # type: ignore[assignment]
        self._numbers = self._state.data  # gives Python's own numbers, and more quickly
        self._words = word_table(_FIRST_CAPACITY)
        self._spill = np.empty(2 * _FIRST_CAPACITY + WINDOW, np.int32)
        self._short = np.empty(_SHORT + PADDING, dtype)
        self._short_address = self._short.ctypes.data
        self._scratch(WINDOW + PADDING)

    def encode(self, text: str | bytes, specials: Arguments) -> Ids:
        """The ids of a text."""
        address, num_bytes = utf8_memory(text)
        if num_bytes <= _SHORT:
            number = self._run(address, num_bytes, self._short_address, specials)
            return self._short[:number].copy()
        ids = np.empty(num_bytes + PADDING, self._dtype)
        number = self._run(address, num_bytes, ids.ctypes.data, specials)
        # In place: the end of it has never been touched, so it was never memory.
        ids.resize(number, refcheck=False)
        return ids

    def _run(self, address: int, num_bytes: int, out: int, specials: Arguments) -> int:
        state = self._numbers
        state[POSITION] = state[OUTPUT] = 0
        status = None
        while status != DONE:
            if status == FULL:
                self._make_room()
            elif status == TOO_LONG:
                self._scratch(state[NEEDED])
            if self._bound is not specials:
                self._bind(specials)
            frame, places = self._frame, self._places
            frame[places[0]], frame[places[1]], frame[places[2]], frame[places[3]] = (
                address,
                num_bytes,
                out,
                out,
            )
            status = self._kernel.run(self._frame_address)
        return state[OUTPUT]

    def _bind(self, specials: Arguments) -> None:
        scratch: Arguments = {"ids": self._ids, "heap": self._heap, "scratch_size": len(self._ids)}
        scratch |= {"spill": self._spill, "spill_size": len(self._spill)}
        frame = self._kernel.frame(**self._fixed, **self._words, **scratch, **specials)
        self._frame, self._frame_address = frame.data, frame.ctypes.data
        self._bound: Arguments | None = specials

    def _make_room(self) -> None:
        """Room for four times as many words; where there are as many as may be, all are forgotten."""
        self._bound = None
        state, capacity = self._numbers, int(self._words["capacity"])
        if capacity >= _MAX_WORDS:
            self._words["table"][:] = 0  # type: ignore[index]
            state[NUM_WORDS] = state[ARENA_BYTES] = state[WORD_BYTES] = state[SPILLED] = 0
            return
        grow_words(self._words, 2 * capacity, 4 * int(self._words["arena_size"]), state[ARENA_BYTES])
        self._spill = extended(self._spill, 4 * len(self._spill), state[SPILLED])

    def _scratch(self, size: int) -> None:
        """Memory for pre-tokens of so many bytes."""
        self._bound = None
        # In this order: Ctrl-C must not leave ids, whose number is the size, with too small a heap.
        self._heap = np.empty(2 * size, np.uint64)
        self._ids = np.empty(size, np.int32)


def _pair_table(merges: Merges, id_of: Mapping[bytes, int]) -> Arguments:
    """The merges as a hash table, pair -> rank and result."""
    number = len(merges)
    left, right, merged = (
        np.fromiter(map(id_of.__getitem__, tokens), np.uint64, number)
        for tokens in ([left for left, _ in merges], [right for _, right in merges], map(b"".join, merges))
    )
    capacity = 1 << max(4, (2 * number).bit_length())
    pairs = np.full(capacity, NONE, np.uint64)
    kernels().enter_rules(
        keys=left << np.uint64(ID_BITS) | right,
        number=number,
        pairs=pairs,
        pairs_capacity=capacity,
    )
    return {"pairs": pairs, "pairs_capacity": capacity, "results": merged.astype(np.int32)}
