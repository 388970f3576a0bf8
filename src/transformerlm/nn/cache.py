"""Key-value cache: keys and values of the tokens that a model has seen, each computed once.

The generating code creates a cache and passes it to the model with every call; the model has no state.
Memory is allocated once, for the longest text. It is for inference: no gradient flows through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from transformerlm.config import ModelConfig


class LayerCache(NamedTuple):
    """One layer's part of a cache, while `num_tokens` new tokens of every row pass through the layer."""

    keys: Tensor
    """[batch, num_kv_heads, capacity, d_head]"""
    values: Tensor
    """[batch, num_kv_heads, capacity, d_head]"""
    slots: tuple[slice | Tensor, ...]
    """Index of the first three dimensions of `keys`, at which the new tokens are stored."""
    length: int
    """Keys of the longest row, the new tokens included."""
    positions: Tensor
    """Positions of the new tokens: [num_tokens], or [batch, 1, num_tokens] where rows differ."""
    mask: Tensor | None
    """[batch, 1, num_tokens, length], True = attend; None if the plain causal mask applies."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new tokens' [batch, num_kv_heads, num_tokens, d_head]; return all keys and values so far."""
        self.keys[self.slots] = keys.detach().to(self.keys.dtype)
        self.values[self.slots] = values.detach().to(self.values.dtype)
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class KVCache:
    """Keys and values of all layers, for a batch of rows that may differ in length.

    The model writes the tokens of a call behind each row's own end, attends to nothing else, and calls
    `advance`. Rows of different lengths start as one right-padded batch:

        hidden = model.hidden_states(padded_ids, cache)   # stores the padding too
        cache.set_lengths(lengths)                        # discards the padding
        model(next_ids, cache)                            # [batch, 1]: each row at its own position

    While all rows have one length, as in a batch of one, writing and masking use slices, no indices.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_kv_heads: int,
        capacity: int,
        d_head: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        # Zeros, not uninitialised memory: a masked NaN would still spoil the row, since 0 * NaN is NaN.
        shape = (num_layers, batch_size, num_kv_heads, capacity, d_head)
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros(shape, device=device, dtype=dtype)
        # Lengths are kept on the host too: shapes depend on them, and no step should wait for the device.
        self._host_lengths: list[int] = []
        self._lengths = torch.zeros(0, dtype=torch.long, device=device)
        self.reset()

    @classmethod
    def for_model(
        cls,
        config: ModelConfig,
        batch_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        capacity: int | None = None,
    ) -> KVCache:
        """A cache that fits a model: `capacity` tokens a row, the model's whole context by default."""
        tokens = config.context_length if capacity is None else capacity
        return cls(config.num_layers, batch_size, config.kv_heads, tokens, config.head_dim, device, dtype)

    @property
    def capacity(self) -> int:
        """Tokens that a row can hold."""
        return self._keys.shape[3]

    @property
    def batch_size(self) -> int:
        """Rows in use."""
        return len(self._host_lengths)

    @property
    def max_length(self) -> int:
        """Tokens in the longest row; known on the host, without waiting for the device."""
        return max(self._host_lengths, default=0)

    @property
    def row_lengths(self) -> Sequence[int]:
        """Tokens in each row; known on the host, without waiting for the device."""
        return self._host_lengths

    @property
    def lengths(self) -> Tensor:
        """Tokens in each row: LongTensor [batch] on the cache's device."""
        return self._lengths

    @property
    def memory(self) -> tuple[Tensor, Tensor]:
        """All keys and all values, also of unused rows: [num_layers, rows, num_kv_heads, capacity,
        d_head]."""
        return self._keys, self._values

    def layers(self, num_tokens: int) -> list[LayerCache]:
        """Return each layer's part of the cache for `num_tokens` more tokens of every row.

        Raises:
            ValueError: where they do not fit.
        """
        self.require_room(num_tokens)
        slots, positions, mask = self._slots(num_tokens)
        rows, end = self.batch_size, self.max_length + num_tokens
        return [
            LayerCache(keys[:rows], values[:rows], slots, end, positions, mask)
            for keys, values in zip(self._keys, self._values, strict=True)
        ]

    def require_room(self, num_tokens: int) -> None:
        """Raise ValueError if `num_tokens` more tokens do not fit."""
        if (end := self.max_length + num_tokens) > self.capacity:
            raise ValueError(
                f"expected at most {self.capacity} tokens a row (the cache's capacity), got {end}"
            )

    def advance(self, num_tokens: int) -> None:
        """Count `num_tokens` more tokens in every row. The model calls it once all layers have stored
        them."""
        self._host_lengths = [length + num_tokens for length in self._host_lengths]
        self._lengths = self._lengths + num_tokens

    def set_lengths(self, lengths: Sequence[int] | Tensor) -> None:
        """Keep the first `lengths[row]` tokens of each row and forget the others.

        Pass a list rather than a tensor on a GPU, for which the host would wait.

        Raises:
            ValueError: where a row has fewer tokens than that.
        """
        wanted = _as_list(lengths)
        if len(wanted) != self.batch_size or any(
            not 0 <= new <= old for new, old in zip(wanted, self._host_lengths, strict=True)
        ):
            raise ValueError(f"lengths: expected at most {self._host_lengths}, got {wanted}")
        self._set_lengths(wanted)

    def replace_lengths(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Declare that rows hold `lengths` tokens, which were stored in `memory` from outside.

        Rows that are not in use have no length; they stay out of use.
        """
        changed = dict(zip(rows, lengths, strict=True))
        self._set_lengths([changed.get(row, length) for row, length in enumerate(self._host_lengths)])

    def grow(self, capacity: int, num_rows: int = 0) -> None:
        """Enlarge the cache to `capacity` tokens a row, and its memory to `num_rows` rows (0: those it has).

        `memory` moves, and `lengths` stay: new rows are not in use.
        """
        for name in ("_keys", "_values"):
            old = getattr(self, name)
            layers, rows, heads, tokens, d_head = old.shape
            shape = layers, num_rows or rows, heads, capacity, d_head
            new = torch.zeros(shape, device=old.device, dtype=old.dtype)
            new[:, :rows, :, :tokens] = old
            setattr(self, name, new)

    def put(self, rows: Sequence[int], other: KVCache, other_rows: Sequence[int]) -> None:
        """Replace some rows by those of another cache, which may be smaller; one may go to several rows.

        Raises:
            ValueError: where one does not fit.
        """
        if other.max_length > self.capacity:
            raise ValueError(f"expected at most {self.capacity} tokens a row, got {other.max_length}")
        to, of = (self._indices(some) for some in (rows, other_rows))
        used = slice(0, other.max_length)
        for own, others in ((self._keys, other._keys), (self._values, other._values)):
            own[:, to, :, used] = others[:, of, :, used].to(own.dtype)
        self.replace_lengths(rows, [other._host_lengths[other_row] for other_row in other_rows])

    def copy(self, row: int, to: int, num_tokens: int) -> None:
        """Copy the first tokens of a row of `memory` to another, whether they are in use or not."""
        for stored in (self._keys, self._values):
            stored[:, to, :, :num_tokens] = stored[:, row, :, :num_tokens]

    def swap(self, row: int, other: int, num_tokens: int) -> None:
        """Exchange the first tokens of two rows in use, and their lengths."""
        pair, swapped = self._indices((row, other)), self._indices((other, row))
        for stored in (self._keys, self._values):
            stored[:, pair, :, :num_tokens] = stored[:, swapped, :, :num_tokens]
        lengths = self._host_lengths
        self.replace_lengths((row, other), (lengths[other], lengths[row]))

    def take_rows(self, lengths: Sequence[int]) -> None:
        """Take the next rows of `memory` into use; they hold `lengths` tokens, stored from outside."""
        assert self.batch_size + len(lengths) <= self._keys.shape[1]
        self._set_lengths([*self._host_lengths, *lengths])

    def row(self, row: int, length: int) -> KVCache:
        """Return a cache of one row that shares its memory with a row of this one, for `length` tokens."""
        view = object.__new__(KVCache)
        view._keys, view._values = (stored[:, row : row + 1] for stored in (self._keys, self._values))
        view._set_lengths([length])
        return view

    def select(self, rows: Sequence[int] | Tensor) -> None:
        """Keep these rows, in this order (finished texts are dropped); their memory stays with the cache.

        Pass a list rather than a tensor on a GPU, for which the host would wait.
        """
        kept = _as_list(rows)
        assert len(kept) <= self._keys.shape[1], "a cache cannot hold more rows than it was made for"
        moved = [(new, old) for new, old in enumerate(kept) if new != old]
        if moved:
            new, old = (self._indices(some) for some in zip(*moved, strict=True))
            used = slice(0, self.max_length)
            for stored in (self._keys, self._values):
                stored[:, new, :, used] = stored[:, old, :, used]
        self._set_lengths([self._host_lengths[row] for row in kept])

    def reset(self) -> None:
        """Forget everything; all rows that the cache was made for are in use again."""
        self._set_lengths([0] * self._keys.shape[1])

    def _slots(self, num_tokens: int) -> tuple[tuple[slice | Tensor, ...], Tensor, Tensor | None]:
        """`slots`, `positions` and `mask` of the next tokens, as LayerCache has them."""
        device, start, end = self._keys.device, self.max_length, self.max_length + num_tokens
        if len(set(self._host_lengths)) <= 1:
            everywhere = slice(None)
            return (everywhere, everywhere, slice(start, end)), token_positions(start, end, device), None
        positions = self._lengths[:, None, None] + token_positions(0, num_tokens, device)
        rows = token_positions(0, self.batch_size, device)[:, None, None]
        heads = token_positions(0, self._keys.shape[2], device)[:, None]
        mask = token_positions(0, end, device) <= positions.unsqueeze(-1)
        return (rows, heads, positions), positions, mask

    def _set_lengths(self, lengths: list[int]) -> None:
        self._host_lengths = lengths
        self._lengths = self._indices(lengths)

    def _indices(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.long, device=self._keys.device)


def token_positions(start: int, end: int, device: torch.device | str = "cpu") -> Tensor:
    """Positions from `start` to before `end`: LongTensor [end - start]."""
    return torch.arange(start, end, dtype=torch.long, device=device)


def _as_list(values: Sequence[int] | Tensor) -> list[int]:
    return [int(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]
