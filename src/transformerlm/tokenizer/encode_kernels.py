"""Encoding and decoding on compiled kernels. `encode.py` is the readable equivalent."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from transformerlm.config import GPT2_PATTERN
from transformerlm.kernels.bpe_layout import (
    ARENA_BYTES,
    BEGIN,
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
from transformerlm.parallel import in_groups
from transformerlm.tokenizer.bpe import Vocab
from transformerlm.tokenizer.encode import whole_word_ids
from transformerlm.tokenizer.form import MissingBytes
from transformerlm.tokenizer.kernel_library import Arguments, Array, kernels
from transformerlm.tokenizer.kernel_memory import (
    extended,
    grow_words,
    pattern_arrays,
    special_arrays,
    utf8_buffer,
    whole_word_table,
    window_arrays,
    word_table,
)
from transformerlm.tokenizer.pretokenize import Pretokenizer
from transformerlm.tokenizer.reachable import MergeIds
from transformerlm.tokenizer.splits import Pattern
from transformerlm.tokenizer.vocabulary import Ids, byte_ids, id_dtype, unknown_id_error

_FIRST_CAPACITY, _MAX_WORDS = 1 << 14, 1 << 20
"""Smallest and largest capacity of a thread's cache of words, in entries: 0.5 MB to 32 MB."""
_JOINED_IDS = 1 << 18
"""Ids of rows that are decoded together: threads that return to Python for each row wait for each other."""
_SHORT = 1 << 19  # bytes; ids of shorter texts are written to a reused buffer and copied


class KernelEncoder:
    """Encoder and decoder on compiled kernels. Threads may share one: each call has a workspace of its own.

    Args:
        vocab: id -> token.
        id_of: token -> id.
        merges: their ids, in the order in which they were learned.
        special_token_ids: special token -> id.
        dtype: of the arrays that `encode` returns, uint16 or uint32.
        pattern: `patterns.compile_pattern` has an automaton for it.
        whole_words: see `Tokenizer`.
        missing: bytes that are no tokens; they are not fused.
    """

    def __init__(
        self,
        vocab: Vocab,
        id_of: Mapping[bytes, int],
        merges: MergeIds,
        special_token_ids: Mapping[str, int],
        dtype: np.dtype[np.unsignedinteger[Any]],
        pattern: Pattern = GPT2_PATTERN,
        *,
        whole_words: bool = False,
        missing: MissingBytes | None = None,
    ) -> None:
        self.dtype, self.special_token_ids = dtype, special_token_ids
        self._lengths = np.array([len(vocab[token_id]) for token_id in range(len(vocab))], np.int32)
        own_ids = np.array(byte_ids(id_of, missing), np.int32)
        self._unknown = id_of[missing.unk_token.encode()] if missing and missing.unk_token else None
        if self._unknown is not None:  # an id of its own, whose length is that of a byte
            own_ids[own_ids < 0] = len(vocab)
            dtype = id_dtype(len(vocab) + 1)
        self._rules: Arguments = {
            **_pair_table(merges),
            "byte_ids": own_ids,
            "lengths": np.append(self._lengths, np.int32(1)),
            **pattern_arrays(pattern),
            **whole_word_table(whole_word_ids(id_of, merges.made, special_token_ids) if whole_words else {}),
            "is_wide": int(dtype.itemsize == 4),
        }
        self._own_dtype = dtype
        self._text = np.frombuffer(b"".join(map(vocab.__getitem__, range(len(vocab)))) + bytes(16), np.uint8)
        begins = np.cumsum(self._lengths, dtype=np.uint64) - self._lengths.astype(np.uint64)
        self._spans = begins << np.uint64(32) | self._lengths.astype(np.uint64)
        self._specials: dict[tuple[str, ...], Arguments] = {}
        self._idle: deque[_Workspace] = deque()

    def encode(self, text: str | bytes, pretokenizer: Pretokenizer) -> Ids:
        """Return the ids of a text, or of any bytes; `[num_ids]`.

        Raises:
            DataError: an unpaired surrogate in a text.
        """
        return self.encode_all([text], pretokenizer)[0]

    def encode_all(self, texts: Sequence[str | bytes], pretokenizer: Pretokenizer) -> list[Ids]:
        """Return the ids of each text; errors as in `encode`."""
        specials = self._specials.get(pretokenizer.special_tokens)
        if specials is None:
            ids = {token: self.special_token_ids[token] for token in pretokenizer.special_tokens}
            specials = self._specials[pretokenizer.special_tokens] = special_arrays(ids)
        try:
            workspace = self._idle.pop()  # the last one used, whose memory is in the processor's caches
        except IndexError:
            workspace = _Workspace(self._rules, self._own_dtype)
        try:
            found = [workspace.encode(text, specials) for text in texts]
        finally:
            self._idle.append(workspace)
        if self._unknown is None:
            return found
        for row in found:
            row[row == len(self._lengths)] = self._unknown
        return [row.astype(self.dtype, copy=False) for row in found]

    def decode_all(self, rows: Sequence[Ids]) -> list[memoryview]:
        """Return the concatenated bytes of the tokens of each row; dtypes and errors as in `decode_bytes`."""
        found: list[memoryview] = []
        for group in in_groups(rows, _JOINED_IDS, len):
            ids = np.concatenate(group) if len(group) > 1 else group[0]  # a long one is not copied
            content, ends = self._decoded(ids, np.cumsum([*map(len, group)]))
            found += [content[start:end] for start, end in pairwise([0, *ends.tolist()])]
        return found

    def decode_bytes(self, ids: Ids) -> memoryview:
        """Return the concatenated bytes of the tokens of `ids`, an array of any integer dtype.

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        return self._decoded(ids, np.array([len(ids)]))[0]

    def _decoded(self, ids: Ids, row_ends: Array) -> tuple[memoryview, Array]:
        """Return the bytes of rows of ids, and where each ends in them."""
        if ids.dtype not in (np.uint16, np.uint32):
            wrong = ids[(ids < 0) | (ids >= len(self._spans))]
            if wrong.size:
                raise unknown_id_error(int(wrong[0]), len(self._spans))
            ids = ids.astype(np.uint32)
        ids = np.ascontiguousarray(ids)
        address, is_wide = ids.ctypes.data, int(ids.dtype == np.uint32)
        both: Arguments = {"ids16": address, "ids32": address, "is_wide": is_wide, "spans": self._spans}
        size = kernels().decoded_size(**both, number=len(ids), num_tokens=len(self._spans))
        if size < 0:
            raise unknown_id_error(int(ids[-1 - size]), len(self._spans))
        out, byte_ends = np.empty(size + PADDING, np.uint8), np.empty(len(row_ends), np.int64)
        rows: Arguments = {"row_ends": row_ends.astype(np.int64), "num_rows": len(row_ends)}
        kernels().decode(**both, **rows, text=self._text, out=out, byte_ends=byte_ends)
        return out[:size].data.cast("B"), byte_ends


class _Workspace:
    """Memory of one encoding thread: cache of words, scratch, and the frame of the kernel's arguments."""

    def __init__(self, rules: Arguments, dtype: np.dtype[np.unsignedinteger[Any]]) -> None:
        self._kernel, self._dtype = kernels().encode, dtype
        self._places = self._kernel.places("text", "stop", "out16", "out32")
        self._fixed = {**window_arrays(), **rules, "links": np.empty(2 * SHORT_MERGE, np.int32)}
        self._state: Array = self._fixed["state"]  # type: ignore[assignment]
        self._numbers = self._state.data  # a memoryview: its items are Python integers
        self._words = word_table(_FIRST_CAPACITY)
        self._spill = np.empty(2 * _FIRST_CAPACITY + WINDOW, np.int32)
        self._short = np.empty(_SHORT + PADDING, dtype)
        self._short_address = self._short.ctypes.data
        self._scratch(WINDOW + PADDING)

    def encode(self, text: str | bytes, specials: Arguments) -> Ids:
        """Return the ids of a text or of bytes."""
        address, num_bytes = utf8_buffer(text)
        if num_bytes <= _SHORT:
            number = self._run(address, num_bytes, self._short_address, specials)
            return self._short[:number].copy()
        ids = np.empty(num_bytes + PADDING, self._dtype)
        number = self._run(address, num_bytes, ids.ctypes.data, specials)
        # In place: pages behind the ids have never been written, so the system has not provided them.
        ids.resize(number, refcheck=False)
        return ids

    def _run(self, address: int, num_bytes: int, out: int, specials: Arguments) -> int:
        state = self._numbers
        state[POSITION] = state[OUTPUT] = state[BEGIN] = 0
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
        """Quadruple the cache of words, or empty it if it has its largest size."""
        self._bound = None
        state, capacity = self._numbers, int(self._words["capacity"])
        if capacity >= _MAX_WORDS:
            self._words["table"][:] = 0  # type: ignore[index]
            state[NUM_WORDS] = state[ARENA_BYTES] = state[WORD_BYTES] = state[SPILLED] = 0
            return
        grow_words(self._words, 2 * capacity, 4 * int(self._words["arena_size"]), state[ARENA_BYTES])
        self._spill = extended(self._spill, 4 * len(self._spill), state[SPILLED])

    def _scratch(self, size: int) -> None:
        """Allocate scratch memory for pre-tokens of up to `size` bytes."""
        self._bound = None
        # The heap first: `len(self._ids)` is the size, and Ctrl-C must not leave it with a smaller heap.
        self._heap = np.empty(2 * size, np.uint64)
        self._ids = np.empty(size, np.int32)


def _pair_table(merges: MergeIds) -> Arguments:
    """Return the merges as a hash table, pair -> rank and result, for the kernels."""
    number = len(merges.result)
    left, right = merges.left.astype(np.uint64), merges.right.astype(np.uint64)
    capacity = 1 << max(4, (2 * number).bit_length())
    pairs = np.full(capacity, NONE, np.uint64)
    kernels().fill_pair_table(
        keys=left << np.uint64(ID_BITS) | right,
        number=number,
        pairs=pairs,
        pairs_capacity=capacity,
    )
    return {"pairs": pairs, "pairs_capacity": capacity, "results": merges.result.astype(np.int32)}
