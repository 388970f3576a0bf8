"""A trained model together with its tokenizer, from a run's folder: what writes, scores and leaves home."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from transformerlm.checkpoint import Checkpoint, load_model_state, open_checkpoint
from transformerlm.config import ModelConfig, RuntimeConfig
from transformerlm.errors import CheckpointError
from transformerlm.nn import TransformerLM, num_parameters
from transformerlm.rundir import RunDirectory
from transformerlm.runtime import Runtime
from transformerlm.schema import from_dict
from transformerlm.tokenizer import Tokenizer

MAX_CONTEXT_LENGTH = 2**20
"""Of a checkpoint, which may be a stranger's: the weights do not show it, and tables are made for it."""


@dataclass(frozen=True)
class LanguageModel:
    """A model in evaluation mode, its tokenizer, and the checkpoint that it comes from."""

    model: TransformerLM
    tokenizer: Tokenizer
    checkpoint: Checkpoint
    runtime: Runtime

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        runtime: RuntimeConfig | None = None,
        warn: Callable[[str], object] = lambda line: None,
    ) -> Self:
        """Load a run's newest valid checkpoint, or one checkpoint by its own folder.

        Args:
            runtime: device, precision of the weights, attention; by default what this machine is best at.
            warn: told of each damaged checkpoint that is passed over.

        Raises:
            CheckpointError: where there is none, or its tokenizer is not its own.
            ConfigError: for a device that this machine lacks.
        """
        config = runtime or RuntimeConfig()
        checkpoint = open_checkpoint(Path(path).expanduser(), warn)
        tokenizer = RunDirectory.of(checkpoint).tokenizer(checkpoint)
        resolved = Runtime.from_config(config)
        return cls(load_model(checkpoint, config, resolved), tokenizer, checkpoint, resolved)


def load_model(checkpoint: Checkpoint, config: RuntimeConfig, runtime: Runtime) -> TransformerLM:
    """The checkpoint's model, in evaluation mode, its weights in the precision of [runtime].

    Raises:
        CheckpointError: where the weights are not those of the model that its config describes.
    """
    state = checkpoint.model_state()
    shape = from_dict(ModelConfig, checkpoint.told("config", "model"), str(checkpoint.path))
    check_size(shape, state, checkpoint)
    model = TransformerLM(shape, backend=config.attention, device=runtime.device)
    load_model_state(model, state, str(checkpoint.path))
    return model.to(runtime.dtype).eval()


def check_size(shape: ModelConfig, state: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse a config that asks for another model than the weights are of, before memory is taken for it.

    Raises:
        CheckpointError: with both sizes.
    """
    expected, got = num_parameters(shape), sum(tensor.numel() for tensor in state.values())
    if expected != got or shape.num_layers > len(state):
        what = f"expected {expected:,} weights in {shape.num_layers:,} layers, got {got:,}"
        raise CheckpointError(f"{checkpoint.path}: {what}")
    if shape.context_length > MAX_CONTEXT_LENGTH:
        what = f"expected at most {MAX_CONTEXT_LENGTH:,}, got {shape.context_length:,}"
        raise CheckpointError(f"{checkpoint.path}: [model].context_length: {what}")
