"""Export to Hugging Face folders and GGUF files, and import of Hugging Face folders, each checked.

Output has a temporary name until it is checked: transformers or llama.cpp, if installed, must compute the
same logits and token ids from it; without them it is only read back. If a check fails, the output is removed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformerlm.checkpoint.own_settings import own_table
from transformerlm.checkpoint.run_directory import IMPORTED_FROM, environment
from transformerlm.checkpoint.store import write_checkpoint
from transformerlm.config import (
    DataConfig,
    OptimizerConfig,
    RuntimeConfig,
    TokenizerConfig,
    TrainConfig,
    TrainingConfig,
)
from transformerlm.conversion import gguf, parity
from transformerlm.conversion.gguf_model import longest_text
from transformerlm.conversion.hf_folder import (
    GENERATION_CONFIG,
    Folder,
    read_folder,
    write_folder,
)
from transformerlm.conversion.hf_layout import ARCHITECTURES, model_type_of
from transformerlm.errors import CheckpointError, ConfigError, Key
from transformerlm.language_model import LanguageModel
from transformerlm.nn import TransformerLM, num_parameters
from transformerlm.nn.quantization import QuantizedMatrix
from transformerlm.progress import Reporter
from transformerlm.schema import to_dict, to_toml
from transformerlm.storage.files import committed_directory, committed_file
from transformerlm.tokenizer.formats.tokenizer_json_reader import TOKENIZER_JSON

EXACT = RuntimeConfig(device="cpu", dtype="float32")
"""Runtime for conversions: the precision of the weights in a checkpoint."""
CARD = "README.md"
"""The model card in a Hugging Face folder."""
FINE_TUNING_LR = 1e-4
"""Peak learning rate in an imported run's config; that for training from scratch would damage the weights."""


def export_folder(
    lm: LanguageModel,
    output: Path,
    dtype: str,
    reporter: Reporter,
    card: Callable[[], str] | None = None,
    *,
    release: bool = False,
) -> None:
    """Write a model and its tokenizer as a Hugging Face folder, and check it.

    Args:
        lm: in float32 on the CPU.
        output: a folder that is empty or does not exist.
        dtype: of the weights: float32, float16 or bfloat16.
        reporter: receives a message about the output and its check.
        card: returns the folder's README.md; called once the rest is written. None: no such file.
        release: free the model's weights before another program loads them, so that memory holds them once.
            The model cannot be used afterwards.

    Raises:
        ConfigError: something is at `output`.
        CheckpointError: what was written is not the same model; it is removed.
        DataError: the tokenizer cannot be written in Hugging Face's format.
    """
    refuse_existing(output, Key("export", "output"))
    config, state = lm.model.config, lm.model.state_dict()
    with committed_directory(output) as temporary:
        write_folder(temporary, config, state, lm.tokenizer, eos_token_of(lm), lm.generation, dtype)
        if card:
            (temporary / CARD).write_bytes(card().encode("utf-8", "replace"))
        del state
        found = _check_folder(temporary, lm, dtype, release)
    kind = ARCHITECTURES[model_type_of(config)]
    reporter.say(f"exported: {output}: {kind}, {num_parameters(config):,} parameters in {dtype}")
    reporter.say(f"checked: {found}")
    if lm.generation.stop:
        reporter.say(
            "not taken over: [generation].stop, whose strings transformers takes with each call alone"
        )


def export_gguf(
    lm: LanguageModel, output: Path, dtype: str, reporter: Reporter, *, release: bool = False
) -> None:
    """Write a model and its tokenizer as one GGUF file for llama.cpp, and check it.

    Args:
        lm: in float32 on the CPU.
        output: a path at which nothing exists.
        dtype: of the matrices: float32, float16, bfloat16, q8_0 or q4_0.
        reporter: receives a message about the output and its check.
        release: see `export_folder`.

    Raises:
        ConfigError: something is at `output`, the package gguf is not installed, or q8_0 and q4_0 cannot
            hold the matrices' rows.
        CheckpointError: what was written is not the same model; it is removed.
        DataError: llama.cpp cannot represent the tokenizer.
    """
    refuse_existing(output, Key("export", "output"), folder_may_be_empty=False)
    settings = eos_token_of(lm), dtype, lm.generation
    contents = gguf.make(lm.model.config, lm.model.state_dict(), lm.tokenizer, *settings)
    with committed_file(output) as file:
        temporary = Path(file.name)
        gguf.write(temporary, contents)
        gguf.check_written(temporary, contents)
        kind = contents.architecture
        del contents
        found = "read back with gguf: every tensor, the tokens, the merges"
        if parity.is_installed("llama_cpp"):
            found += f"; {_check_in_llama_cpp(temporary, lm, dtype, release)}"
    config = lm.model.config
    reporter.say(f"exported: {output}: {kind}, {num_parameters(config):,} parameters in {dtype}")
    reporter.say(f"checked: {found}")
    if (length := longest_text(config)) < config.context_length:
        what = f"texts of up to {length:,} tokens, on which [model].sliding_window does nothing"
        reporter.say(f"not taken over: the window, which llama.cpp does not have: the file is for {what}")
    if left_out := (*lm.generation.stop_tokens[1:], *lm.generation.stop):
        reporter.say(
            f"not taken over: ends of texts that a GGUF file cannot hold: {', '.join(map(repr, left_out))}"
        )


def import_folder(source: Path, run_dir: Path, reporter: Reporter) -> None:
    """Turn a Hugging Face folder into a run's folder, which can generate, be evaluated and be fine-tuned.

    Args:
        source: the Hugging Face folder.
        run_dir: a folder that is empty or does not exist.
        reporter: receives a message about the import and its check.

    Raises:
        ConfigError: something is at `run_dir`.
        CheckpointError: this package cannot represent the model, or transformers computes something else.
        DataError: this package cannot represent the tokenizer.
    """
    refuse_existing(run_dir, Key("import_model", "run_dir"))
    folder = read_folder(source)
    config = run_config(folder, run_dir)
    with committed_directory(run_dir) as temporary:
        (temporary / "config.toml").write_text(to_toml(config), encoding="utf-8")
        folder.tokenizer.save(temporary / "tokenizer")
        write_checkpoint(temporary / "checkpoints", 0, folder.state(), {}, _about(folder, config))
        found = _check_import(folder, temporary)
    size = f"{num_parameters(folder.model):,} parameters in {folder.dtype}"
    reporter.say(f"imported: {source}: {ARCHITECTURES[folder.model_type]}, {size}, into {run_dir}")
    reporter.say(f"checked: {found}")
    if folder.not_taken:
        reporter.say(f"not taken over: {GENERATION_CONFIG}: {'; '.join(folder.not_taken)}")


def run_config(folder: Folder, run_dir: Path) -> TrainConfig:
    """Return the config of a run that starts from an imported model; the user adds the corpus."""
    tokenizer, eos = folder.tokenizer, folder.eos_token
    special_tokens, pattern = tuple(tokenizer.special_token_ids), tokenizer.form.pattern
    return TrainConfig(
        data=DataConfig(document_separator=eos or "", token_dir=f"{run_dir}-{{corpus}}/data"),
        tokenizer=TokenizerConfig(
            tokenizer_dir=f"{run_dir}/tokenizer",
            vocab_size=max(tokenizer.vocab_size, 256 + len(special_tokens)),
            special_tokens=special_tokens,
            **({"pattern": pattern} if isinstance(pattern, str) else {}),
        ),
        model=folder.model,
        optimizer=OptimizerConfig(lr=FINE_TUNING_LR),
        training=TrainingConfig(run_dir=f"{run_dir}-{{corpus}}", start_from=str(run_dir)),
        generation=folder.generation,
    )


def eos_token_of(lm: LanguageModel) -> str | None:
    """Return the special token that ends a model's texts: [generation]'s, or else the document separator."""
    known = list(lm.tokenizer.special_token_ids)
    candidates = lm.generation.eos_token, own_table(lm.checkpoint.about, "data").get("document_separator")
    return next((token for token in candidates if token in known), None)


def refuse_existing(path: Path, key: Key, *, folder_may_be_empty: bool = True) -> None:
    """Raise ConfigError if something exists at `path`: nothing is ever overwritten."""
    if path.exists() and not (folder_may_be_empty and path.is_dir() and not any(path.iterdir())):
        what = f"expected a path where there is nothing, got {path}; remove it, or choose another"
        raise ConfigError(what, key=key)


def _about(folder: Folder, config: TrainConfig) -> dict[str, Any]:
    """Return the checkpoint's `about`, like a run's but without data and training."""
    model = {f"[model].{key}": value for key, value in to_dict(config.model).items()}
    return {
        "config": to_dict(config),
        "identity": {**model, "tokenizer": folder.tokenizer.fingerprint},
        "environment": environment(),
        "newest_validation": [],
        IMPORTED_FROM: f"{folder.path} ({ARCHITECTURES[folder.model_type]}, {folder.dtype})",
    }


def _as_written(model: TransformerLM, dtype: str, min_dims: int, *, in_place: bool) -> TransformerLM:
    """Return the model with weights of at least `min_dims` dimensions rounded to `dtype`, in float32.

    A copy, unless that is the model itself, or it may be changed `in_place`.
    """
    if dtype == "float32":
        return model
    rounded = model if in_place else copy.deepcopy(model)
    for name, parameter in rounded.named_parameters():
        if parameter.dim() >= min_dims:
            stored = gguf.in_dtype(parameter.data, dtype, name)
            parameter.data = stored.dequantize() if isinstance(stored, QuantizedMatrix) else stored.float()
    return rounded


def _release(model: TransformerLM) -> None:
    """Free the memory of a model's weights."""
    model.to("meta")


def _check_folder(folder: Path, lm: LanguageModel, dtype: str, release: bool) -> str:
    """Check that an exported folder is this model and this tokenizer; return a sentence about the check."""
    back, model = read_folder(folder), _as_written(lm.model, dtype, 1, in_place=release)
    if name := back.first_difference(model.state_dict()):
        raise CheckpointError(f"{name}: read back as something else")
    parity.check_ids(lm.tokenizer, back.tokenizer.encode, "read back")
    if not parity.is_installed("transformers"):
        return "read back to the same bits and ids; not by transformers, which is not installed"
    name = parity.version_of("transformers")
    expected = parity.expectations(model, lm.tokenizer, back.generation)
    if release:
        _release(model)
    with parity.loading(name):
        peer = parity.TransformersPeer(folder)
    parity.check_ids(lm.tokenizer, peer.encode, name)
    return _check_peer(expected, peer, name)


def _check_import(folder: Folder, run_dir: Path) -> str:
    """Check that an imported run is the model in the folder; return a sentence about the check."""
    expected = _check_run(folder, run_dir)  # its model has left memory again before the peer's comes
    found = "all tensors the same bits on the way back"
    if parity.is_installed("tokenizers"):
        name = parity.version_of("tokenizers")
        with parity.loading(name):
            encode = parity.tokenizers_tokenizer(folder.path / TOKENIZER_JSON)
        parity.check_ids(folder.tokenizer, encode, name)
        found += f"; {name}: the same ids"
    if not parity.is_installed("transformers"):
        return f"{found}; not by transformers, which is not installed"
    name = parity.version_of("transformers")
    with parity.loading(name):
        peer = parity.TransformersPeer(folder.path)
    if what := parity.find_other_ids(folder.tokenizer, peer.encode):
        # As where tokenizer_config.json names a class that brings a pre-tokenizer of its own.
        largest = parity.check_logits(expected, peer.logits, name)
        return f"{found}; {_within(largest, name)}; it reads {TOKENIZER_JSON} as something else: {what}"
    return f"{found}; {_check_peer(expected, peer, name)}"


def _check_run(folder: Folder, run_dir: Path) -> list[parity.Expected]:
    """Compare an imported run's weights with the folder's; return what the run makes of some texts."""
    lm = LanguageModel.load(run_dir, EXACT)
    if name := folder.first_difference(lm.model.state_dict()):
        raise CheckpointError(f"{name}: became something else")
    return parity.expectations(lm.model, lm.tokenizer, lm.generation)


def _check_peer(expected: list[parity.Expected], peer: parity.TransformersPeer, name: str) -> str:
    largest = parity.check_logits(expected, peer.logits, name)
    parity.check_prompts(expected, peer, name)
    return f"{_within(largest, name)}, the same ids of prompts, the same greedy texts"


def _check_in_llama_cpp(file: Path, lm: LanguageModel, dtype: str, release: bool) -> str:
    name, model = parity.version_of("llama_cpp"), _as_written(lm.model, dtype, 2, in_place=release)
    length = longest_text(model.config)
    expected = parity.expectations(model, lm.tokenizer, lm.generation, length)
    if release:
        _release(model)
    with parity.loading(name):
        encode, logits = gguf.load_in_llama_cpp(file, length)
    parity.check_ids(lm.tokenizer, encode, name)
    largest = parity.check_logits(expected, logits, name, gguf.TOLERANCES[dtype])
    return f"{_within(largest, name)}, the same ids"


def _within(largest: float, peer: str) -> str:
    texts = f"{parity.NUM_SEQUENCES} texts and their greedy continuations"
    return f"{peer}: logits within {largest:.1e} on {texts}"
