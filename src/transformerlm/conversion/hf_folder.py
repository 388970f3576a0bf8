"""Reading and writing of Hugging Face folders with Llama-like models.

    config.json             the architecture and its sizes
    generation_config.json  ends of texts and sampling settings
    model.safetensors       or model-00001-of-00002.safetensors ... with model.safetensors.index.json
    tokenizer.json          with tokenizer_config.json

A folder that is read may come from anybody: sizes are compared with the config before memory is allocated,
nothing is unpickled, and no code from the folder is run. Settings that our model does not have are
refused key by key. Weights are read and written one tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformerlm.checkpoint.load_state import MAX_LINES
from transformerlm.config import GenerationConfig, ModelConfig
from transformerlm.conversion.hf_generation import generation_config, generation_of, not_taken
from transformerlm.conversion.hf_layout import (
    TensorSpec,
    config_of,
    model_config,
    stored_specs,
    tensor_specs,
    to_ours,
    to_theirs,
)
from transformerlm.errors import CheckpointError, DataError
from transformerlm.language_model import MAX_CONTEXT_LENGTH
from transformerlm.runtime.device import DTYPES
from transformerlm.storage.safetensors import DeferredTensor, read_entries, read_tensor, tensor_chunks
from transformerlm.storage.safetensors_header import Entry
from transformerlm.storage.untrusted import LFS_ADVICE, LFS_POINTER, open_regular, printable
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.formats.tokenizer_config import read_added_prefix, read_tokenizer_config
from transformerlm.tokenizer.formats.tokenizer_json_reader import TOKENIZER_JSON
from transformerlm.tokenizer.formats.tokenizer_json_writer import token_roles, write_tokenizer_json

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_JSON_BYTES = 4 * 2**20
"""A hundred times the size for the largest models. Parsed JSON takes many times the memory of its text."""
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")
_BUFFER = "rotary_emb.inv_freq"
"""End of the name of a redundant tensor in older files, which is ignored."""


@dataclass(frozen=True)
class Folder:
    """Content of a Hugging Face folder, in this package's terms; weights are read when they are asked for."""

    path: Path
    model: ModelConfig
    files: dict[str, Path]
    """Their name of each tensor -> the file that has it."""
    tokenizer: Tokenizer
    generation: GenerationConfig
    """Tokens that begin and end texts, and the settings of sampling."""
    not_taken: tuple[str, ...]
    """Settings of generation that this package does not have, as `key = value`."""
    model_type: str
    dtype: str
    """Of the weights in the files; several are separated by spaces."""

    @property
    def eos_token(self) -> str | None:
        """The special token that ends a text, if the folder names one."""
        return self.generation.eos_token or None

    def read(self, spec: TensorSpec) -> Tensor:
        """Return a weight in float32 and our order of rows.

        Raises:
            CheckpointError: the file is damaged, or an element is not finite.
        """
        path = self.files[spec.theirs]
        tensor = read_tensor(path, spec.theirs)
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {spec.theirs}: expected numbers, got some that are not finite")
        return to_ours(spec, tensor, self.model)

    def state(self) -> dict[str, DeferredTensor]:
        """Return all weights by our names, read when they are written; a tied head is the embedding again."""
        specs = stored_specs(self.model)
        found = {spec.ours: _deferred(spec, "float32", partial(self.read, spec)) for spec in specs}
        tied = {"head.weight": found["embedding.weight"]} if self.model.tie_embeddings else {}
        return found | tied

    def first_difference(self, state: Mapping[str, Tensor]) -> str | None:
        """Return the first tensor of the folder that differs from the weights under our names, or None."""
        for spec in stored_specs(self.model):
            theirs = read_tensor(self.files[spec.theirs], spec.theirs).float()
            if not torch.equal(theirs, to_theirs(spec, state[spec.ours], self.model)):
                return spec.theirs
        return None


def read_folder(path: Path) -> Folder:
    """Read a folder that `save_pretrained` or `write_folder` has written, all but its weights.

    Raises:
        CheckpointError: this package cannot represent the model, or its weights are missing.
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
    _check_entries(config, entries, path)
    files = {entry.name: path / file for file, found in entries.items() for entry in found}
    _check_tied_head(config, files)
    tokenizer = _read_tokenizer(path, config)
    generation, not_taken = _read_generation(path, values, tokenizer)
    dtypes = {str(entry.dtype).removeprefix("torch.") for found in entries.values() for entry in found}
    model_type, dtype = values["model_type"], " ".join(sorted(dtypes))
    return Folder(path, config, files, tokenizer, generation, not_taken, model_type, dtype)


def _read_tokenizer(path: Path, config: ModelConfig) -> Tokenizer:
    if not (path / TOKENIZER_JSON).exists():
        what = (
            f"expected {TOKENIZER_JSON}, found none: only byte-level BPE in Hugging Face's own format is read"
        )
        raise DataError(f"{path}: {what}")
    tokenizer = Tokenizer.from_file(path / TOKENIZER_JSON)
    if tokenizer.vocab_size > config.vocabulary_rows:
        what = f"expected at least the tokenizer's {tokenizer.vocab_size} ids, got {config.vocab_size}"
        raise CheckpointError(f"{path / CONFIG}: vocab_size: {what}")
    return tokenizer


def _read_generation(
    path: Path, config: Mapping[str, Any], tokenizer: Tokenizer
) -> tuple[GenerationConfig, tuple[str, ...]]:
    """Return [generation] as the folder describes it, and the settings that it does not have."""
    file = path / GENERATION_CONFIG
    values = read_json(file) if file.exists() else {}
    if "eos_token_id" not in values:  # null is an answer: nothing ends a text
        values |= {"eos_token_id": config.get("eos_token_id")}
    prefix = read_added_prefix(path / TOKENIZER_JSON, read_tokenizer_config(path))
    if len(prefix) > 1 or not tokenizer.special_token_ids.keys() >= set(prefix):
        what = f"expected at most one special token before a text, got {prefix!a:.80}"
        raise DataError(f"{path / TOKENIZER_JSON}: post_processor: {what}")
    generation = generation_of(values, tokenizer, "".join(prefix), str(file))
    return generation, tuple(not_taken(values, tokenizer))


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
        generation: beginning of texts, further ends, and sampling settings.
        dtype: of the weights: float32, float16 or bfloat16.

    Raises:
        CheckpointError: a weight that is not finite in `dtype`.
        DataError: the tokenizer cannot be written in Hugging Face's format.
    """

    def weight(spec: TensorSpec) -> Tensor:
        return cast(to_theirs(spec, state[spec.ours].detach(), config), dtype, spec.theirs)

    specs = stored_specs(config)
    weights = {spec.theirs: _deferred(spec, dtype, partial(weight, spec)) for spec in specs}
    _, chunks = tensor_chunks(weights, {"format": "pt"})
    with (directory / WEIGHTS).open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
    bos_token = generation.bos_token or None
    roles = token_roles(tokenizer, eos_token, bos_token)
    unused = range(tokenizer.vocab_size, config.vocabulary_rows)
    values = generation_config(generation, tokenizer, roles, unused)
    bos_id, end_ids = values["bos_token_id"], values["eos_token_id"]
    _write_json(directory / CONFIG, config_of(config, bos_id, end_ids, dtype))
    _write_json(directory / GENERATION_CONFIG, values)
    names: dict[str, Any] = {"eos_token": eos_token, "bos_token": bos_token}
    write_tokenizer_json(directory, tokenizer, **names, model_max_length=config.context_length)


def _deferred(spec: TensorSpec, dtype: str, make: Callable[[], Tensor]) -> DeferredTensor:
    return DeferredTensor(spec.shape, DTYPES[dtype], make)


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
        if content.startswith(LFS_POINTER):
            raise ValueError(LFS_ADVICE)
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


def _check_entries(config: ModelConfig, entries: Mapping[str, list[Entry]], path: Path) -> None:
    """Compare the tensors in the files with the model's.

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


def _check_tied_head(config: ModelConfig, files: Mapping[str, Path]) -> None:
    """Raise CheckpointError if a head that is said to be the embedding is there and is another matrix."""
    names = "model.embed_tokens.weight", "lm_head.weight"
    is_there_too = config.tie_embeddings and names[1] in files
    if is_there_too and not torch.equal(*(read_tensor(files[name], name) for name in names)):
        what = "expected the embedding once more, as tie_word_embeddings says, got another matrix"
        raise CheckpointError(f"{files[names[1]].parent}: {names[1]}: {what}")


def _mismatches(entry: Entry, spec: TensorSpec | None) -> Iterator[str]:
    if spec is None:
        if not entry.name.endswith(_BUFFER):
            yield "the model that config.json describes has no such tensor"
    elif tuple(entry.shape) != spec.shape:
        yield f"expected shape {spec.shape}, got {printable(tuple(entry.shape))}"
    elif entry.dtype not in DTYPES.values():
        yield f"expected {', '.join(DTYPES)}, got {str(entry.dtype).removeprefix('torch.')}"
