"""Resolution of "auto" in the config of a run: from the run's own config, or chosen by `recipe`.

The vocabulary is chosen first, for a sample of the text; the rest when the tokens are made and counted. Of
several ranks rank 0 looks, measures and chooses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformerlm.checkpoint.own_settings import config_of_run
from transformerlm.config import TokenizerConfig, TrainConfig
from transformerlm.config.automatic import with_values
from transformerlm.data import TokenData, files_of, fill_placeholders
from transformerlm.distributed.ranks import Ranks
from transformerlm.errors import Key
from transformerlm.progress import Reporter
from transformerlm.recipe import (
    Budget,
    Choice,
    TextFacts,
    TrainingSpeed,
    choose,
    make_choice,
    measure_speed,
    step_seconds,
    survey,
)
from transformerlm.runtime import Runtime, set_up_process
from transformerlm.schema import are_known, to_dict
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.formats.folder import holds_tokenizer
from transformerlm.training.choices import resolved_config
from transformerlm.training.dropout import add_dropout
from transformerlm.training.ngrams import why_none
from transformerlm.training.prepare import MIN_TOLD_SECONDS, Prepared, prepare
from transformerlm.training.timers import duration
from transformerlm.training.torch_settings import temporary_torch_settings

VOCAB_SIZE, TOKENIZER_DIR, TOKEN_DIR = (
    Key("tokenizer", "vocab_size"),
    Key("tokenizer", "tokenizer_dir"),
    Key("data", "token_dir"),
)
TOKENS_AT_A_TIME = {"cpu": 2048, "mps": 8192, "cuda": 16384}
"""Tokens of a step on one rank from which a device works at full speed."""
PILOT_SHARE = 0.04
"""Share of the time that the pilot may take, where the run needs all of it."""
SECONDS_OUTSIDE = 3.0
"""Time that a run takes after the choice for other things than steps and regular validations: preparing the
first step, the last validation, saving, samples."""
MEMORY_SECONDS = 0.5e-6
"""Time that a memory of n-grams takes for each byte of text: sorting the training tokens, and scoring the
validation text once more."""


def as_begun(config: TrainConfig, run_dir: Path, ranks: Ranks) -> TrainConfig:
    """Return the config with "auto" replaced by the numbers of the run in `run_dir`, if there is one."""

    def values() -> dict[Key, Any]:
        begun, defaults = config_of_run(run_dir), to_dict(TrainConfig())
        if not begun or config.training.resume == "never":
            return {}
        return {key: _value(begun, key, _value(defaults, key)) for key in config.automatic()}

    return _agreed(config, values, ranks)


def prepare_automatic(
    config: TrainConfig,
    run_dir: Path,
    reporter: Reporter,
    ranks: Ranks,
    started: float,
    *,
    owns_process: bool,
) -> Prepared:
    """Prepare a run whose config has keys that are "auto": as it was begun, or chosen now.

    Args:
        started: moment by `time.perf_counter` from which the run's time counts.
        owns_process: [runtime] may set up the process permanently.
    """
    config = as_begun(config, run_dir, ranks)
    if not config.automatic():
        return prepare(config, reporter, ranks)
    dial = None
    with ranks.while_rank_0_works():
        if ranks.is_main:
            dial = Dial.of(config, ranks.size, started, owns_process=owns_process)
            if dial.text_seconds >= MIN_TOLD_SECONDS:
                taken = duration(dial.text_seconds)
                what = f"in addition to the {config.training.max_time} of training"
                reporter.say(f"looking at the text: {taken}, {what}")
    config = with_vocabulary_chosen(config, dial, ranks)
    prepared = prepare(config, reporter, ranks)
    seconds = prepared.seconds + (dial.text_seconds if dial else 0.0)
    config, choice = with_all_chosen(prepared.config, prepared.data, dial, ranks)
    return prepared._replace(config=config, choice=choice, seconds=seconds)


@dataclass(frozen=True)
class Dial:
    """Knowledge before the choice: the text, the speed of the machine, and the time."""

    facts: TextFacts
    speed: TrainingSpeed
    budget: Budget
    text_seconds: float
    """Time that reading the text took, which does not count."""
    owns_process: bool

    @classmethod
    def of(cls, config: TrainConfig, num_ranks: int, started: float, *, owns_process: bool) -> Dial:
        """Look at the text, and measure this machine; arguments as for `prepare_automatic`.

        Raises:
            DataError: the corpus cannot be read.
            ConfigError: what is set leaves no valid model.
        """
        before, max_seconds = time.perf_counter(), config.training.max_seconds or 0.0
        text = survey(config.data, config.tokenizer, existing_tokenizer(config))
        text_seconds = time.perf_counter() - before
        end = started + text_seconds + max_seconds - SECONDS_OUTSIDE - _memory_seconds(config, text.facts)
        with _runtime(config, owns_process=owns_process) as (_, runtime):
            speed = measure_speed(runtime, config.runtime)

            def budget() -> Budget:
                seconds = max(max_seconds / 10, end - time.perf_counter())
                return Budget(seconds, TOKENS_AT_A_TIME[runtime.device.type], num_ranks)

            seconds = max(PILOT_SHARE * max_seconds, idle_seconds(config, text.facts, speed, budget()))
            tokens = seconds * speed.tokens_per_second(text.pilot_text.shape)
            facts = text.measured(tokens, runtime, config.runtime)
        return cls(facts, speed, budget(), text_seconds, owns_process)

    def with_speed_of(self, choice: Choice) -> Dial:
        """Return the dial with the speed of the model that was chosen, from some of its steps.

        They are of its own batch: a step of few tokens takes almost as long as one of many.
        """
        model, size = choice.chosen.model, choice.config.training.batch_size
        on_rank = size * model.context_length // self.budget.num_ranks
        tokens = min(on_rank, self.budget.tokens_at_a_time)
        with _runtime(choice.config, owns_process=self.owns_process) as (config, runtime):
            with_dropout = functools.partial(add_dropout, probability=config.training.dropout)
            backend = config.runtime.attention
            parts = model, config.optimizer, runtime, backend, tokens, with_dropout
            seconds = step_seconds(*parts, is_typical=True)
        whole = max(1, tokens // model.context_length) * model.context_length
        return dataclasses.replace(self, speed=self.speed.corrected(model, whole / seconds))


def _memory_seconds(config: TrainConfig, facts: TextFacts) -> float:
    """Return the time that the run's memory of n-grams will take, if it keeps one."""
    fewest_tokens = facts.train_bytes / max(facts.bytes_per_token.values())
    is_kept = why_none(config, int(fewest_tokens)) is None
    return MEMORY_SECONDS * (facts.train_bytes + facts.validation_bytes) if is_kept else 0.0


def idle_seconds(config: TrainConfig, facts: TextFacts, speed: TrainingSpeed, budget: Budget) -> float:
    """Return half of the time that a run leaves over since its text is used up before; else 0.

    Half, since the model that is chosen may be slower than those that were measured. Which one it is does not
    depend on the pilot, so that `facts` may lack one.
    """
    return max(0.0, budget.step_seconds - choose(config, facts, speed, budget).seconds) / 2


@contextlib.contextmanager
def _runtime(config: TrainConfig, *, owns_process: bool) -> Iterator[tuple[TrainConfig, Runtime]]:
    """Context manager of the runtime to measure with, and the config with what [runtime] stands for, as far
    as it is known; another program's settings of torch are restored."""
    with contextlib.ExitStack() as stack:
        if not owns_process:
            stack.enter_context(temporary_torch_settings(config.runtime))
        elif config.model.vocab_size and are_known(config.model.d_model):
            config = resolved_config(config)  # also the number of threads for this model
        else:
            set_up_process(config.runtime)
        yield config, Runtime.from_config(config.runtime)


def with_vocabulary_chosen(config: TrainConfig, dial: Dial | None, ranks: Ranks) -> TrainConfig:
    """Return the config with a known vocabulary, and known folders of tokenizer and tokens.

    A tokenizer in the folder that is set, or in the default one, is used. Otherwise the vocabulary is chosen,
    and has folders of its own: another time may need another one.

    Args:
        dial: None on ranks other than 0.
    """

    def values() -> dict[Key, Any]:
        assert dial
        size = None
        if existing_tokenizer(config) is None and not are_known(config.tokenizer.vocab_size):
            size = choose(config, dial.facts, dial.speed, dial.budget).model.vocab_size
        folder = f"data/{{corpus}}/{size}-ids" if size else "data/{corpus}"
        return {VOCAB_SIZE: size, TOKENIZER_DIR: f"{folder}/tokenizer", TOKEN_DIR: folder}

    return _agreed(config, values, ranks)


def with_all_chosen(
    config: TrainConfig, data: TokenData, dial: Dial | None, ranks: Ranks
) -> tuple[TrainConfig, Choice | None]:
    """Return the config without "auto", and on rank 0 why.

    Args:
        config: with a known vocabulary.
        dial: None on ranks other than 0.
    """
    choice = None
    if dial:
        facts = counted(dial.facts, data, config.model.vocabulary_rows)
        choice = make_choice(config, facts, dial.speed, dial.budget)
        dial = dial.with_speed_of(choice)
        choice = make_choice(config, facts, dial.speed, dial.budget)

    def values() -> dict[Key, Any]:
        assert choice
        complete = to_dict(choice.config)
        return {key: _value(complete, key) for key in config.automatic()}

    return _agreed(config, values, ranks), choice


def existing_tokenizer(config: TrainConfig) -> Tokenizer | None:
    """Return the tokenizer in the folder that is set or, if none is, in the default one."""
    folder = config.tokenizer.tokenizer_dir
    folder = folder if are_known(folder) else TokenizerConfig().tokenizer_dir
    path = Path(fill_placeholders(folder, config.data))
    return Tokenizer.from_dir(path) if holds_tokenizer(path) else None


def counted(facts: TextFacts, data: TokenData, vocab_size: int) -> TextFacts:
    """Return the facts with the numbers of the finished token files in place of the sample's."""
    val, (tokens, num_bytes) = data.val, data.size_of(data.train)
    shortest = min(file.num_bytes for file in files_of(data.train).values())
    return dataclasses.replace(
        facts,
        train_bytes=round(data.pass_tokens * num_bytes / tokens),
        validation_bytes=val.num_bytes if val else 0,
        bytes_per_token={vocab_size: num_bytes / tokens},
        shortest_bytes=shortest if data.shares else None,
    )


def _agreed(config: TrainConfig, values: Callable[[], Mapping[Key, Any]], ranks: Ranks) -> TrainConfig:
    """Return the config with the values that rank 0 finds for keys that are "auto"."""
    with ranks.while_rank_0_works():
        found = values() if ranks.is_main else {}
    automatic = config.automatic()
    sent = json.dumps([[*key, value] for key, value in found.items() if key in automatic])
    received = json.loads(ranks.broadcast_bytes(sent.encode()))
    return with_values(config, {Key(table, name): value for table, name, value in received})


def _value(config: Mapping[str, Any], key: Key, default: Any = None) -> Any:
    table, name = key
    return config.get(table, {}).get(name, default)
