"""Rotary position embedding: attention depends on the distance between two positions only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from transformerlm.nn.functional import at_least_float32
from transformerlm.nn.rope_scaling import RopeScaling, base_frequencies


class RotaryPositionEmbedding(nn.Module):
    """Turn each pair (x_2i, x_2i+1) of a vector at position p by the angle p * theta^(-2i / d_k).

    A rotation keeps lengths, and the product of a query at m with a key at n depends on m - n alone.
    Slowly rotating pairs (large i) resolve long distances, fast ones short distances. Neighbouring components
    form a pair; Hugging Face's Llama files pair i with i + d_k / 2 instead, and their query and key rows have
    to be reordered. `scaling` slows rotations down (rope_scaling.py).

    The tables `cos` and `sin` [max_seq_len, d_k / 2] are float32 always and not part of the state dict.

    Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
    equations 14, 15 and 34.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        theta: float,
        d_k: int,
        max_seq_len: int,
        device: torch.device | str = "cpu",
        scaling: RopeScaling | None = None,
    ) -> None:
        super().__init__()
        if d_k % 2:
            raise ValueError(f"d_k: expected an even number (pairs are rotated), got {d_k}")
        self.theta, self.d_k, self.max_seq_len, self.scaling = theta, d_k, max_seq_len, scaling
        self._fill_tables(device)

    def forward(self, x: Tensor, token_positions: Tensor) -> Tensor:
        """Rotate [..., T, d_k] by whole positions [..., T] below max_seq_len (leading dimensions broadcast).

        Computed in float32 at least, returned in the dtype of `x`.
        """
        cos, sin = self.cos[token_positions], self.sin[token_positions]
        even, odd = at_least_float32(x).reshape(*x.shape[:-1], -1, 2).unbind(-1)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)

    def extra_repr(self) -> str:
        """Return the sizes that `print(model)` shows."""
        scaling = f", scaling={self.scaling}" if self.scaling else ""
        return f"theta={self.theta}, d_k={self.d_k}, max_seq_len={self.max_seq_len}{scaling}"

    def _fill_tables(self, device: torch.device | str | None) -> None:
        # The angles in float64: at position 100,000 those of float32 would be off by a hundredth of a radian.
        positions = torch.arange(self.max_seq_len, dtype=torch.float64, device="cpu")
        if self.scaling is None:
            frequencies, factor = base_frequencies(self.theta, self.d_k), 1.0
        else:
            frequencies = self.scaling.frequencies(self.theta, self.d_k)
            factor = self.scaling.attention_factor
        angles = torch.outer(positions, frequencies)
        for name, table in (("cos", angles.cos()), ("sin", angles.sin())):
            empty = torch.empty(table.shape, dtype=torch.float32, device=device)
            self.register_buffer(name, empty.copy_((factor * table).float()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Module.to, .half, .to_empty and the like call this. A cast would round the tables and to_empty would
        # leave them uninitialised, so they are filled again, on the model's device.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._fill_tables(self.cos.device)
        return self
