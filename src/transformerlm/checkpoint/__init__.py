"""Checkpoints: safetensors files with a manifest of checksums. Nothing is pickled."""

from transformerlm.checkpoint.load_state import load_model_state, load_optimizer_state
from transformerlm.checkpoint.manifest import Checkpoint, read_checkpoint
from transformerlm.checkpoint.store import (
    checkpoint_paths,
    latest_checkpoint,
    load_checkpoint,
    open_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    write_checkpoint,
)

__all__ = [
    "Checkpoint",
    "checkpoint_paths",
    "latest_checkpoint",
    "load_checkpoint",
    "load_model_state",
    "load_optimizer_state",
    "open_checkpoint",
    "prune_checkpoints",
    "read_checkpoint",
    "save_checkpoint",
    "write_checkpoint",
]
