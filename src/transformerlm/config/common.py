"""The keys that most users need: those that `--help` shows; `--help=all` shows every key."""

from __future__ import annotations

from collections.abc import Mapping

COMMON_KEYS: Mapping[str, tuple[str, ...]] = {
    "data": ("corpus", "include", "token_dir"),
    "tokenizer": ("tokenizer_dir", "vocab_size"),
    "model": ("context_length", "d_model", "num_layers", "num_heads"),
    "optimizer": ("lr",),
    "schedule": (),
    "training": ("run_dir", "max_time", "max_steps", "batch_size", "start_from"),
    "generation": ("prompts", "max_new_tokens", "temperature", "top_p", "num_samples"),
    "infer": ("checkpoint", "prompt_file", "output_file"),
    "eval": ("checkpoint", "compare", "text", "max_documents", "documents_file"),
    "runtime": ("device", "dtype", "seed"),
    "logging": ("backend",),
    "sweep": ("method", "max_trials", "space"),
    "wandb": (),
}
"""Table -> its common keys. A table that is not named here is common as a whole: it is a small one."""


def is_common(table: str, key: str) -> bool:
    """Return True if `--help` shows the key."""
    return table not in COMMON_KEYS or key in COMMON_KEYS[table]
