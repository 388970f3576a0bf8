"""A trained model together with its tokenizer, from a run's folder: what writes, scores and leaves home."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.checkpoint.store import Checkpoint, load_model_state, open_checkpoint
from transformerlm.config import GenerationConfig, ModelConfig, RuntimeConfig
from transformerlm.errors import CheckpointError, ConfigError
from transformerlm.infer import Completion, Continuation, begin, complete, grow
from transformerlm.nn import TransformerLM, num_parameters
from transformerlm.runtime import Runtime
from transformerlm.schema import NonNegativeInt, from_dict
from transformerlm.tokenizer import Tokenizer

MAX_CONTEXT_LENGTH = 2**20
"""Of a checkpoint, which may be a stranger's: the weights do not show it, and tables are made for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings(GenerationConfig):
    """How `LanguageModel` writes: the keys of [generation], and which random numbers it draws with."""

    seed: NonNegativeInt = 0
    """Seed of the random numbers."""
    first_row: NonNegativeInt = 0
    """Row of the first text; the next ones follow. Row 7 of a seed is drawn alike in any batch."""


@dataclass(frozen=True)
class LanguageModel:
    """A model in evaluation mode, its tokenizer, and the checkpoint that it comes from.

        lm = LanguageModel.load("runs/python-stdlib")
        lm.generate("class Queue:", temperature=0.7, max_new_tokens=60, seed=1)

    The settings of its methods are those of [generation] in a config (`GenerationConfig` documents them),
    with the same defaults, and `seed` and `first_row` (see `Settings`). One that is wrong is a ConfigError
    with a line that names it. The same call gives the same text: for another one give another seed.
    """

    model: TransformerLM
    tokenizer: Tokenizer
    checkpoint: Checkpoint
    runtime: Runtime
    kernels: bool = True
    """[runtime].kernels: on a CPU, write with this package's own, compiled once."""

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
        model = load_model(checkpoint, config, resolved)
        return cls(model, tokenizer, checkpoint, resolved, resolved.kernels)

    @overload
    def generate(self, prompt: str, **settings: Any) -> str: ...
    @overload
    def generate(self, prompt: Sequence[str], **settings: Any) -> list[str]: ...
    def generate(self, prompt: str | Sequence[str], **settings: Any) -> str | list[str]:
        """What the model writes after a prompt: the continuation alone; for several prompts a list of them.

        Raises:
            ConfigError: for a setting that is unknown or wrong; `num_samples` is for `complete`.
        """
        chosen = _one_text_each("generate", prompt, settings)
        texts = [completion.text for completion in self._complete(chosen)]
        return texts[0] if isinstance(prompt, str) else texts

    def stream(self, prompt: str, **settings: Any) -> Iterator[str]:
        """The text that `generate` returns, piece by piece as it is written; no piece breaks a character.

        Raises:
            ConfigError: as `generate`, before the first piece is asked for.
        """
        chosen = _one_text_each("stream", prompt, settings)
        texts = begin(self.tokenizer, chosen, chosen.first_row)
        return (piece for _, piece in self.grow(chosen, texts, chosen.seed) if piece)

    def complete(self, prompts: str | Sequence[str], **settings: Any) -> list[Completion]:
        """All that there is to know of what the model writes: `num_samples` texts a prompt, prompt by prompt.

        Raises:
            ConfigError: for a setting that is unknown or wrong.
        """
        return self._complete(_settings("complete", prompts, settings))

    def grow(
        self, generation: GenerationConfig, texts: Sequence[Continuation], seed: int
    ) -> Iterator[tuple[int, str]]:
        """`infer.grow` with this model."""
        return grow(self.model, self.tokenizer, generation, texts, seed, self.kernels)

    def _complete(self, chosen: Settings) -> list[Completion]:
        seed, first_row = chosen.seed, chosen.first_row
        return complete(
            self.model, self.tokenizer, chosen, seed=seed, first_row=first_row, kernels=self.kernels
        )


def _settings(method: str, prompts: str | Sequence[str], settings: Mapping[str, Any]) -> Settings:
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    return from_dict(Settings, dict(prompts=listed, **settings), method)


def _one_text_each(method: str, prompts: str | Sequence[str], settings: Mapping[str, Any]) -> Settings:
    chosen = _settings(method, prompts, settings)
    if chosen.num_samples > 1:
        what = f"expected 1, for `complete` is what returns several, got {chosen.num_samples}"
        raise ConfigError(f"{method}: num_samples: {what}")
    return chosen


def load_model(checkpoint: Checkpoint, config: RuntimeConfig, runtime: Runtime) -> TransformerLM:
    """The checkpoint's model, in evaluation mode, its weights in the precision of [runtime].

    Raises:
        CheckpointError: where the weights are not those of the model that its config describes.
    """
    state = checkpoint.model_state()
    shape = from_dict(ModelConfig, checkpoint.require("config", "model"), str(checkpoint.path))
    check_size(shape, state, checkpoint)
    # Made on the device "meta", where no weights are drawn: torch's random numbers stay as they are.
    model = TransformerLM(shape, backend=config.attention, device="meta").to_empty(device=runtime.device)
    load_model_state(model, state, str(checkpoint.path))
    return model.to(runtime.dtype).eval()


def check_size(shape: ModelConfig, state: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse a config that asks for another model than the weights are of, before memory is taken for it.

    Raises:
        CheckpointError: with both sizes.
    """
    tensors = {id(tensor): tensor for tensor in state.values()}.values()  # tied ones are one
    expected, got = num_parameters(shape), sum(tensor.numel() for tensor in tensors)
    if expected != got or shape.num_layers > len(state):
        what = f"expected {expected:,} weights in {shape.num_layers:,} layers, got {got:,}"
        raise CheckpointError(f"{checkpoint.path}: {what}")
    if shape.context_length > MAX_CONTEXT_LENGTH:
        what = f"expected at most {MAX_CONTEXT_LENGTH:,}, got {shape.context_length:,}"
        raise CheckpointError(f"{checkpoint.path}: [model].context_length: {what}")
