"""The choice as a table for people: the text, the machine, what was chosen and why, and what to expect."""

from __future__ import annotations

import math

from transformerlm.config import TrainConfig
from transformerlm.nn.accounting import num_parameters
from transformerlm.progress import counted
from transformerlm.recipe.choice import Candidate, Choice
from transformerlm.recipe.text import COPY_BYTES
from transformerlm.runtime import Runtime

MIN_TEXT_BYTES = 20_000
"""Text from which some words are learned."""
MIN_COPIED = 0.01
"""Share of copied text from which it is told."""

Rows = list[tuple[str, str, str]]
"""Topic, what, value."""


def choice_rows(choice: Choice, runtime: Runtime, *, with_pace: bool = True) -> Rows:
    """Return the rows of the table.

    Args:
        runtime: the device and the precision that were measured.
        with_pace: False leaves out what follows from the speed, for a plan that measures it again.
    """
    rows = _rows(choice, runtime)
    is_by_time = not _limit(choice.chosen, choice.config)
    pace = {"this model", "steps", *(["passes"] if is_by_time else [])}
    return rows if with_pace else [row for row in rows if row[1] not in pace]


def _rows(choice: Choice, runtime: Runtime) -> Rows:
    facts, chosen, config = choice.facts, choice.chosen, choice.config
    seen = f"{chosen.passes:.3g} passes over {facts.train_bytes:,} bytes"
    rate = f"{chosen.tokens_per_second:,.0f} tokens per second, measured on {runtime}"
    return [
        ("text", "to train on", f"{facts.train_bytes:,} bytes"),
        ("", "to validate on", f"{facts.validation_bytes:,} bytes"),
        ("", "difficulty", f"{facts.ngram_bits:.2f} bits per byte by an n-gram model of its bytes"),
        *_copies(facts.copied),
        ("speed", "this model", rate),
        ("chosen", "vocabulary", _vocabulary(choice)),
        ("", "model", _model(config)),
        ("", "steps", _steps(chosen, config)),
        ("", "passes", f"{seen}{_limit(chosen, config)}"),
        ("", "dropout", _dropout(config)),
        ("expected", "", f"{chosen.bits_per_byte:.2f} bits per byte ({choice.low:.2f} to {choice.high:.2f})"),
        ("", "half the time", _other(choice.half)),
        ("", "twice the time", _other(choice.twice)),
    ]


def _copies(copied: float) -> Rows:
    what = f"{100 * copied:.0f} % of the validation text stands in the training text"
    return [("", "copies", f"{what}, in runs of {COPY_BYTES} bytes and more")] if copied >= MIN_COPIED else []


def warnings(choice: Choice) -> list[str]:
    """Return what is too little for anything sensible, and what would be enough."""
    found, config = [], choice.config
    if choice.facts.train_bytes < MIN_TEXT_BYTES:
        what = f"{choice.facts.train_bytes:,} bytes are too little text to learn more than letters from"
        found.append(f"warning: {what}; {MIN_TEXT_BYTES:,} would be enough for words")
    elif math.isinf(choice.enough_time):
        what = f"{choice.chosen.passes:.3g} passes over this text teach no more than n-grams know"
        found.append(f"warning: {what}; more text or a larger [training].max_passes would help, no time")
    elif choice.enough_time > 1:
        found.append(f"warning: {config.training.max_time} is too little time for this text{_enough(choice)}")
    return found


def _enough(choice: Choice) -> str:
    seconds = choice.enough_time * (choice.config.training.max_seconds or 0.0)
    time = f"{math.ceil(seconds / 60)}m" if seconds >= 120 else f"{math.ceil(seconds)}s"
    return f"; --training.max_time={time} would be enough"


def _vocabulary(choice: Choice) -> str:
    size = choice.chosen.model.vocabulary_rows
    return f"{size:,} ids of {choice.facts.bytes_in_token(size):.2f} bytes: the lowest loss in this time"


def _model(config: TrainConfig) -> str:
    model = config.model
    layers, heads = counted(model.num_layers, "layer"), counted(model.num_heads, "head")
    shape = f"{layers} of width {model.d_model}, {heads}"
    return f"{num_parameters(model):,} parameters: {shape}, a context of {model.context_length} tokens"


def _steps(chosen: Candidate, config: TrainConfig) -> str:
    size = config.training.batch_size * config.model.context_length
    return f"about {chosen.tokens / size:,.0f} of {config.training.batch_size} sequences, {size:,} tokens"


def _limit(chosen: Candidate, config: TrainConfig) -> str:
    is_used_up = config.training.max_passes and chosen.passes >= 0.999 * config.training.max_passes
    return ", after which the text is used up: more time would not help" if is_used_up else ""


def _dropout(config: TrainConfig) -> str:
    dropout = config.training.dropout
    return f"{dropout:g}: the text is read often" if dropout else "none: the text is read a few times"


def _other(candidate: Candidate) -> str:
    model = candidate.model
    shape = f"{num_parameters(model):,} parameters, {candidate.passes:.3g} passes"
    return f"{candidate.bits_per_byte:.2f} bits per byte ({shape})"
