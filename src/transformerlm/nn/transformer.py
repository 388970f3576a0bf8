"""The model, from token ids to logits. Start reading here; each import names the file that defines a part.

Losses, mixed precision, ranks and loggers are applied from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from transformerlm.config import ModelConfig
from transformerlm.nn.attention import MultiHeadSelfAttention
from transformerlm.nn.cache import KVCache, LayerCache
from transformerlm.nn.embedding import Embedding
from transformerlm.nn.feedforward import SwiGLU
from transformerlm.nn.linear import Linear
from transformerlm.nn.norm import RMSNorm
from transformerlm.nn.rope import RotaryPositionEmbedding
from transformerlm.nn.rope_scaling import scaling_of
from transformerlm.nn.sdpa import resolve_backend


class TransformerBlock(nn.Module):
    """Attention, which mixes positions, then a feed-forward network on each; both add to the residual stream.

    Pre-norm: each branch reads a normalised copy, and the stream itself is never normalised inside a block.

    Source: Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020, figure 1b.
    """

    def __init__(
        self,
        config: ModelConfig,
        rope: RotaryPositionEmbedding | None = None,
        window: int | None = None,
        *,
        backend: str = "auto",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps, device, dtype)
        self.attention = MultiHeadSelfAttention(
            config.d_model,
            config.num_heads,
            num_kv_heads=config.num_kv_heads,
            rope=rope,
            qk_norm=config.qk_norm,
            norm_eps=config.norm_eps,
            d_head=config.head_dim,
            qkv_bias=config.qkv_bias,
            window=window,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.feedforward_norm = RMSNorm(config.d_model, config.norm_eps, device, dtype)
        self.feedforward = SwiGLU(config.d_model, config.d_ff, device, dtype)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """[batch, T, d_model] -> [batch, T, d_model]."""
        x = x + self.attention(self.attention_norm(x), cache)
        x = x + self.feedforward(self.feedforward_norm(x))
        return x  # noqa: RET504 - the architecture is the two lines above


class TransformerLM(nn.Module):
    """A decoder-only Transformer: embedding, blocks, a last norm, and a head that scores every token.

    Weights are drawn by torch's global generator: seed it first. `backend` chooses how attention is
    computed ("auto", "kernels", "reference", "torch"); it is resolved once, here, and kept as `backend`.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        backend: str = "auto",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config = config
        self.backend = resolve_backend(backend, device)
        rope = RotaryPositionEmbedding(
            config.rope_theta, config.head_dim, config.context_length, device, scaling_of(config)
        )
        self.embedding = Embedding(config.vocabulary_rows, config.d_model, device, dtype)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                config,
                rope if config.has_rope(layer) else None,
                config.window_of(layer),
                backend=self.backend,
                device=device,
                dtype=dtype,
            )
            for layer in range(config.num_layers)
        )
        self.final_norm = RMSNorm(config.d_model, config.norm_eps, device, dtype)
        self.head = Linear(config.d_model, config.vocabulary_rows, device, dtype)
        self._tie()

    @classmethod
    def uninitialized(
        cls, config: ModelConfig, *, backend: str = "auto", device: torch.device | str = "cpu"
    ) -> Self:
        """A float32 model whose weights have memory and no values yet: they are to be loaded.

        Nothing is drawn, which takes longer than loading, and torch's generator stays as it is.
        """
        model = cls(config, backend=backend, device="meta")
        # Module.to_empty would do the same, but imports torch's compiler for "meta": a second or two.
        return model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))

    def forward(self, token_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Ids [batch, T] -> logits [batch, T, vocab_size] of the token that follows each position.

        With a cache the ids continue the rows that it holds, and are stored in it.

        Raises:
            ValueError: for more tokens than context_length (or than the cache can hold).
            IndexError: for an id outside the vocabulary.
        """
        return self.logits(self.hidden_states(token_ids, cache))

    def hidden_states(self, token_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return [batch, T, d_model]: `forward` without the head, for callers that need few logits."""
        num_tokens = token_ids.shape[-1]
        self._check_length(num_tokens if cache is None else cache.max_length + num_tokens)
        layers = [None] * len(self.blocks) if cache is None else cache.layers(num_tokens)
        x: Tensor = self.embedding(token_ids)
        for block, layer in zip(self.blocks, layers, strict=True):
            x = block(x, layer)
        if cache is not None:
            cache.advance(num_tokens)
        hidden: Tensor = self.final_norm(x)
        return hidden

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Scores [..., vocab_size] of hidden states [..., d_model], larger for likelier tokens."""
        scores: Tensor = self.head(hidden_states)
        return scores

    def _tie(self) -> None:
        if self.config.tie_embeddings:
            # One matrix for both, initialised as the head: with the embedding's standard deviation of 1 the
            # first logits would be too large by a factor of sqrt(d_model).
            self.embedding.tie_to(self.head)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Module.to_empty calls this and turns the shared parameter into two.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._tie()
        return self

    def _check_length(self, length: int) -> None:
        if length > self.config.context_length:
            raise ValueError(
                f"expected at most context_length = {self.config.context_length} tokens, got {length}"
            )
