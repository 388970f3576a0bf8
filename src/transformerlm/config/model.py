"""[model]: the shape of the Transformer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from transformerlm.errors import ConfigError, Key, Problem
from transformerlm.schema import AutoPositiveInt, PositiveFloat, PositiveInt, Section, are_known


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Section):
    """[model]: the shape of the Transformer: everything that its weights depend on, and nothing else.

    "auto" is a size that transformerlm-train chooses for the text, the machine and [training].max_time.
    """

    vocab_size: PositiveInt | None = None
    """Rows of the embedding and of the output head. None: the tokenizer's own size."""
    context_length: AutoPositiveInt = 256
    """Tokens in the longest sequence that the model attends over."""
    d_model: AutoPositiveInt = 256
    """Width of the residual stream."""
    num_layers: AutoPositiveInt = 4
    """Transformer blocks."""
    num_heads: AutoPositiveInt = 8
    """Query heads; must divide d_model, and d_model / num_heads must be even (RoPE rotates pairs)."""
    num_kv_heads: PositiveInt | None = None
    """Key and value heads (grouped-query attention); must divide num_heads. None: num_heads."""
    d_ff: AutoPositiveInt = 704
    """Inner width of SwiGLU; 8/3 of d_model, rounded up to a multiple of 64, is usual."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the wavelengths of the rotary position embedding (RoPE)."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = False
    """Use the embedding matrix as the output head too."""
    qk_norm: bool = False
    """RMSNorm on every query and key head before the rotation."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield the rules that d_model, num_heads and num_kv_heads break."""
        if are_known(self.num_heads) and self.num_heads % self.kv_heads:
            what = f"expected a divisor of num_heads = {self.num_heads}, got {self.num_kv_heads}"
            yield Problem(Key("num_kv_heads"), what)
        if not are_known(self.d_model, self.num_heads):
            return
        if self.d_model % self.num_heads:
            what = f"expected a divisor of d_model = {self.d_model}, got {self.num_heads}"
            yield Problem(Key("num_heads"), what)
        elif self.d_head % 2:
            what = f"expected an even d_model / num_heads (RoPE rotates pairs), got {self.d_model} / "
            yield Problem(Key("num_heads"), f"{what}{self.num_heads} = {self.d_head}")

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads, with None resolved."""
        return self.num_kv_heads or self.num_heads

    @property
    def vocabulary_rows(self) -> int:
        """`vocab_size`; a model can be built only when it is known.

        Raises:
            ConfigError: it is still None.
        """
        if self.vocab_size is None:
            raise ConfigError(
                "expected a whole number of at least 1, got None", key=Key("model", "vocab_size")
            )
        return self.vocab_size
