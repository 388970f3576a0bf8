"""A trained model with its tokenizer, loaded from a run's folder: to generate text, to score, to convert."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast, overload

import torch
from torch import Tensor

from transformerlm.checkpoint.load_state import check_model_state
from transformerlm.checkpoint.own_settings import own_generation
from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.checkpoint.store import Checkpoint, load_model_state, open_checkpoint
from transformerlm.config import GenerationConfig, ModelConfig, RuntimeConfig
from transformerlm.errors import CheckpointError, ConfigError, Key
from transformerlm.infer import (
    Completion,
    Continuation,
    completions,
    cut_prompts_warning,
    extend,
    start,
)
from transformerlm.infer.completion import start_encoded
from transformerlm.infer.speed import generation_seconds
from transformerlm.kernels.generation_layout import GROUP
from transformerlm.ngrams import NgramMemory
from transformerlm.nn import TransformerLM, num_parameters
from transformerlm.nn.quantization import (
    QuantizedMatrix,
    Storage,
    can_quantize,
    quantize,
    quantize_,
)
from transformerlm.runtime import Runtime, choose_precision
from transformerlm.runtime.device import DtypeName, resolve_device
from transformerlm.runtime.precision import Precision
from transformerlm.schema import NonNegativeInt, from_dict
from transformerlm.schema.values import show
from transformerlm.storage.safetensors_header import Entry
from transformerlm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformerlm.infer.chat_template import Messages

MAX_CONTEXT_LENGTH = 2**20
"""Longest context accepted from a checkpoint, whose config may be hostile: RoPE tables are allocated for it,
and the weights do not bound it."""
_NUMBER_OF_TEXTS = ("num_samples", "log_probs")
"""Keys of [generation] that say how much is returned, which only the caller can know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings(GenerationConfig):
    """Settings of `LanguageModel`'s methods: the keys of [generation], and which random numbers to use."""

    seed: NonNegativeInt = 0
    """Seed of the random numbers."""
    first_row: NonNegativeInt = 0
    """Random stream of the first text; each following text has the next one. A text depends on its seed and
    row, not on the batch: with the CPU kernels to the last bit, otherwise except for rounding."""


@dataclass(frozen=True)
class LanguageModel:
    """A model in evaluation mode, its tokenizer, and the checkpoint that both were loaded from.

        lm = LanguageModel.load("runs/python-stdlib")
        lm.generate("class Queue:", temperature=0.7, max_new_tokens=60, seed=1)

    Its methods take the keys of [generation] as keyword arguments (documented in `GenerationConfig`), and
    `seed` and `first_row` (see `Settings`). What is not given is as the run's own config says, except for
    `num_samples` and `log_probs`. A wrong one is a ConfigError that names it. The same call gives the same
    text; for another text pass another seed.
    """

    model: TransformerLM
    tokenizer: Tokenizer
    checkpoint: Checkpoint
    runtime: Runtime
    ngrams: NgramMemory | None = None
    """The run's memory of n-grams, with which the model's probabilities are mixed; None: the model alone."""

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        runtime: RuntimeConfig | None = None,
        warn: Callable[[str], object] = lambda line: None,
    ) -> Self:
        """Load a run's best checkpoint, or its newest one if it may go on; or one checkpoint by its folder.

        Nothing that is global to the process changes: no random state, thread count or default of torch.

        Args:
            runtime: device, precision of the weights, attention, kernels, by default the fastest available;
                and whether the run's memory of n-grams is used.
                On a CPU "auto" is measured for a model of these sizes when it is first loaded, and kept
                beside the compiled kernels. Its num_threads, seed and deterministic concern commands and are
                ignored here.
            warn: called with a line about each damaged checkpoint that is skipped, if a run's best one is not
                its newest, and if the precision asked for is slower than float32.

        Raises:
            CheckpointError: if there is none, or its tokenizer is not the one that it was trained with.
            ConfigError: for a device that this machine lacks, or a memory of n-grams that the run lacks.
        """
        config = runtime or RuntimeConfig()
        checkpoint = open_checkpoint(Path(path).expanduser(), warn)
        tokenizer = RunDirectory.of(checkpoint).tokenizer(checkpoint)
        model, resolved = load_model(checkpoint, config, warn)
        ngrams = load_memory(checkpoint, config)
        return cls(model, tokenizer, checkpoint, resolved, ngrams)

    @property
    def generation(self) -> GenerationConfig:
        """[generation] of the run's own config.

        Raises:
            ConfigError: a value that is not allowed.
        """
        source = str(self.checkpoint.path)
        return from_dict(GenerationConfig, own_generation(self.checkpoint.about), source)

    @overload
    def generate(self, prompt: str, **settings: Any) -> str: ...
    @overload
    def generate(self, prompt: Sequence[str], **settings: Any) -> list[str]: ...
    def generate(self, prompt: str | Sequence[str], **settings: Any) -> str | list[str]:
        """Continue a prompt; return the continuation alone, or a list of them for several prompts.

        Raises:
            ConfigError: for a setting that is unknown or wrong; `num_samples` is for `complete`.
        """
        chosen = self._one_text_each("generate", prompt, settings)
        texts = [completion.text for completion in self._complete(chosen)]
        return texts[0] if isinstance(prompt, str) else texts

    def stream(self, prompt: str, **settings: Any) -> Iterator[str]:
        """Yield the text that `generate` returns piece by piece, as it is generated, in whole characters.

        Raises:
            ConfigError: see `generate`; raised by the call, not by the first iteration.
        """
        if not isinstance(prompt, str):
            raise ConfigError(f"stream: prompt: expected text, got {show(prompt)}")
        chosen = self._one_text_each("stream", prompt, settings)
        texts = start(self.tokenizer, chosen, chosen.first_row)
        self._warn_of_cut_prompts(texts, stacklevel=3)
        return (piece for _, piece in self.extend(chosen, texts, chosen.seed) if piece)

    def chat(self, messages: Messages, **settings: Any) -> str:
        """Return the model's answer to a conversation, in the form of its tokenizer's chat template.

            lm.chat([{"role": "user", "content": "What is a queue?"}], max_new_tokens=200)

        The answer ends at the tokens of `infer.chat.ChatFormat.settings` too. If the last message is of the
        role "assistant", it goes on, and what comes behind it is returned.

        Raises:
            ConfigError: for a setting that is unknown or wrong, messages that the template refuses, or a
                model without a chat template.
        """
        from transformerlm.infer.chat import ChatFormat, Conversation

        form = ChatFormat(self.tokenizer)
        prompt = form.encode(Conversation(messages))
        chosen = self._one_text_each("chat", prompt.text, settings)
        ends = form.settings(chosen).stop_tokens
        chosen = dataclasses.replace(chosen, stop_tokens=ends)
        texts = start_encoded(self.tokenizer, chosen, [prompt], chosen.first_row)
        self._warn_of_cut_prompts(texts, stacklevel=3)
        return "".join(piece for _, piece in self.extend(chosen, texts, chosen.seed))

    def complete(self, prompts: str | Sequence[str], **settings: Any) -> list[Completion]:
        """Continue prompts with `num_samples` texts each; return texts, ids and more, prompt by prompt.

        Raises:
            ConfigError: for a setting that is unknown or wrong.
        """
        return self._complete(self._settings("complete", prompts, settings))

    def extend(
        self, generation: GenerationConfig, texts: Sequence[Continuation], seed: int
    ) -> Iterator[tuple[int, str]]:
        """`infer.extend` with this model."""
        kernels, ngrams = self.runtime.kernels, self.ngrams
        return extend(self.model, self.tokenizer, generation, texts, seed, kernels, ngrams)

    def _complete(self, chosen: Settings) -> list[Completion]:
        model, tokenizer, kernels = self.model, self.tokenizer, self.runtime.kernels
        texts = start(tokenizer, chosen, chosen.first_row)
        self._warn_of_cut_prompts(texts, stacklevel=4)
        written = completions(
            model, tokenizer, chosen, texts, chosen.seed, kernels=kernels, ngrams=self.ngrams
        )
        return list(written)

    def _warn_of_cut_prompts(self, texts: Sequence[Continuation], stacklevel: int) -> None:
        if warning := cut_prompts_warning(texts, self.model.config.context_length):
            warnings.warn(warning, stacklevel=stacklevel)

    def _settings(self, method: str, prompts: str | Sequence[str], settings: Mapping[str, Any]) -> Settings:
        if "prompts" in settings:
            what = "expected as the first argument, got a setting of that name"
            raise ConfigError(f"{method}: prompts: {what}")
        listed: object = [prompts] if isinstance(prompts, str) else prompts
        if isinstance(listed, Iterable) and not isinstance(listed, bytes):
            listed = list(listed)  # what cannot be listed is refused with the other problems
        own = own_generation(self.checkpoint.about)
        defaults = {key: value for key, value in own.items() if key not in _NUMBER_OF_TEXTS}
        return from_dict(Settings, {**defaults, "prompts": listed, **settings}, method)

    def _one_text_each(
        self, method: str, prompts: str | Sequence[str], settings: Mapping[str, Any]
    ) -> Settings:
        chosen = self._settings(method, prompts, settings)
        if chosen.num_samples > 1:
            what = f"expected 1, as only `complete` returns several, got {chosen.num_samples}"
            raise ConfigError(f"{method}: num_samples: {what}")
        return chosen


def load_memory(
    checkpoint: Checkpoint, config: RuntimeConfig, *, to_score: bool = False
) -> NgramMemory | None:
    """Load the run's memory of n-grams, if [runtime] wants it.

    Args:
        to_score: a text is scored, for which "auto" wants what there is.

    Raises:
        ConfigError: it is asked for, and the run has kept none.
        CheckpointError: it is damaged, or that of another run.
    """
    if not config.ngram_memory or (config.ngram_memory == "auto" and not to_score):
        return None
    run = RunDirectory.of(checkpoint)
    found = run.memory(checkpoint)
    if found is None and config.ngram_memory is True:
        what = f"expected a run that has kept one by [training].ngram_memory, got {run.path}"
        raise ConfigError(what, key=Key("runtime", "ngram_memory"))
    return found


def load_model(
    checkpoint: Checkpoint, config: RuntimeConfig, warn: Callable[[str], object]
) -> tuple[TransformerLM, Runtime]:
    """Load the checkpoint's model, in evaluation mode, its weights in the precision of [runtime], resolved.

    Raises:
        CheckpointError: if the weights are not those of the model that its config describes.
    """
    shape = from_dict(ModelConfig, checkpoint.require("config", "model"), str(checkpoint.path))
    if config.weights in ("int8", "int4"):
        return _quantized_model(shape, config, config.weights, checkpoint)
    if config.weights != "auto":
        config = dataclasses.replace(config, dtype=cast(DtypeName, config.weights))
    model = _stored_model(shape, config.attention, checkpoint)
    precision = choose_precision(config, shape, generation_seconds)
    if precision.warning:
        warn(precision.warning)
    runtime = Runtime.of(config, precision)
    # One tensor after the other; the file's own numbers are one piece of memory, freed after the last.
    model._apply(lambda tensor: _placed(tensor, runtime))
    return model.eval(), runtime


def _stored_model(shape: ModelConfig, backend: str, checkpoint: Checkpoint) -> TransformerLM:
    """Return a model whose weights are the tensors read from the checkpoint, on the CPU."""
    state = checkpoint.model_state()
    check_size(shape, state, checkpoint)
    # Built on the device "meta", where no weights are drawn: torch's random state stays as it was.
    model = TransformerLM(shape, backend=backend, device="meta", dtype=torch.float32)
    load_model_state(model, state, str(checkpoint.path), assign=True)
    return model


def _quantized_model(
    shape: ModelConfig, config: RuntimeConfig, storage: Storage, checkpoint: Checkpoint
) -> tuple[TransformerLM, Runtime]:
    """`load_model` with matrices in eight or four bits; each is quantized as soon as it has been read.

    On a CPU all else is float32, unless [runtime].dtype says otherwise.
    """
    check_widths(shape, storage, Key("runtime", "weights"))
    precision = Precision("float32") if config.dtype == "auto" else Precision(config.dtype)
    if resolve_device(config.device).type != "cpu":
        precision = choose_precision(config, shape)
    runtime = dataclasses.replace(Runtime.of(config, precision), weights=storage)

    def convert(entry: Entry, tensor: Tensor) -> Tensor | QuantizedMatrix:
        try:
            return quantize(tensor, storage) if tensor.dim() == 2 else tensor.to(runtime.dtype)
        except ValueError as error:
            raise CheckpointError(
                f"{checkpoint.path}: {entry.name}: cannot be stored in {storage}: {error}"
            ) from None

    state = checkpoint.model_state(convert)
    check_size(shape, state, checkpoint)
    model = TransformerLM(shape, backend=config.attention, device="meta", dtype=torch.float32)
    sizes = {
        name: torch.empty(value.shape, dtype=torch.float32, device="meta") for name, value in state.items()
    }
    check_model_state(model, sizes, str(checkpoint.path))
    quantize_(model, lambda name, weight: state.pop(name))
    model.load_state_dict(state, strict=False, assign=True)
    # In the tables on "meta", whose modules fill them again, is nothing to place.
    model._apply(lambda tensor: _moved(tensor, runtime))
    return model.eval(), runtime


def check_widths(shape: ModelConfig, storage: Storage, key: Key) -> None:
    """Check that the rows of all matrices can be divided into groups that share a scale.

    Args:
        key: the key that asks for this storage.

    Raises:
        ConfigError: with the widths of those that cannot.
    """
    widths = {
        "d_model": shape.d_model,
        "num_heads * d_head": shape.num_heads * shape.head_dim,
        "d_ff": shape.d_ff,
    }
    others = [f"{name} = {width}" for name, width in widths.items() if not can_quantize(width)]
    if others:
        what = (
            f"{storage} needs a model whose widths are multiples of {GROUP}; this one has {', '.join(others)}"
        )
        raise ConfigError(what, key=key)


def _moved(tensor: Tensor, runtime: Runtime) -> Tensor:
    """`_placed` without a change of dtype."""
    return _placed(tensor, dataclasses.replace(runtime, dtype=tensor.dtype))


def _placed(tensor: Tensor, runtime: Runtime) -> Tensor:
    """Return a weight on the runtime's device in its precision; for a table on "meta", which its module
    fills again, new memory."""
    if tensor.is_meta:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=runtime.device)
    return tensor.to(runtime.device, runtime.dtype)


def check_size(shape: ModelConfig, state: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Check, before memory is allocated, that the config describes a model of the size of the weights.

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
