"""A model and its tokenizer as one GGUF file, as llama.cpp and the programs around it read them.

A model is a "llama" there, whose rotation turns neighbours together, as ours does: its rows stay as they
are. One with [model].qk_norm is a "qwen3", which turns x_i with x_(i + d_head / 2), as Hugging Face's does.
The tokenizer is a "gpt2": byte-level BPE, divided by a pattern that llama.cpp has a name for.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. It is written and read by the package gguf,
which is optional here and imported only where it is used.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transformerlm.config import GPT2_PATTERN, ModelConfig
from transformerlm.conversion.hf_folder import cast
from transformerlm.conversion.hf_layout import parts, to_theirs
from transformerlm.conversion.parity import FLOAT32_TOLERANCE, MAX_TOKENS, Encode, Logits
from transformerlm.errors import CheckpointError, ConfigError, DataError, Key
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.exports import tokenizer_json

NAMES = {
    "embedding": "token_embd",
    "final_norm": "output_norm",
    "head": "output",
    "attention_norm": "attn_norm",
    "attention.q_proj": "attn_q",
    "attention.k_proj": "attn_k",
    "attention.v_proj": "attn_v",
    "attention.output_proj": "attn_output",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "feedforward_norm": "ffn_norm",
    "feedforward.w1": "ffn_gate",
    "feedforward.w2": "ffn_down",
    "feedforward.w3": "ffn_up",
}
"""Our name of a tensor, without block and ".weight" -> theirs."""
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    GPT2_PATTERN: ("gpt-2", False),
    _LLAMA3: ("llama-bpe", True),
    _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"): ("qwen2", False),
}
"""Pre-tokenisation pattern -> what llama.cpp calls it, and whether it takes whole words there."""
TOLERANCES = {"float32": FLOAT32_TOLERANCE, "float16": 0.02, "bfloat16": 0.05}
"""How far apart llama.cpp's logits may be, of the largest: it rounds what it multiplies to a file's dtype."""
_FILE_TYPES = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}
_KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Made:
    """All that a file will hold."""

    architecture: str
    fields: dict[str, Any]
    """Key -> number, text, truth, or a list of one of these."""
    tensors: dict[str, Tensor]
    """By their names there, in their order of rows; norms in float32, matrices in the dtype asked for."""


def make(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    eos_token: str | None,
    dtype: str = "float32",
) -> Made:
    """What the file of a model holds.

    Args:
        state: the model's weights under our names.
        eos_token: the special token that ends a text.
        dtype: of the matrices.

    Raises:
        ConfigError: the package gguf is not installed.
        CheckpointError: a weight that is no number in `dtype`.
        DataError: a tokenizer that llama.cpp cannot hold.
    """
    gguf = _gguf()
    architecture = "qwen3" if config.qk_norm else "llama"
    fields = _model_fields(config, architecture, tokenizer.vocab_size)
    fields |= {"general.file_type": int(gguf.LlamaFileType[_FILE_TYPES[dtype]])}
    fields |= _tokenizer_fields(tokenizer, eos_token, gguf)
    tensors = {}
    for part in parts(config):
        if part.ours == "head.weight" and config.tie_embeddings:
            continue  # the embedding serves as the head there where there is none
        value = state[part.ours].detach()
        if part.ours in ("embedding.weight", "head.weight"):
            value = value[: tokenizer.vocab_size]  # rows that stand for no token are never chosen here
        value = to_theirs(part, value, config) if architecture == "qwen3" else value
        name = tensor_name(part.ours)
        tensors[name] = (cast(value, dtype, name) if value.dim() > 1 else value).contiguous()
    return Made(architecture, fields, tensors)


def tensor_name(ours: str) -> str:
    """`blocks.0.attention.q_proj.weight` -> `blk.0.attn_q.weight`."""
    stem = ours.removesuffix(".weight")
    if stem in NAMES:
        return f"{NAMES[stem]}.weight"
    _, layer, inner = stem.split(".", 2)
    return f"blk.{layer}.{NAMES[inner]}.weight"


def write(path: Path, made: Made) -> None:
    """Write the file."""
    gguf = _gguf()
    writer = gguf.GGUFWriter(path, made.architecture)
    try:
        for key, value in made.fields.items():
            _add_field(writer, key, value)
        for name, tensor in made.tensors.items():
            kind = gguf.GGMLQuantizationType[_KINDS[str(tensor.dtype).removeprefix("torch.")]]
            # numpy has no bfloat16: its bytes go in as they are.
            raw = tensor.view(torch.uint8).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
            writer.add_tensor(name, raw, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def check_written(path: Path, made: Made) -> None:
    """Read a file back and compare all that it holds.

    Raises:
        CheckpointError: with the first key or tensor that is not as it was to be written.
    """
    reader = _gguf().GGUFReader(path)
    found: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}
    for key, value in made.fields.items():
        # Numbers with a point are float32 there.
        expected = float(np.float32(value)) if isinstance(value, float) else value
        if found.get(key) != expected:
            raise CheckpointError(f"{key}: read back from GGUF as something else: {found.get(key)!r:.80}")
    back = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in made.tensors.items():
        if name not in back or not _is_same(back[name], tensor):
            raise CheckpointError(f"{name}: read back from GGUF as something else")
    if len(back) != len(made.tensors):
        raise CheckpointError(f"expected {len(made.tensors)} tensors, read back {len(back)} from GGUF")


def in_llama_cpp(path: Path, context_length: int) -> tuple[Encode, Logits]:
    """How llama.cpp encodes, and what it computes, with a file; keys and values are kept in float32."""
    package = importlib.import_module("llama_cpp")
    package.llama_log_set(_nowhere(), None)
    options = {"logits_all": True, "type_k": 0, "type_v": 0, "verbose": False}
    model = package.Llama(str(path), n_ctx=min(context_length, MAX_TOKENS), **options)

    def encode(text: str) -> list[int]:
        return list(model.tokenize(text.encode(), add_bos=False, special=True))

    def logits(ids: list[int]) -> Tensor:
        model.reset()
        model.eval(ids)
        return torch.from_numpy(np.array(model.scores[: len(ids)]))

    return encode, logits


@functools.cache
def _nowhere() -> Any:
    """Where llama.cpp logs to, as long as the program lasts: what it says would stand between our lines."""
    return importlib.import_module("llama_cpp").llama_log_callback(lambda level, text, data: None)


def _is_same(found: Any, tensor: Tensor) -> bool:
    kind = _KINDS[str(tensor.dtype).removeprefix("torch.")]
    raw = np.ascontiguousarray(found.data).tobytes()
    is_alike = found.tensor_type.name == kind and list(found.shape) == list(tensor.shape)[::-1]
    return is_alike and raw == tensor.view(torch.uint8).numpy().tobytes()


def _model_fields(config: ModelConfig, architecture: str, vocab_size: int) -> dict[str, Any]:
    fields = {
        "vocab_size": vocab_size,
        "context_length": config.context_length,
        "embedding_length": config.d_model,
        "block_count": config.num_layers,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.d_head,
        "attention.value_length": config.d_head,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.d_head,
        "rope.freq_base": config.rope_theta,
    }
    return {f"{architecture}.{key}": value for key, value in fields.items()}


def _tokenizer_fields(tokenizer: Tokenizer, eos_token: str | None, gguf: Any) -> dict[str, Any]:
    pattern, takes_whole_words = PATTERNS.get(tokenizer.pretokenizer.pattern, (None, False))
    if pattern is None:
        known = ", ".join(name for name, _ in PATTERNS.values())
        what = f"[tokenizer].pattern: expected that of {known}, got {tokenizer.pretokenizer.pattern!a:.80}"
        raise _refusal(what)
    if tokenizer.whole_words != takes_whole_words:
        words = {True: "whole words are taken as they are", False: "whole words are merged like others"}
        what = f"with the pattern of {pattern} {words[takes_whole_words]} there"
        raise _refusal(f"whole_words: {what}; expected {takes_whole_words}, got {tokenizer.whole_words}")
    if eos_token is None:
        raise _refusal("none of its special tokens ends a text, and another token would be taken for one")
    model = json.loads(tokenizer_json(tokenizer))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    special = set(tokenizer.special_token_ids.values())
    normal, control = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
    types = [control if token_id in special else normal for token_id in range(len(tokens))]
    eos = tokenizer.special_token_ids[eos_token]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pattern,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": model["merges"],
        "tokenizer.ggml.bos_token_id": eos,
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }


def _add_field(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        kinds = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
        }
        kinds[type(value)](key, value)


def _refusal(what: str) -> DataError:
    return DataError(f"llama.cpp cannot hold this tokenizer: {what}")


def _gguf() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError:
        advice = 'install it, as in: pip install gguf, or this package as "transformerlm[gguf]"'
        what = f'"gguf" needs the package gguf, which is not installed; {advice}'
        raise ConfigError(what, key=Key("export", "to")) from None
