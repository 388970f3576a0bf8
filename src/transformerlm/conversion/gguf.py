"""Export to GGUF: a model and its tokenizer as one file for llama.cpp and related programs.

What a model becomes is in gguf_model.py. The tokenizer becomes a "gpt2": byte-level BPE with one of the
pre-tokenisation patterns that llama.cpp knows by name.

The package gguf writes and reads the file. It is optional, and imported only when it is used.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import functools
import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transformerlm.config import GPT2_PATTERN, GenerationConfig, ModelConfig
from transformerlm.conversion.gguf_model import (
    ROTATES_HALVES,
    architecture_of,
    model_fields,
    rope_tensors,
    tensor_name,
)
from transformerlm.conversion.hf_folder import cast
from transformerlm.conversion.hf_layout import tensor_specs, to_theirs
from transformerlm.conversion.parity import FLOAT32_TOLERANCE, MAX_TOKENS, Encode, Logits
from transformerlm.errors import CheckpointError, ConfigError, DataError, Key
from transformerlm.kernels.generation_layout import GROUP
from transformerlm.nn.quantization import QuantizedMatrix, Storage, can_quantize, quantize
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.form import Form
from transformerlm.tokenizer.formats.compatibility import find_unmade_token
from transformerlm.tokenizer.formats.tokenizer_json_steps import (
    BLOOM_PATTERN,
    GPT2_BETWEEN_DIGITS,
    LLAMA3_PATTERN,
    QWEN_PATTERN,
)
from transformerlm.tokenizer.formats.tokenizer_json_writer import token_roles, tokenizer_json
from transformerlm.tokenizer.splits import Pattern, Split
from transformerlm.tokenizer.text_steps import Normalize

_DEEPSEEK3 = (
    Split(r"\p{N}{1,3}"),
    Split("[一-龥぀-ゟ゠-ヿ]+"),
    Split(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
        r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
)
PATTERNS: dict[tuple[Pattern, bool], str] = {
    (GPT2_PATTERN, False): "gpt-2",
    (GPT2_BETWEEN_DIGITS, False): "smollm",
    (LLAMA3_PATTERN, True): "llama-bpe",
    (LLAMA3_PATTERN, False): "dbrx",
    (QWEN_PATTERN, False): "qwen2",
    (_DEEPSEEK3, False): "deepseek-v3",
    (BLOOM_PATTERN, False): "bloom",
}
"""Pre-tokenisation pattern, and the `whole_words` setting that llama.cpp combines with it -> its name there.
Of two names for a pattern, the first is the usual one."""
TOLERANCES = {"float32": FLOAT32_TOLERANCE, "float16": 0.02, "bfloat16": 0.05, "q8_0": 0.05, "q4_0": 0.05}
"""Largest difference to llama.cpp's logits, relative to the largest logit, by the dtype of the file.

llama.cpp rounds the activations to that dtype too; with q8_0 and q4_0 to eight bits."""
STORAGES: dict[str, Storage] = {"q8_0": "int8", "q4_0": "int4"}
"""Dtype of a file whose matrices are quantized -> our name."""
_FILE_TYPES = {
    "float32": "ALL_F32",
    "float16": "MOSTLY_F16",
    "bfloat16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_0": "MOSTLY_Q4_0",
}
_KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}


@dataclass(frozen=True)
class Deferred:
    """A tensor of a file, made when it is written."""

    shape: tuple[int, ...]
    kind: str
    """GGML's name of its type."""
    make: Callable[[], Tensor | QuantizedMatrix]

    def content(self) -> NDArray[np.uint8]:
        """Return its bytes, a row of the tensor in each row."""
        tensor = self.make()
        if isinstance(tensor, QuantizedMatrix):
            return blocks(tensor).numpy()
        return tensor.contiguous().view(torch.uint8).numpy()


@dataclass(frozen=True)
class Contents:
    """Contents of a GGUF file."""

    architecture: str
    fields: dict[str, Any]
    """Key -> a number, a string, a bool, or a list of one of these."""
    tensors: dict[str, Deferred]
    """GGUF name -> tensor in the row order of the format; norms in float32, matrices in the chosen dtype."""


def make(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    eos_token: str | None,
    dtype: str = "float32",
    generation: GenerationConfig | None = None,
) -> Contents:
    """Return the contents of the GGUF file of a model.

    Args:
        config: the model's.
        state: the model's weights under our names.
        tokenizer: the model's.
        eos_token: the special token that ends a text.
        dtype: of the matrices: float32, float16, bfloat16, q8_0 or q4_0.
        generation: the model's, of which the token that begins a text and one further end are taken.

    Raises:
        ConfigError: the package gguf is not installed, or rows that q8_0 and q4_0 cannot hold.
        CheckpointError: a weight that is not finite in `dtype`, or llama.cpp has no such model.
        DataError: llama.cpp cannot represent the tokenizer.
    """
    gguf = _gguf()
    architecture = architecture_of(config)
    fields = model_fields(config, architecture, tokenizer.vocab_size)
    fields |= {"general.file_type": int(gguf.LlamaFileType[_FILE_TYPES[dtype]])}
    fields |= _tokenizer_fields(tokenizer, gguf)
    fields |= _role_fields(tokenizer, eos_token, generation or GenerationConfig())
    tensors = {name: _deferred(name, value, "float32") for name, value in rope_tensors(config).items()}
    for spec in tensor_specs(config):
        if spec.ours == "head.weight" and config.tie_embeddings:
            continue  # llama.cpp uses the embedding if there is no head
        value = state[spec.ours].detach()
        if spec.ours in ("embedding.weight", "head.weight"):
            value = value[: tokenizer.vocab_size]  # rows beyond the vocabulary are never chosen
        order = functools.partial(to_theirs, spec, config=config) if architecture in ROTATES_HALVES else None
        name = tensor_name(spec.ours)
        tensors[name] = _deferred(name, value, dtype if value.dim() > 1 else "float32", order)
    return Contents(architecture, fields, tensors)


def _deferred(
    name: str, value: Tensor, dtype: str, order: Callable[[Tensor], Tensor] | None = None
) -> Deferred:
    """Return a tensor, called `name`, as a file of this dtype has it, with its rows in this order."""
    if dtype in STORAGES and not can_quantize(value.shape[1]):
        what = f"expected rows of a multiple of 32 numbers for {dtype}, got {value.shape[1]} in {name}"
        raise ConfigError(what, key=Key("export", "dtype"))
    kind = _KINDS[STORAGES.get(dtype, dtype)]
    return Deferred(tuple(value.shape), kind, lambda: in_dtype(order(value) if order else value, dtype, name))


def in_dtype(matrix: Tensor, dtype: str, name: str) -> Tensor | QuantizedMatrix:
    """Return a matrix, called `name`, as a file of this dtype has it.

    Raises:
        CheckpointError: a number that the dtype cannot hold.
    """
    if dtype not in STORAGES:
        return cast(matrix, dtype, name).contiguous()
    try:
        return quantize(matrix, STORAGES[dtype])
    except ValueError as error:
        raise CheckpointError(f"{name}: cannot be written in {dtype}: {error}") from None


def blocks(matrix: QuantizedMatrix) -> Tensor:
    """Return a matrix as GGML stores it: uint8 [rows, bytes].

    Each group has its scale and then its numbers: bytes of Q8_0; in Q4_0 byte i has numbers i and i + 16,
    each increased by 8, in its lower and upper half.
    """
    integers, scales = matrix.all_rows()
    integers = integers.view(*scales.shape, GROUP)
    if matrix.storage == "int4":
        low, high = (integers + 8).chunk(2, -1)
        integers = low | high << 4
    parts = [scales.unsqueeze(-1).view(torch.uint8), integers.contiguous().view(torch.uint8)]
    return torch.cat(parts, -1).flatten(1)


def write(path: Path, contents: Contents) -> None:
    """Write a GGUF file, one tensor at a time.

    Raises:
        CheckpointError: a number that the file's dtype cannot hold.
    """
    gguf = _gguf()
    writer = gguf.GGUFWriter(path, contents.architecture)
    try:
        for key, value in contents.fields.items():
            _add_field(writer, key, value)
        for name, tensor in contents.tensors.items():
            kind = gguf.GGMLQuantizationType[tensor.kind]
            block, size = gguf.GGML_QUANT_SIZES[kind]
            shape = *tensor.shape[:-1], tensor.shape[-1] // block * size
            writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in contents.tensors.values():
            writer.write_tensor_data(tensor.content())
    finally:
        writer.close()


def check_written(path: Path, contents: Contents) -> None:
    """Read a GGUF file back and compare it with its intended contents.

    Raises:
        CheckpointError: names the first key or tensor that differs.
    """
    reader = _gguf().GGUFReader(path)
    found: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}
    for key, value in contents.fields.items():
        # GGUF stores floats as float32.
        expected = float(np.float32(value)) if isinstance(value, float) else value
        if found.get(key) != expected:
            raise CheckpointError(f"{key}: read back from GGUF as something else: {found.get(key)!r:.80}")
    back = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in contents.tensors.items():
        if name not in back or not _is_same(path, back[name], tensor):
            raise CheckpointError(f"{name}: read back from GGUF as something else")
    if len(back) != len(contents.tensors):
        raise CheckpointError(f"expected {len(contents.tensors)} tensors, read back {len(back)} from GGUF")


def load_in_llama_cpp(path: Path, context_length: int) -> tuple[Encode, Logits]:
    """Load a file in llama.cpp, with a float32 KV cache; return its functions for token ids and logits."""
    package = importlib.import_module("llama_cpp")
    package.llama_log_set(_silent_callback(), None)
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
def _silent_callback() -> Any:
    """Return a log callback that drops all messages; it is cached because llama.cpp keeps a pointer to it."""
    return importlib.import_module("llama_cpp").llama_log_callback(lambda level, text, data: None)


def _is_same(path: Path, found: Any, tensor: Deferred) -> bool:
    if found.tensor_type.name != tensor.kind or list(found.shape) != list(tensor.shape)[::-1]:
        return False
    # Read, not mapped: pages of the file would count as memory of this process.
    with path.open("rb") as file:
        file.seek(found.data_offset)
        content = np.frombuffer(file.read(found.n_bytes), np.uint8)
    return np.array_equal(content, tensor.content().reshape(-1))


def _pattern_name(tokenizer: Tokenizer) -> str:
    """Return llama.cpp's name of the tokenizer's pattern and its treatment of whole words."""
    own = tokenizer.form.pattern
    names = {words: name for (pattern, words), name in PATTERNS.items() if pattern == own}
    if not names:
        known = ", ".join(PATTERNS.values())
        raise _refusal(f"[tokenizer].pattern: expected that of {known}, got {own!a:.80}")
    usual, name = next(iter(names.items()))
    if tokenizer.whole_words == usual:
        return name
    token = find_unmade_token(tokenizer.spelled, tokenizer.merges, tokenizer.added_token_ids)
    if token is not None and tokenizer.whole_words not in names:
        what = f"with the pattern of {name} whole words are merged like others there"
        raise _refusal(f"whole_words: {what}; {token!r} would get other ids")
    return name if token is None else names[tokenizer.whole_words]


def _check_form(form: Form) -> None:
    """Refuse what llama.cpp has nothing like, by name.

    A normal form is no reason: it has none, as in all of its files of such tokenizers, and texts that are not
    in normal form get other ids there.
    """
    if form.characters:
        raise _refusal("its tokens are characters, with merges in order, and scores are expected there")
    if form.missing and form.missing.unk_token:
        raise _refusal("llama.cpp leaves out bytes that are no tokens, which are unknown ones here")
    changes = [step for step in form.normalizer if not isinstance(step, Normalize)]
    if changes or form.prepare:
        raise _refusal(f"{[*changes, *form.prepare][0]}: texts are changed before they are encoded")
    if form.late:
        raise _refusal("texts are divided again after they are spelled as bytes")
    for token in form.added_token_ids:
        if not token.is_plain:
            raise _refusal(f"added token {token.content!a}: white space or words beside it count here")


def _tokenizer_fields(tokenizer: Tokenizer, gguf: Any) -> dict[str, Any]:
    _check_form(tokenizer.form)
    pattern = _pattern_name(tokenizer)
    texts = {number: tokenizer.token_text(number) for number in tokenizer.spelled}
    special, added = set(tokenizer.special_token_ids.values()), set(tokenizer.added_token_ids.values())
    tokens = [texts.get(number, f"[PAD{number}]") for number in range(tokenizer.vocab_size)]
    types = [
        gguf.TokenType.CONTROL
        if number in special
        else gguf.TokenType.USER_DEFINED
        if number in added
        else gguf.TokenType.NORMAL
        if number in texts
        else gguf.TokenType.UNUSED
        for number in range(tokenizer.vocab_size)
    ]
    model = json.loads(tokenizer_json(tokenizer))["model"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pattern,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.merges": model["merges"],
    }


def _role_fields(tokenizer: Tokenizer, eos_token: str | None, generation: GenerationConfig) -> dict[str, Any]:
    """Return the fields about tokens that begin and end a text, and what else is kept with the tokenizer."""
    if eos_token is None:
        raise _refusal("none of its special tokens ends a text, and another token would be taken for one")
    roles = token_roles(tokenizer, eos_token, generation.bos_token or None)
    keys = {"bos_token_id": "bos_token", "eos_token_id": "eos_token", "padding_token_id": "pad_token"}
    ids = tokenizer.special_token_ids
    fields: dict[str, Any] = {f"tokenizer.ggml.{key}": ids[roles[role]] for key, role in keys.items()}
    if generation.stop_tokens:  # llama.cpp has one more end of texts than eos, the end of a turn
        fields["tokenizer.ggml.eot_token_id"] = ids[generation.stop_tokens[0]]
    if isinstance(roles.get("chat_template"), str):
        fields["tokenizer.chat_template"] = roles["chat_template"]
    add_bos = bool(generation.bos_token)
    return fields | {"tokenizer.ggml.add_bos_token": add_bos, "tokenizer.ggml.add_eos_token": False}


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
