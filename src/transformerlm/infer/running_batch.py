"""A batch that texts join and leave at every step, in the rows of one key-value cache.

Rows 0 to n - 1 of the cache's memory are in use, by the n texts that are being written. The other rows keep
what they hold for as long as they can: a text that begins as another one does, running or ended, gets the
keys and values of that beginning by copying.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transformerlm.infer.batch import ROOM, Batch, CachedBatch, window_start
from transformerlm.infer.decoder import Piece
from transformerlm.infer.static_decoder import decoder_for
from transformerlm.nn import KVCache, TransformerLM

ROWS = 8
"""Texts for which there is memory at first; it grows with their number."""
MIN_SHARED = 8
"""Tokens of a beginning for which it is worth to wait a step until another prompt with it has been read."""


@dataclass
class Reading:
    """A prompt on its way into the cache's memory."""

    ids: list[int]
    window: list[int]
    """The ids in the model's context."""
    num_read: int
    """Tokens of the window that its row holds."""


class RunningBatch(CachedBatch):
    """A `CachedBatch` that texts may join.

    A prompt is read beside the steps of the other texts, some tokens of it at a time, so that they do not
    wait for a long one. With the CPU kernels a text's logits are those of the text alone to the last bit,
    otherwise except for rounding. In every step: `select`, `append`, `read_on`, `begin` for each text that
    joins, and `next_logits`.

    Args:
        num_rows: largest number of texts.
    """

    def __init__(self, model: TransformerLM, num_rows: int) -> None:
        Batch.__init__(self, model, [])
        self.num_rows = num_rows
        capacity = min(model.config.context_length, ROOM)
        # One row more than texts, the last: for a prompt of which only a part has been read.
        rows = min(ROWS, num_rows) + 1
        self.cache = KVCache.for_model(model.config, rows, self.device, self._cache_dtype(), capacity)
        self.cache.select([])
        self.decoder = decoder_for(model, self.cache)
        self.new_ids = torch.empty(0, dtype=torch.long, device=self.device)
        self.num_shared = 0
        """Tokens of prompts that were copied from another row, and not computed."""
        self._held: list[list[int]] = [[] for _ in range(rows)]
        """The ids whose keys and values each row holds that is not in use."""
        self._freed: list[int] = [*range(rows)]
        """All rows; those that were freed last are the last ones."""
        self._whole: list[Reading] = []
        """Prompts that will have been read after this step: in the rows behind those in use."""
        self._partial: Reading | None = None
        self._pieces: list[Piece] = []
        self._budget = self.decoder.tokens_per_step

    @property
    def can_begin(self) -> bool:
        """True if another text may join in this step."""
        return self._budget > 0 and self._partial is None and self._next_row < self.num_rows

    @property
    def _next_row(self) -> int:
        """The row of the next text that joins."""
        return len(self.ids) + len(self._whole)

    @property
    def _last_row(self) -> int:
        """The row for a prompt of which a part has been read."""
        return len(self._held) - 1

    def begin(self, ids: Sequence[int]) -> bool:
        """Begin to read a prompt in this step; the text joins as soon as it has been read.

        Returns:
            False if this step reads the beginning of the prompt for another text: try again in the next one.
        """
        reading = Reading([*ids], self._window([*ids]), 0)
        source, num_shared = self._longest_beginning(reading.window)
        if any(common(one.window, reading.window) >= num_shared + MIN_SHARED for one in self._whole):
            return False
        self._make_room_for(len(reading.window))
        self._make_rows()
        self.num_shared += num_shared
        self._read_on(reading, source, num_shared)
        return True

    def cancel_reading(self) -> None:
        """Forget the text whose prompt has been read in part."""
        assert self._partial is not None
        self._keep(self._last_row, self._partial.window[: self._partial.num_read])
        self._partial = None

    def next_logits(self) -> Tensor:
        """Return the next token's logits of each text, those that join now last: [texts, vocabulary].

        The next call may overwrite them.
        """
        self._make_room()
        assert self.new_ids is not None
        if not self._pieces:
            return self.decoder(self.new_ids)
        logits = self.decoder.extend(self.new_ids, self._pieces)
        self.ids += [reading.ids for reading in self._whole]
        self.cache.take_rows([len(reading.window) for reading in self._whole])
        self._pieces, self._whole = [], []
        return logits[: len(self.ids)]

    def append(self, new_ids: Tensor, host_ids: Sequence[int]) -> None:
        """Append its new id to each text."""
        super().append(new_ids, host_ids)
        self._move_windows()

    def read_on(self) -> None:
        """Begin a step: go on with the prompt that has been read in part."""
        self._budget = self.decoder.tokens_per_step
        if self._partial is not None:
            reading, self._partial = self._partial, None
            self._read_on(reading, self._last_row, reading.num_read)

    def select(self, texts: Sequence[int]) -> None:
        """Keep these texts, in this order; rows move only into the places of those that leave."""
        if len(texts) == len(self.ids):
            return
        held = [self._held_by(row) for row in range(len(self.ids))]
        for new, old in enumerate(texts):
            if new != old:
                assert old >= len(texts)
                self.cache.swap(new, old, max(len(held[new]), len(held[old])))
                held[new], held[old] = held[old], held[new]
        for row in range(len(texts), len(self.ids)):
            self._keep(row, held[row])
        Batch.select(self, texts)
        self.cache.select(range(len(texts)))

    def _read_on(self, reading: Reading, source: int, num_copied: int) -> None:
        """Plan to read as much as fits this step, behind `num_copied` tokens that row `source` holds."""
        left = len(reading.window) - num_copied
        row = self._next_row if left <= self._budget else self._last_row
        self._vacate(row, source, num_copied)
        if num_copied and row != source:
            self.cache.copy(source, row, num_copied)
        end = num_copied + min(left, self._budget)
        self._pieces.append(Piece(row, num_copied, reading.window[num_copied:end]))
        self._budget -= end - num_copied
        reading.num_read = end
        if end < len(reading.window):
            self._partial = reading
        else:
            self._whole.append(reading)

    def _longest_beginning(self, window: list[int]) -> tuple[int, int]:
        """Return the row that holds the longest beginning of a window, and its length.

        At least one token is left to be computed, since the logits after it are needed.
        """
        source = longest = 0
        for row in range(len(self._held)):
            held = self._held_by(row)
            if held[: longest + 1] == window[: longest + 1]:  # no other row has a longer one
                number = common(held, window)
                if number > longest:
                    source, longest = row, number
        return source, min(longest, len(window) - 1)

    def _held_by(self, row: int) -> list[int]:
        """Return the ids whose keys and values a row holds."""
        if row >= len(self.ids):
            return self._held[row]
        start = window_start(len(self.ids[row]), self.model.config.context_length)
        return self.ids[row][start : start + self.cache.row_lengths[row]]

    def _keep(self, row: int, ids: list[int]) -> None:
        """Note what a row holds that is in use no more."""
        self._held[row] = ids
        self._freed.remove(row)
        self._freed.append(row)

    def _vacate(self, row: int, source: int, num_copied: int) -> None:
        """Copy what a free row holds to the row that has been free for longest, unless all of it goes on."""
        next_row = self._next_row
        oldest = next((one for one in self._freed if one >= next_row and one != source), row)
        is_kept = len(self._held[row]) > (num_copied if row == source else 0)
        if is_kept and oldest != row:
            self.cache.copy(row, oldest, len(self._held[row]))
            self._held[oldest] = self._held[row]
            at, to = self._freed.index(row), self._freed.index(oldest)
            self._freed[at], self._freed[to] = oldest, row
        self._held[row] = []

    def _make_rows(self) -> None:
        """Enlarge a cache that has no row for another text. Its last row holds no part of a prompt now."""
        if self._next_row < self._last_row:
            return
        before, rows = len(self._held), min(self.num_rows, 2 * self._last_row) + 1
        self.cache.grow(self.cache.capacity, rows)
        self.decoder = decoder_for(self.model, self.cache)
        self._held += [[] for _ in range(before, rows)]
        self._freed = [*range(before, rows), *self._freed]

    def _make_room_for(self, length: int) -> None:
        """Enlarge a cache whose rows cannot hold `length` tokens."""
        capacity = self.cache.capacity
        if length > capacity:
            self._grow(max(length, 2 * capacity))


def common(ids: list[int], others: list[int]) -> int:
    """Return the length of the longest common beginning, by bisection: comparing slices is fast."""
    low, high = 0, min(len(ids), len(others))
    if not high or ids[0] != others[0]:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if ids[low:middle] == others[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
