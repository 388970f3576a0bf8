"""Scaled dot-product attention, and its backends. A function without weights.

`reference` computes the formula step by step and defines the result; `torch` is PyTorch's fused kernel. A
backend that cannot compute something raises: none silently replaces another.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from transformerlm.errors import ConfigError
from transformerlm.nn.functional import softmax


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    backend: str = "reference",
) -> Tensor:
    """softmax(q k^T / sqrt(d_k)) v, over the keys that each query may attend to.

    With `causal`, the last query is aligned with the last key: query i attends to key j where
    j - (keys - queries) <= i. So two new queries after three cached keys attend to four and five keys.
    (PyTorch's own `is_causal` aligns the first query with the first key: they would attend to one and two.)

    Grouped-query attention: where dimension -3 of k and v (their heads) is smaller than that of q, it
    must divide it, and each key head serves that many neighbouring query heads.

    Args:
        q: [..., queries, d_k]
        k: [..., keys, d_k]
        v: [..., keys, d_v]
        mask: boolean, broadcast to [..., queries, keys]; True = attend. A query that may attend to
            nothing gets zeros.
        causal: mask later keys as well.
        backend: one of BACKENDS.

    Returns:
        [..., queries, d_v], in the dtype of the inputs.

    Raises:
        ValueError: for a mask that is not boolean, heads that do not divide, or an unknown backend.

    Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1; Ainslie et al., "GQA:
    Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", 2023.
    """
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask: expected torch.bool (True = attend), got {mask.dtype}")
    return _backend_function(backend)(q, k, v, mask, causal)


def resolve_backend(backend: str, device: torch.device | str = "cpu") -> str:
    """Return the backend's name, which must be one of BACKENDS.

    Raises:
        ConfigError: for an unknown name.
    """
    _backend_function(backend)
    return backend


def causal_mask(num_queries: int, num_keys: int, device: torch.device | str = "cpu") -> Tensor:
    """[num_queries, num_keys], True = attend, with the last query aligned with the last key."""
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)


def sliding_window_mask(positions: Tensor, num_keys: int, window: int) -> Tensor:
    """Return the mask of queries at `positions` [..., T] that see the `window` newest keys up to their own.

    Key j is at position j: query p attends to p - window < j <= p. [..., T, num_keys], True = attend.

    Source: Jiang et al., "Mistral 7B", 2023, section 2.
    """
    keys = torch.arange(num_keys, dtype=torch.long, device=positions.device)
    own = positions.unsqueeze(-1)
    return (keys <= own) & (keys > own - window)


def _reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    if _grouped(q, k):
        group_size = q.shape[-3] // k.shape[-3]
        k, v = k.repeat_interleave(group_size, -3), v.repeat_interleave(group_size, -3)
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)
    if causal:
        mask = _with_causal_mask(mask, q, k)
    if mask is None:
        return softmax(scores, -1) @ v
    weights = softmax(scores.masked_fill(~mask, -math.inf), -1)
    # The softmax of a row that is all -inf is NaN; here such a query attends to nothing.
    return weights.masked_fill(~mask.any(-1, keepdim=True), 0) @ v


def _torch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    top_left = causal and mask is None and q.shape[-2] == k.shape[-2]
    if causal and not top_left:
        mask = _with_causal_mask(mask, q, k)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=top_left, enable_gqa=_grouped(q, k)
    )


def _grouped(q: Tensor, k: Tensor) -> bool:
    if q.dim() < 3 or q.shape[-3] == k.shape[-3]:
        return False
    if q.shape[-3] % k.shape[-3]:
        raise ValueError(
            f"heads: expected a divisor of the queries' {q.shape[-3]}, got {k.shape[-3]} of k and v"
        )
    return True


def _with_causal_mask(mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """Return `mask` combined with the causal mask; a single query, aligned with the last key, needs none."""
    if q.shape[-2] == 1:
        return mask
    earlier = causal_mask(q.shape[-2], k.shape[-2], q.device)
    return earlier if mask is None else earlier & mask


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]] = {
    "reference": _reference,
    "torch": _torch,
    "auto": _torch,
    "kernels": _torch,
}
"""Name -> function of (q, k, v, mask, causal). A model that uses the CPU kernels (fused.py) replaces the last
two by its own."""


def _backend_function(backend: str) -> Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]:
    if backend not in BACKENDS:
        names = ", ".join(f'"{name}"' for name in BACKENDS)
        raise ConfigError(f'attention backend: expected one of {names}, got "{backend}"')
    return BACKENDS[backend]
