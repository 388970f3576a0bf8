"""Reading and writing of Hugging Face folders with Llama-like models.

    config.json             the architecture and its sizes
    generation_config.json  sampling settings
    model.safetensors       or model-00001-of-00002.safetensors ... with model.safetensors.index.json
    tokenizer.json          with tokenizer_config.json

A folder that is read may come from anybody: sizes are compared with the config before memory is allocated,
nothing is unpickled, and no code from the folder is run. Settings that our model does not have are
refused key by key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformerlm.checkpoint.load_state import MAX_LINES
from transformerlm.config import GenerationConfig, ModelConfig
from transformerlm.conversion.hf_layout import (
    TensorSpec,
    config_of,
    model_config,
    tensor_specs,
    to_huggingface,
    to_ours,
)
from transformerlm.errors import CheckpointError, DataError
from transformerlm.language_model import MAX_CONTEXT_LENGTH
from transformerlm.runtime import DTYPES
from transformerlm.storage.safetensors import iterate_tensors, read_entries, tensor_chunks
from transformerlm.storage.safetensors_header import Entry
from transformerlm.storage.untrusted import open_regular, printable
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.formats.tokenizer_json_reader import TOKENIZER_JSON
from transformerlm.tokenizer.formats.tokenizer_json_writer import write_tokenizer_json

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_JSON_BYTES = 4 * 2**20
"""A hundred times the size for the largest models. Parsed JSON takes many times the memory of its text."""
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")
_BUFFER = "rotary_emb.inv_freq"
"""End of the name of a redundant tensor in older files, which is ignored."""


@dataclass(frozen=True)
class Folder:
    """Content of a Hugging Face folder, in this package's terms."""

    path: Path
    model: ModelConfig
    state: dict[str, Tensor]
    """Weights in float32 under our names; a tied head is the embedding's tensor once more."""
    tokenizer: Tokenizer
    eos_token: str | None
    """The special token that ends a text, if the folder names one."""
    model_type: str
    dtype: str
    """Of the weights in the files; several are separated by spaces."""


def read_folder(path: Path) -> Folder:
    """Read a folder that `save_pretrained` or `write_folder` has written.

    Raises:
        CheckpointError: this package cannot represent the model, or its weights are missing or damaged.
        DataError: this package cannot represent the tokenizer.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: expected a folder with {CONFIG} and {WEIGHTS}, found none")
    values = read_json(path / CONFIG)
    config = model_config(values, str(path / CONFIG))
    if config.context_length > MAX_CONTEXT_LENGTH:
        what = f"expected at most {MAX_CONTEXT_LENGTH:,}, got {config.context_length:,}"
        raise CheckpointError(f"{path / CONFIG}: max_position_embeddings: {what}")
    entries = {file: read_entries(path / file) for file in _weight_files(path)}
    specs = _specs_of(config, entries, path)
    if not (path / TOKENIZER_JSON).exists():
        what = (
            f"expected {TOKENIZER_JSON}, found none: only byte-level BPE in Hugging Face's own format is read"
        )
        raise DataError(f"{path}: {what}")
    tokenizer = Tokenizer.from_file(path / TOKENIZER_JSON)
    if tokenizer.vocab_size > config.vocabulary_rows:
        what = f"expected at least the tokenizer's {tokenizer.vocab_size} ids, got {config.vocab_size}"
        raise CheckpointError(f"{path / CONFIG}: vocab_size: {what}")
    dtypes = {str(entry.dtype).removeprefix("torch.") for found in entries.values() for entry in found}
    state = _read_state(config, [path / file for file in entries], specs)
    eos_token = _special_token(values.get("eos_token_id"), tokenizer)
    return Folder(path, config, state, tokenizer, eos_token, values["model_type"], " ".join(sorted(dtypes)))


def write_folder(
    directory: Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    eos_token: str | None,
    generation: GenerationConfig,
    dtype: str = "float32",
) -> None:
    """Write all files of a Hugging Face folder into `directory`, which exists and is empty.

    Args:
        directory: the folder.
        config: the model's.
        state: the model's weights under our names.
        tokenizer: the model's.
        eos_token: the special token that ends a text, and that stands for an empty prompt.
        generation: sampling settings.
        dtype: of the weights: float32, float16 or bfloat16.

    Raises:
        CheckpointError: a weight that is not finite in `dtype`.
        DataError: the tokenizer cannot be written in Hugging Face's format.
    """
    weights = {
        name: cast(tensor, dtype, name).contiguous() for name, tensor in to_huggingface(config, state).items()
    }
    _, chunks = tensor_chunks(weights, {"format": "pt"})
    with (directory / WEIGHTS).open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
    eos = None if eos_token is None else tokenizer.special_token_ids[eos_token]
    unused = range(tokenizer.vocab_size, config.vocabulary_rows)
    _write_json(directory / CONFIG, config_of(config, eos, eos, dtype))
    _write_json(directory / GENERATION_CONFIG, _generation_config(generation, eos, unused))
    write_tokenizer_json(directory, tokenizer, eos_token=eos_token, model_max_length=config.context_length)


def first_difference(path: Path, config: ModelConfig, state: Mapping[str, Tensor]) -> str | None:
    """Return the first tensor of a folder that differs from the weights in `state`, or None."""
    theirs = to_huggingface(config, state)
    for file in _weight_files(path):
        for name, tensor in iterate_tensors(path / file):
            if name in theirs and not torch.equal(tensor.float(), theirs[name]):
                return name
    return None


def cast(tensor: Tensor, dtype: str, name: str) -> Tensor:
    """Return a weight in another precision.

    Raises:
        CheckpointError: an element is not finite in it.
    """
    result = tensor.to(DTYPES[dtype])
    if not result.isfinite().all():
        raise CheckpointError(
            f"{name}: not finite in {dtype}; [export].dtype: bfloat16 and float32 hold more"
        )
    return result


def read_json(path: Path) -> dict[str, Any]:
    """Read an object from an untrusted JSON file.

    Raises:
        CheckpointError: it cannot be read, is too large or holds no object.
    """
    try:
        with open_regular(path, follow_link=True) as file:
            content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"expected at most {MAX_JSON_BYTES:,} bytes, got more")
        values = json.loads(content)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {printable(error)}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {printable(values, 60)}")
    return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _weight_files(directory: Path) -> list[str]:
    """Return the names of the files that hold the weights."""
    if (directory / WEIGHTS).exists():
        return [WEIGHTS]
    if (directory / INDEX).exists():
        table = read_json(directory / INDEX).get("weight_map")
        names = sorted(set(map(str, table.values()))) if isinstance(table, dict) else []
        for name in names:
            if Path(name).name != name or not (directory / name).exists():
                raise CheckpointError(
                    f"{directory / INDEX}: weight_map: no such file here: {printable(name, 80)}"
                )
        if names:
            return names
        raise CheckpointError(f"{directory / INDEX}: expected weight_map, with the file of each tensor")
    pickled = next((name for name in _PICKLED if (directory / name).exists()), None)
    if pickled:
        what = f"{pickled} is a pickle, which could run any code and is never loaded here"
        advice = "where you trust it, save it anew with transformers: model.save_pretrained(FOLDER)"
        raise CheckpointError(f"{directory}: expected {WEIGHTS}; {what}; {advice}")
    raise CheckpointError(f"{directory}: expected {WEIGHTS} or {INDEX}, found neither")


def _specs_of(config: ModelConfig, entries: Mapping[str, list[Entry]], path: Path) -> dict[str, TensorSpec]:
    """Return the specs of the model's tensors by their name in the files, after comparing both.

    Raises:
        CheckpointError: a line for every tensor that is missing, unknown, or of another shape or dtype.
    """
    there = {entry.name: entry for found in entries.values() for entry in found}
    if config.num_layers > len(there):
        what = f"expected {config.num_layers:,} layers, got {len(there):,} tensors"
        raise CheckpointError(f"{path / CONFIG}: num_hidden_layers: {what}")
    specs = {spec.theirs: spec for spec in tensor_specs(config)}
    optional = {"lm_head.weight"} if config.tie_embeddings else set()
    lines = [f"{name}: missing" for name in specs.keys() - there.keys() - optional]
    for name, entry in there.items():
        lines += [f"{printable(name)}: {what}" for what in _mismatches(entry, specs.get(name))]
    if len(there) < sum(map(len, entries.values())):
        lines.append("a tensor is in two files")
    if lines:
        more = [f"and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
        raise CheckpointError([f"{path}: {line}" for line in sorted(lines)[:MAX_LINES] + more])
    return specs


def _mismatches(entry: Entry, spec: TensorSpec | None) -> Iterator[str]:
    if spec is None:
        if not entry.name.endswith(_BUFFER):
            yield "the model that config.json describes has no such tensor"
    elif tuple(entry.shape) != spec.shape:
        yield f"expected shape {spec.shape}, got {printable(tuple(entry.shape))}"
    elif entry.dtype not in DTYPES.values():
        yield f"expected {', '.join(DTYPES)}, got {str(entry.dtype).removeprefix('torch.')}"


def _read_state(config: ModelConfig, files: list[Path], specs: Mapping[str, TensorSpec]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for path in files:
        for name, tensor in iterate_tensors(path):
            if name in specs:
                if not tensor.isfinite().all():
                    raise CheckpointError(f"{path}: {name}: expected numbers, got some that are not finite")
                state[specs[name].ours] = to_ours(specs[name], tensor, config)
    if config.tie_embeddings:
        if not torch.equal(
            state.setdefault("head.weight", state["embedding.weight"]), state["embedding.weight"]
        ):
            what = "expected the embedding once more, as tie_word_embeddings says, got another matrix"
            raise CheckpointError(f"{files[-1].parent}: lm_head.weight: {what}")
        state["head.weight"] = state["embedding.weight"]
    return {spec.ours: state[spec.ours] for spec in specs.values()}


def _special_token(ids: Any, tokenizer: Tokenizer) -> str | None:
    """Return the first special token among one or several ids that a config names, or None."""
    found = ids if isinstance(ids, list) else [ids]
    tokens = {token_id: token for token, token_id in tokenizer.special_token_ids.items()}
    return next(
        (tokens[token_id] for token_id in found if type(token_id) is int and token_id in tokens), None
    )


def _generation_config(generation: GenerationConfig, eos: int | None, unused: range) -> dict[str, Any]:
    """Return [generation] in Hugging Face's terms, in which top_k is 0 for none, and 50 by default."""
    # No pad token: if it were the end token too, transformers would mask that in some texts.
    values: dict[str, Any] = {"bos_token_id": eos, "eos_token_id": eos}
    values |= {"max_new_tokens": generation.max_new_tokens, "do_sample": generation.temperature > 0}
    if generation.temperature > 0:
        values |= {"temperature": generation.temperature, "top_p": generation.top_p}
        values |= {"top_k": generation.top_k or 0}
    if generation.temperature > 0 and generation.min_p:
        values |= {"min_p": generation.min_p}
    if generation.repetition_penalty != 1:
        values |= {"repetition_penalty": generation.repetition_penalty}
    # Rows beyond the vocabulary are never chosen.
    return values | ({"suppress_tokens": [*unused]} if unused else {})
