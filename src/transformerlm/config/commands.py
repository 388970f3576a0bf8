"""The config of each command: the tables that its TOML file may have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from transformerlm.config.conversion import ExportSection, ImportModelSection
from transformerlm.config.data import CorpusConfig, DataConfig, TokenizerConfig
from transformerlm.config.evaluation import EvalSection
from transformerlm.config.generation import NOTHING_TO_START_FROM, GenerationConfig, InferSection
from transformerlm.config.inspection import InspectSection, MergeSection, ShowSection, VerifySection
from transformerlm.config.logging import LoggingConfig, TrainLoggingConfig, WandbConfig
from transformerlm.config.model import ModelConfig
from transformerlm.config.optimizer import OptimizerConfig, ScheduleConfig
from transformerlm.config.report import ReportSection
from transformerlm.config.runtime import RuntimeConfig
from transformerlm.config.serve import ServeSection
from transformerlm.config.space import Axis, read_space
from transformerlm.config.status import StatusSection
from transformerlm.config.sweep import SweepSection
from transformerlm.config.training import TrainingConfig
from transformerlm.errors import ConfigError, Key, Problem
from transformerlm.schema import Section, are_known, field_types

MAX_TOKENS_PER_STEP = 2**31
"""Limit of batch_size times context_length: larger than any real batch, and safe in 64-bit arithmetic."""
NEEDS_RUN_NAME = "expected the name of a run to go on with, as {run_name} is in [training].run_dir, got none"
"""Problem of [logging].run_name where only an existing run will do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainTokenizerConfig(Section):
    """transformerlm-train-tokenizer: from text to vocab.json and merges.txt."""

    data: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class MakeDataConfig(Section):
    """transformerlm-make-data: from text to token files."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Section):
    """transformerlm-train: from text, or from token files, to a model."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logging: TrainLoggingConfig = field(default_factory=TrainLoggingConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def conflicts(self) -> Iterator[Problem]:
        """Yield a batch too large to count, too long a warm-up, a run without a name, an empty sample."""
        yield from self._automatic_problems() if self.training.max_time is None else ()
        size, length = self.training.batch_size, self.model.context_length
        most = MAX_TOKENS_PER_STEP // (length if are_known(length) else 1)
        if are_known(size) and size > most:
            yield Problem(Key("training", "batch_size"), f"expected at most {most}, got {size}")
        if are_known(size, length, self.schedule.warmup_steps):
            yield from self._warmup_problems()
        yield from self._mixture_problems()
        if self.runtime.weights != "auto":
            what = f'expected "auto" in training, which keeps float32, got "{self.runtime.weights}"'
            yield Problem(Key("runtime", "weights"), what)
        if self.training.resume == "must" and self.is_named_by_time:
            yield Problem(Key("logging", "run_name"), NEEDS_RUN_NAME)
        begins = self.generation.bos_token or self.generation.eos_token
        if "" in self.generation.prompts and not begins:  # for the samples at the end of the run
            yield Problem(Key("generation", "prompts"), NOTHING_TO_START_FROM)

    def _warmup_problems(self) -> Iterator[Problem]:
        warmup_steps, steps = self.schedule.warmup_steps, self.schedule_steps
        if steps is not None and warmup_steps >= steps:
            what = f"expected fewer than the schedule's {steps} steps, got {warmup_steps}"
            advice = f"take --schedule.warmup_steps={steps // 10}, or more steps than {warmup_steps}"
            yield Problem(Key("schedule", "warmup_steps"), f"{what}; {advice}")

    def _mixture_problems(self) -> Iterator[Problem]:
        """Yield passes beside weights without a number of steps, and passes alone with one."""
        with_passes = [part.passes is not None for part in self.data.mixture or ()]
        budget = next((key for key in ("max_steps", "max_tokens") if getattr(self.training, key)), None)
        if all(with_passes) and with_passes and budget:
            what = "expected None where all of [[data.mixture]] have passes, which set the number of steps"
            yield Problem(Key("training", budget), f"{what}; or give one of them a weight")
        if any(with_passes) and not all(with_passes) and not budget:
            what = "expected [training].max_steps or max_tokens where one has passes and another one a weight"
            yield Problem(Key("data", "mixture"), f"{what}; or give all a weight, or all passes")

    def _automatic_problems(self) -> Iterator[Problem]:
        for key in self.automatic():
            yield Problem(
                key, 'expected a number, since "auto" is chosen for [training].max_time, got "auto"'
            )

    @property
    def is_named_by_time(self) -> bool:
        """True if the run's folder carries the time of the start: each start makes another run."""
        return "{run_name}" in self.training.run_dir and not self.logging.run_name

    @property
    def schedule_steps(self) -> int | None:
        """Step at which the learning rate reaches its final value; None: when time or passes are over."""
        budget = self.training.steps_in_budget(self.model.context_length)
        return self.schedule.cosine_steps or budget


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig(TrainConfig):
    """transformerlm-sweep: the config of a training, and what to search."""

    sweep: SweepSection = field(default_factory=SweepSection)

    def conflicts(self) -> Iterator[Problem]:
        """Yield those of the training, and what is wrong with the search space."""
        yield from TrainConfig.conflicts(self)
        try:
            axes = read_space(self.sweep.space, TrainConfig)
        except ConfigError as error:
            yield from error.problems
            return
        if self.sweep.method == "grid":
            for axis in axes:
                if not axis.grid:
                    what = 'expected a list, or a range with num, for method = "grid", got a range without'
                    yield Problem(Key("sweep", "space", axis.key), what)

    @property
    def training_config(self) -> TrainConfig:
        """The config without [sweep]."""
        return TrainConfig(**{name: getattr(self, name) for name in field_types(TrainConfig)})

    @property
    def axes(self) -> list[Axis]:
        """The keys of [sweep.space], in its order."""
        return read_space(self.sweep.space, TrainConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class InferConfig(Section):
    """transformerlm-infer: from a model and a prompt to text."""

    infer: InferSection = field(default_factory=InferSection)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def conflicts(self) -> Iterator[Problem]:
        """Yield log-probabilities with an output format that cannot hold them."""
        if self.generation.log_probs and self.infer.output_format == "text":
            what = 'expected "jsonl" or "auto" with [generation].log_probs, got "text"'
            yield Problem(Key("infer", "output_format"), what)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig(Section):
    """transformerlm-serve: a model behind an HTTP interface, and a page to write with it."""

    serve: ServeSection = field(default_factory=ServeSection)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig(Section):
    """transformerlm-eval: from one or two models and text to loss, perplexity and bits per byte."""

    eval: EvalSection = field(default_factory=EvalSection)
    data: CorpusConfig = field(default_factory=CorpusConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig(Section):
    """transformerlm-export: from a run to the formats of other programs."""

    export: ExportSection = field(default_factory=ExportSection)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportConfig(Section):
    """transformerlm-import: from a Hugging Face folder to a run."""

    import_model: ImportModelSection = field(default_factory=ImportModelSection)


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusConfig(Section):
    """transformerlm-status: how far runs are; requests to a running one."""

    status: StatusSection = field(default_factory=StatusSection)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig(Section):
    """transformerlm-report: from the folders of runs to a page, or to pictures."""

    report: ReportSection = field(default_factory=ReportSection)


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectConfig(Section):
    """transformerlm-data inspect: what is in a text or in token files."""

    inspect: InspectSection = field(default_factory=InspectSection)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowConfig(Section):
    """transformerlm-data show: some tokens of a token file."""

    show: ShowSection = field(default_factory=ShowSection)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig(Section):
    """transformerlm-data verify: token files against their checksums."""

    verify: VerifySection = field(default_factory=VerifySection)


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeConfig(Section):
    """transformerlm-data merge: several token files in one."""

    merge: MergeSection = field(default_factory=MergeSection)
