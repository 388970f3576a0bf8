"""Self-attention: the part of a block in which positions attend to each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transformerlm.nn.cache import LayerCache, token_positions
from transformerlm.nn.linear import Linear
from transformerlm.nn.norm import RMSNorm
from transformerlm.nn.rope import RotaryPositionEmbedding
from transformerlm.nn.sdpa import resolve_backend, scaled_dot_product_attention, sliding_window_mask


class MultiHeadSelfAttention(nn.Module):
    """Causal attention of every position to itself and those before it, in several heads at once.

    Project, rotate, cache, mix, project. `num_kv_heads` below `num_heads` shares each key and value head
    between neighbouring query heads. `rope` encodes positions (None: positions are not encoded); layers may
    share it. `qk_norm` normalises every query and key head before the rotation, which bounds the scores.
    `d_head` is the width of a head (None: d_model / num_heads), `qkv_bias` adds biases to queries, keys and
    values, and with a `window` a position attends only to so many newest ones, itself included.

    Source: Vaswani et al., "Attention Is All You Need", 2017, section 3.2.2; Ainslie et al., "GQA", 2023;
    for qk_norm Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023; for the window
    Jiang et al., "Mistral 7B", 2023.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        rope: RotaryPositionEmbedding | None = None,
        qk_norm: bool = False,
        norm_eps: float = 1e-5,
        backend: str = "auto",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        d_head: int | None = None,
        qkv_bias: bool = False,
        window: int | None = None,
    ) -> None:
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        if (d_head is None and d_model % num_heads) or num_heads % num_kv_heads:
            expected = "expected num_heads to divide d_model and num_kv_heads to divide num_heads"
            raise ValueError(f"{expected}, got {d_model}, {num_heads}, {num_kv_heads}")
        self.d_head, self.window = d_head or d_model // num_heads, window
        self.backend = resolve_backend(backend, device)
        d_queries, d_keys = num_heads * self.d_head, num_kv_heads * self.d_head
        self.q_proj = Linear(d_model, d_queries, device, dtype, bias=qkv_bias)
        self.k_proj = Linear(d_model, d_keys, device, dtype, bias=qkv_bias)
        self.v_proj = Linear(d_model, d_keys, device, dtype, bias=qkv_bias)
        self.output_proj = Linear(d_queries, d_model, device, dtype)
        self.q_norm = RMSNorm(self.d_head, norm_eps, device, dtype) if qk_norm else None
        self.k_norm = RMSNorm(self.d_head, norm_eps, device, dtype) if qk_norm else None
        self.rope = rope

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """[batch, T, d_model] -> [batch, T, d_model]; with a cache, `x` follows the tokens that it holds."""
        q, k, v = self._project(x)
        positions = token_positions(0, x.shape[-2], x.device) if cache is None else cache.positions
        if self.rope is not None:
            q, k = self.rope(q, positions), self.rope(k, positions)
        if cache is not None:
            k, v = cache.extend(k, v)
        mask = None if cache is None else cache.mask
        if self.window is not None and k.shape[-2] > self.window:
            mask = sliding_window_mask(positions, k.shape[-2], self.window)
        mixed = self._attend(q, k, v, mask)
        output: Tensor = self.output_proj(mixed.transpose(-3, -2).flatten(-2))
        return output

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [..., heads, T, d_head], from [..., T, d_model]."""
        projections = self._projections(x)
        q, k, v = (p.view(*p.shape[:-1], -1, self.d_head).transpose(-3, -2) for p in projections)
        if self.q_norm is None or self.k_norm is None:
            return q, k, v
        return self.q_norm(q), self.k_norm(k), v

    def _projections(self, x: Tensor) -> Sequence[Tensor]:
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attention output of every query; causal if there is no mask."""
        return scaled_dot_product_attention(q, k, v, mask, causal=mask is None, backend=self.backend)
