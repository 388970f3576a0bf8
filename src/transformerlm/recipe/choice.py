"""The choice of everything that is "auto": the model and the settings with the lowest expected loss.

Pure arithmetic: facts about the text, the measured speed and a time go in, a complete config comes out.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from transformerlm.config import ModelConfig, TrainConfig
from transformerlm.config.automatic import with_values
from transformerlm.errors import ConfigError, Key
from transformerlm.nn.accounting import num_non_embedding_parameters
from transformerlm.recipe import law
from transformerlm.recipe.speed import TrainingSpeed
from transformerlm.recipe.text import TextFacts
from transformerlm.schema import are_known

WIDTHS = (32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
DEPTHS = (2, 3, 4, 6, 8, 10, 12, 16, 20, 24)
WIDTH_PER_LAYER = (16, 48)
"""Fewest and most units of width per layer: between them the loss hardly depends on the shape (Kaplan et al.,
"Scaling Laws for Neural Language Models", 2020, figure 5)."""
CONTEXT_LENGTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
CONTEXT_BYTES = 300
"""Text that a context should hold for a megabyte of training text; for other sizes it goes with the third
root. In a short text, long contexts leave few different sequences to draw batches from."""
MIN_CONTEXT_BYTES, MAX_CONTEXT_BYTES = 200, 2000
VALIDATION_SHARE = 0.04
"""Share of the time that validations before the end may take."""
MIN_STEPS = 100
"""Steps that a training needs to learn anything."""
MAX_VALIDATIONS, NUM_RECORDS = 10, 100
"""Validations in a run, at most, and records of metrics."""

T = TypeVar("T")


@dataclass(frozen=True)
class Budget:
    """Limits of a run."""

    seconds: float
    """Time for steps, and for validations before the end."""
    tokens_at_a_time: int
    """Tokens per step and rank from which the device works at full speed."""
    num_ranks: int = 1

    @property
    def step_seconds(self) -> float:
        """Time for steps alone."""
        return self.seconds * (1 - VALIDATION_SHARE)


@dataclass(frozen=True)
class Candidate:
    """A model, and how long it would be trained."""

    model: ModelConfig
    tokens: float
    """Tokens to train on, repeated ones included."""
    text_tokens: float
    """Tokens of the training text."""
    tokens_per_second: float
    bits_per_byte: float
    """Expected on the validation text."""

    @property
    def size(self) -> int:
        """Parameters in the blocks."""
        return num_non_embedding_parameters(self.model)

    @property
    def seconds(self) -> float:
        """Time of its steps."""
        return self.tokens / self.tokens_per_second

    @property
    def passes(self) -> float:
        """Number of times that the text is read."""
        return self.tokens / self.text_tokens


@dataclass(frozen=True)
class Choice:
    """A choice, and what is expected of it, of half the time and of twice the time."""

    config: TrainConfig
    facts: TextFacts
    chosen: Candidate
    half: Candidate
    twice: Candidate
    enough_time: float = 1.0
    """Multiple of the time from which something sensible is expected: 1 or more."""

    @property
    def low(self) -> float:
        """Lower end of the interval of the expected bits per byte."""
        return law.interval(self.facts, self.chosen.bits_per_byte)[0]

    @property
    def high(self) -> float:
        """Upper end of the interval of the expected bits per byte."""
        return law.interval(self.facts, self.chosen.bits_per_byte)[1]


def make_choice(config: TrainConfig, facts: TextFacts, speed: TrainingSpeed, budget: Budget) -> Choice:
    """Choose everything that is "auto", for the text and the time, and for half and twice the time."""

    among = list(models(config.model, facts))

    @functools.cache
    def at(times: float) -> Candidate:
        of_time = dataclasses.replace(budget, seconds=budget.seconds * times)
        return choose(config, facts, speed, of_time, among)

    enough = next((2.0**n for n in range(20) if is_sensible(at(2.0**n), facts, budget)), math.inf)
    return Choice(completed(config, at(1), facts, budget), facts, at(1), at(0.5), at(2), enough)


def is_sensible(one: Candidate, facts: TextFacts, budget: Budget) -> bool:
    """Return True if a training has steps enough, and may by its interval know more than an n-gram model."""
    steps = one.tokens / (budget.tokens_at_a_time * budget.num_ranks)
    low, _ = law.interval(facts, one.bits_per_byte)
    return steps >= MIN_STEPS and low <= facts.ngram_bits


def choose(
    config: TrainConfig,
    facts: TextFacts,
    speed: TrainingSpeed,
    budget: Budget,
    among: Sequence[ModelConfig] | None = None,
) -> Candidate:
    """Return the candidate with the lowest expected loss; what the config sets is kept.

    Args:
        among: the models to choose from; None: all, which takes long where many times are compared.

    Raises:
        ConfigError: what is set leaves no valid model.
    """
    among = list(models(config.model, facts)) if among is None else among
    fitting = [candidate(config, model, facts, speed, budget) for model in among]
    if not fitting:
        what = f"expected heads that divide a width of at most {max(WIDTHS)}, got {config.model.num_heads}"
        raise ConfigError(what, key=Key("model", "num_heads"))
    return min(_of_proven_size(fitting, facts), key=lambda one: (one.bits_per_byte, one.size))


def _of_proven_size(candidates: Sequence[Candidate], facts: TextFacts) -> Sequence[Candidate]:
    """Return the candidates that are neither too large for the text nor too small for the tokens."""
    most = law.MAX_PARAMETERS * math.sqrt(facts.train_bytes / 1e6)
    small = [one for one in candidates if one.size <= most] or [min(candidates, key=lambda one: one.size)]
    largest = max(one.size for one in small)
    most_read = law.MAX_BYTES_PER_PARAMETER / facts.train_bytes
    trained = [one for one in small if one.passes <= most_read * one.size]
    return trained or [one for one in small if one.size >= largest / 2]


def candidate(
    config: TrainConfig, model: ModelConfig, facts: TextFacts, speed: TrainingSpeed, budget: Budget
) -> Candidate:
    """Return a candidate with this model: as many tokens as there is time for, or as passes are useful."""
    text_tokens = facts.train_bytes / facts.bytes_in_token(model.vocabulary_rows)
    rate = speed.tokens_per_second(model) * budget.num_ranks
    passes = _given(config.training.max_passes, law.MAX_PASSES) or math.inf
    tokens = min(rate * budget.step_seconds, passes * text_tokens)
    bits = law.bits_per_byte(facts, model, tokens)
    return Candidate(model, tokens, text_tokens, rate, bits)


def models(model: ModelConfig, facts: TextFacts) -> Iterator[ModelConfig]:
    """Yield the models to choose from, with known sizes; what `model` sets is kept."""
    vocabularies = [model.vocab_size] if model.vocab_size else _vocabularies(facts)
    widths, depths = _options(model.d_model, WIDTHS), _options(model.num_layers, DEPTHS)
    is_free = len(widths) > 1 and len(depths) > 1
    for vocab_size, width, depth in itertools.product(vocabularies, widths, depths):
        heads = _given(model.num_heads, num_heads(width, model.num_kv_heads or 1))
        is_usual = not is_free or WIDTH_PER_LAYER[0] <= width / depth <= WIDTH_PER_LAYER[1]
        if not is_usual or not heads or width % (2 * heads):
            continue
        yield dataclasses.replace(
            model,
            vocab_size=vocab_size,
            d_model=width,
            num_layers=depth,
            num_heads=heads,
            d_ff=_given(model.d_ff, 64 * math.ceil(width * 8 / 3 / 64)),
            context_length=_given(model.context_length, context_length(facts, vocab_size)),
        )


def _vocabularies(facts: TextFacts) -> list[int]:
    """Return the vocabularies whose ids are frequent enough in the text; the smallest in any case."""
    smallest, *others = facts.bytes_per_token
    tokens = {size: facts.train_bytes / facts.bytes_in_token(size) for size in others}
    return [smallest, *(size for size in others if tokens[size] >= law.MIN_TOKENS_PER_ID * size)]


def num_heads(d_model: int, kv_heads: int = 1) -> int:
    """Return the number of heads for a width: of 64 each from 512 on, of 32 below, else of an even size.

    Args:
        kv_heads: must divide it; 0 if no number does.
    """
    sizes = (64,) * (d_model >= 512) + (32, 24, 16, 20, 40, 48, 12, 8, 4, 2)
    fitting = (d_model // size for size in sizes if d_model % (size * kv_heads) == 0)
    return next(fitting, 0)


def context_length(facts: TextFacts, vocab_size: int) -> int:
    """Return the shortest context that holds as many bytes as is wanted, or the longest that fits."""
    bytes_per_token = facts.bytes_in_token(vocab_size)
    wanted = CONTEXT_BYTES * math.cbrt(facts.train_bytes / 1e6)
    wanted = min(MAX_CONTEXT_BYTES, max(MIN_CONTEXT_BYTES, wanted))
    most = min(facts.train_bytes, facts.shortest_bytes or facts.train_bytes)
    fitting = [length for length in CONTEXT_LENGTHS if 4 * length * bytes_per_token <= most]
    holding = [length for length in fitting if length * bytes_per_token >= wanted]
    return (holding or fitting[-1:] or [max(1, most // 8)])[0]


def completed(config: TrainConfig, chosen: Candidate, facts: TextFacts, budget: Budget) -> TrainConfig:
    """Return the config with the candidate's model, and with everything else that is "auto" chosen for it."""
    length = chosen.model.context_length
    batch_size = _given(
        config.training.batch_size, _batch_size(chosen, budget, config.training.micro_batch_size)
    )
    steps = max(1, round(chosen.tokens / (batch_size * length)))
    end = min(steps, config.schedule.cosine_steps or steps)
    values: dict[tuple[str, str], Any] = {
        **{("model", name): getattr(chosen.model, name) for name in _MODEL_KEYS},
        **_rates(config, batch_size * length),
        **_intervals(chosen, facts, steps),
        ("schedule", "warmup_steps"): max(1, min(law.WARMUP_STEPS, end // 20)),
        ("training", "batch_size"): batch_size,
        ("training", "max_passes"): law.MAX_PASSES,
        ("training", "dropout"): law.dropout(facts, chosen.model, chosen.passes),
    }
    return with_values(config, {key: values[key[0], key[1]] for key in config.automatic()})


_MODEL_KEYS = ("context_length", "d_model", "num_layers", "num_heads", "d_ff")


def _rates(config: TrainConfig, tokens_per_step: int) -> dict[tuple[str, str], float]:
    """Return learning rates that grow with the square root of the tokens per step, and the decay.

    Source: Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022. Muon's
    rate does not depend on the width (Bernstein, Newhouse, "Old Optimizer, New Norm", 2024).
    """
    factor = math.sqrt(min(8.0, max(0.25, tokens_per_step / law.TOKENS_PER_STEP)))
    return {
        ("optimizer", "lr"): law.LR[config.optimizer.name] * factor,
        ("optimizer", "muon_lr"): law.MUON_LR * factor,
        ("optimizer", "weight_decay"): law.WEIGHT_DECAY,
    }


def _batch_size(chosen: Candidate, budget: Budget, micro_batch_size: int | str) -> int:
    """Return the sequences per step, enough for the device and the run: for each rank a power of two, or of
    micro-batches that are given."""
    at_once = min(budget.tokens_at_a_time * budget.num_ranks, chosen.tokens / law.MIN_STEPS)
    tokens = max(at_once, chosen.tokens / law.MAX_STEPS)
    smallest = micro_batch_size if isinstance(micro_batch_size, int) else 1
    each = max(1.0, tokens / chosen.model.context_length / budget.num_ranks / smallest)
    return int(budget.num_ranks * smallest * 2 ** round(math.log2(each)))


def _intervals(chosen: Candidate, facts: TextFacts, steps: int) -> dict[tuple[str, str], int]:
    """Return the steps between validations, checkpoints and records of metrics."""
    validation_tokens = facts.validation_bytes / facts.bytes_in_token(chosen.model.vocabulary_rows)
    # A forward pass takes a third of a step.
    affordable = VALIDATION_SHARE * chosen.tokens / max(1.0, validation_tokens / 3)
    every = max(1, math.ceil(steps / min(MAX_VALIDATIONS, max(1.0, affordable))))
    return {
        ("training", "validate_every"): every,
        ("training", "checkpoint_every"): every,
        ("training", "log_every"): max(1, steps // NUM_RECORDS),
    }


def _given(value: T, chosen: T) -> T:
    return value if are_known(value) else chosen


def _options(value: int, options: Sequence[int]) -> Sequence[int]:
    return (value,) if are_known(value) else options
