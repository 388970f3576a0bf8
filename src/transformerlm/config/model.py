"""[model]: the shape of the Transformer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from transformerlm.errors import ConfigError, Key, Problem
from transformerlm.schema import (
    AutoPositiveInt,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    are_known,
)

_SCALINGS_WITH: dict[str, tuple[str, ...]] = {
    "rope_factor": ("linear", "llama3", "yarn"),
    "rope_original_length": ("llama3", "yarn"),
    "rope_low_freq_factor": ("llama3",),
    "rope_high_freq_factor": ("llama3",),
    "rope_beta_fast": ("yarn",),
    "rope_beta_slow": ("yarn",),
    "rope_attention_factor": ("yarn",),
}
"""Key -> the values of rope_scaling that read it."""
_NEEDED = "rope_factor", "rope_original_length"
"""Keys that a rope_scaling that reads them needs."""


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
    """Query heads; without d_head they must divide d_model into even widths (RoPE rotates pairs)."""
    d_head: PositiveInt | None = None
    """Width of a head, an even number. None: d_model / num_heads."""
    num_kv_heads: PositiveInt | None = None
    """Key and value heads (grouped-query attention); must divide num_heads. None: num_heads."""
    d_ff: AutoPositiveInt = 704
    """Inner width of SwiGLU; 8/3 of d_model, rounded up to a multiple of 64, is usual."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the wavelengths of the rotary position embedding (RoPE)."""
    rope_scaling: Literal["linear", "llama3", "yarn"] | None = None
    """Slower rotations, for contexts longer than those of the first training. "linear": all of them by
    rope_factor; "llama3" (Llama 3.1) and "yarn": only those that turn seldom within rope_original_length."""
    rope_factor: PositiveFloat | None = None
    """Of rope_scaling: how many times slower."""
    rope_original_length: PositiveInt | None = None
    """Of rope_scaling "llama3" and "yarn": context length of the first training."""
    rope_low_freq_factor: PositiveFloat | None = None
    """Of "llama3": turns within rope_original_length up to which a rotation is slowed down. None: 1."""
    rope_high_freq_factor: PositiveFloat | None = None
    """Of "llama3": turns from which a rotation stays as it is. None: 4."""
    rope_beta_fast: PositiveFloat | None = None
    """Of "yarn": turns from which a rotation stays as it is. None: 32."""
    rope_beta_slow: PositiveFloat | None = None
    """Of "yarn": turns up to which a rotation is slowed down. None: 1."""
    rope_attention_factor: PositiveFloat | None = None
    """Of "yarn": factor of rotated queries and keys, so that of the scores is its square. None: 0.1 ln
    rope_factor + 1, or 1 if rope_factor is at most 1."""
    nope_layers: tuple[NonNegativeInt, ...] | None = None
    """Layers, counted from 0, that do without RoPE (SmolLM 3). None: none."""
    sliding_window: PositiveInt | None = None
    """Positions that a position attends to, itself included: the newest ones. None: all before it."""
    full_attention_layers: tuple[NonNegativeInt, ...] | None = None
    """Layers, counted from 0, for which sliding_window does not hold. None: none."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = False
    """Use the embedding matrix as the output head too."""
    qk_norm: bool = False
    """RMSNorm on every query and key head before the rotation (Qwen 3)."""
    qkv_bias: bool = False
    """Learned biases of queries, keys and values (Qwen 2.5)."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield the rules that widths and numbers of heads, rope_scaling, and lists of layers break."""
        if are_known(self.num_heads) and self.num_heads % self.kv_heads:
            what = f"expected a divisor of num_heads = {self.num_heads}, got {self.num_kv_heads}"
            yield Problem(Key("num_kv_heads"), what)
        yield from self._width_conflicts()
        yield from self._scaling_conflicts()
        yield from self._layer_conflicts()

    def _width_conflicts(self) -> Iterator[Problem]:
        if self.d_head is not None:
            if self.d_head % 2:
                yield Problem(
                    Key("d_head"), f"expected an even number (RoPE rotates pairs), got {self.d_head}"
                )
            return
        if not are_known(self.d_model, self.num_heads):
            return
        if self.d_model % self.num_heads:
            what = f"expected a divisor of d_model = {self.d_model}, got {self.num_heads}"
            yield Problem(Key("num_heads"), what)
        elif self.head_dim % 2:
            what = f"expected an even d_model / num_heads (RoPE rotates pairs), got {self.d_model} / "
            yield Problem(Key("num_heads"), f"{what}{self.num_heads} = {self.head_dim}")

    def _scaling_conflicts(self) -> Iterator[Problem]:
        for key, scalings in _SCALINGS_WITH.items():
            value, is_read = getattr(self, key), self.rope_scaling in scalings
            if is_read and value is None and key in _NEEDED:
                what = f'expected a number with rope_scaling = "{self.rope_scaling}", got None'
                yield Problem(Key(key), what)
            if not is_read and value is not None:
                names = " or ".join(f'"{scaling}"' for scaling in scalings)
                what = f"expected None, as only rope_scaling = {names} reads it, got {value}"
                yield Problem(Key(key), what)
        if self.rope_scaling == "llama3":
            low, high = self.rope_low_freq_factor or 1.0, self.rope_high_freq_factor or 4.0
            if low >= high:
                what = f"expected more than rope_low_freq_factor = {low}, got {high}"
                yield Problem(Key("rope_high_freq_factor"), what)

    def _layer_conflicts(self) -> Iterator[Problem]:
        for key in ("nope_layers", "full_attention_layers"):
            layers = getattr(self, key) or ()
            if are_known(self.num_layers) and any(layer >= self.num_layers for layer in layers):
                what = f"expected layers below num_layers = {self.num_layers}, got {max(layers)}"
                yield Problem(Key(key), what)
        if self.full_attention_layers is not None and self.sliding_window is None:
            what = f"expected None without sliding_window, got {list(self.full_attention_layers)}"
            yield Problem(Key("full_attention_layers"), what)

    @property
    def head_dim(self) -> int:
        """Width of a head: `d_head`, with None resolved."""
        return self.d_head or self.d_model // self.num_heads

    def window_of(self, layer: int) -> int | None:
        """Return the sliding window of a layer, None if it attends to all positions before."""
        return None if layer in (self.full_attention_layers or ()) else self.sliding_window

    def has_rope(self, layer: int) -> bool:
        """Return True if a layer rotates its queries and keys."""
        return layer not in (self.nope_layers or ())

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
