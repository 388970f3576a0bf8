"""[training]: budget, batches, intervals, and the handling of faults."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from transformerlm.errors import Key, Problem
from transformerlm.schema import (
    AutoFraction,
    AutoNonNegativeInt,
    AutoPositiveFloat,
    AutoPositiveInt,
    FilePath,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    are_known,
)


class IsTime:
    """Marks a string that is a time."""

    text = 'a time such as "90s", "20m", "2h" or "1h30m"'
    placeholder = "TIME"

    def holds(self, value: str) -> bool:
        """Return True if `value` is a time above 0."""
        return seconds_of(value) is not None

    def meant_by(self, value: Any) -> str:
        """Return the time that a number without a unit may stand for, in seconds; "" for another value."""
        return f"{value}s" if self.holds(f"{value}s") else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig(Section):
    """[training]: budget, batches, intervals, checkpoints, and the handling of faults."""

    run_dir: FilePath = "runs/{corpus}"
    """Folder of the run: config, tokenizer, checkpoints, metrics, samples. {corpus} and {run_name} stand
    for the names of the corpus and of the run."""
    resume: Literal["auto", "never", "must"] = "auto"
    """"auto": continue from the newest valid checkpoint in run_dir if there is one. "never": refuse a folder
    that holds a run. "must": refuse a folder that holds none."""
    start_from: FilePath | None = None
    """Folder of a run, or one checkpoint, whose weights a new run starts from (fine-tuning); its model and
    tokenizer must be the same as here. None: random weights. A run that is resumed does not read it."""
    max_steps: PositiveInt | None = None
    """Budget: total optimizer steps. None: 1000, unless max_tokens, max_time or max_passes is set."""
    max_tokens: PositiveInt | None = None
    """Budget: tokens to train on, instead of max_steps; rounded up to whole steps."""
    max_time: Annotated[str, IsTime()] | None = None
    """Budget: wall-clock time, instead of max_steps: "90s", "20m", "2h", "1d", "1h30m". All of the command
    counts, such as compiling, validating, saving and samples, except for reading text and making tokens; the
    time between a stop and a resume does not. The schedule ends with it."""
    max_passes: AutoPositiveFloat | None = None
    """At most this many passes over the training tokens, whatever the budget; the schedule ends with them."""
    patience: PositiveInt | None = None
    """End early: after this many validations in a row that are no better than the best one, the learning rate
    falls to its end. None: use the whole budget."""
    batch_size: AutoPositiveInt = 32
    """Sequences per optimizer step, over all devices. "auto": chosen for the text, the machine and max_time,
    here and below."""
    micro_batch_size: PositiveInt | Literal["auto"] = "auto"
    """Sequences per forward pass on each device; must divide the device's part of batch_size. "auto": what
    fits in memory, on a CPU at most 8,192 tokens. When memory runs out, the next smaller divisor is used."""
    dropout: AutoFraction = 0.0
    """Probability with which training drops each number of the embedding and of what a branch adds to the
    residual stream (against overfitting, where a small text is read many times)."""
    ngram_memory: bool = False
    """Keep the training tokens in the run's folder, sorted by what precedes them, to mix the model's
    probabilities with what followed the same tokens there and earlier in a text: fewer bits per byte, without
    training. [runtime].ngram_memory says where it is used; exported models are without it."""
    batch_order: Literal["epoch", "random"] = "epoch"
    """"epoch": every window once, shuffled, then again in another order. "random": windows that start
    anywhere."""
    validate_every: AutoNonNegativeInt = 250
    """Steps between validations. 0: only at the end."""
    checkpoint_every: AutoNonNegativeInt = 250
    """Steps between checkpoints. 0: only at the end."""
    sample_every: NonNegativeInt | None = None
    """Steps between samples: the prompts of [generation] are continued, shown, and kept in the run's
    samples.jsonl. None or 0: only at the end."""
    keep_checkpoints: PositiveInt = 2
    """Number of newest checkpoints to keep, in addition to the best one."""
    log_every: AutoPositiveInt = 10
    """Steps between records of metrics."""
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """Action when the loss or the gradient is not finite; that step is never taken. "stop": end the run.
    "skip": continue with the next batch. "rollback": return to the newest checkpoint and leave out the
    batches since."""
    max_faults: PositiveInt = 10
    """Number of such steps in a row, or of rollbacks, after which the run ends all the same."""
    spike_deviations: PositiveFloat = 6.0
    """A loss or gradient norm this many standard deviations above the mean of the last 128 steps counts as
    a spike."""
    skip_spikes: bool = False
    """Leave out the steps in which there is a spike."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield a second budget, micro-batches that do not fill the batch, patience without validations."""
        budgets = [name for name in ("max_steps", "max_tokens", "max_time") if getattr(self, name)]
        if len(budgets) > 1:
            what = f"expected one budget, got {' and '.join(budgets)}; say None to those not meant"
            yield Problem(Key(budgets[-1]), what)
        size = self.micro_batch_size
        if are_known(self.batch_size) and size != "auto" and self.batch_size % size:
            what = f"expected a divisor of batch_size = {self.batch_size}, got {size}"
            yield Problem(Key("micro_batch_size"), what)
        if self.patience is not None and not self.validate_every:
            what = (
                f"expected None with validate_every = 0, which validates only at the end, got {self.patience}"
            )
            yield Problem(Key("patience"), what)

    @property
    def max_seconds(self) -> float | None:
        """`max_time` in seconds."""
        return None if self.max_time is None else seconds_of(self.max_time)

    def steps_in_budget(self, context_length: int) -> int | None:
        """Return the optimizer steps of `max_steps` or `max_tokens`; None if time or passes limit the run."""
        if self.max_tokens is not None:
            return -(-self.max_tokens // (self.batch_size * context_length))
        if self.max_steps is None and (self.max_time is not None or self.max_passes is not None):
            return None
        return self.max_steps or 1000

    def steps_in_passes(self, context_length: int, train_tokens: float) -> int | None:
        """Return the whole steps in `max_passes` over this many tokens, at least 1; None if it is not set."""
        if self.max_passes is None:
            return None
        return max(1, int(self.max_passes * train_tokens / (self.batch_size * context_length)))


def seconds_of(text: str) -> float | None:
    """Return the seconds of a time such as "1h30m" or "90s"; None if `text` is not a time."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    found = re.fullmatch("".join(rf"(?:(\d+(?:\.\d+)?){unit}\s*)?" for unit in units), text.strip())
    if found is None or not any(found.groups()):
        return None
    seconds = sum(float(part or 0) * size for part, size in zip(found.groups(), units.values(), strict=True))
    return seconds if 0 < seconds < math.inf else None
