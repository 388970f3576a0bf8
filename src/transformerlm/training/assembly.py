"""Assembly of a prepared run from its parts: device, Trainer, starting point, loggers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from transformerlm.checkpoint.run_directory import RunDirectory, check_same_on_all_ranks, identity
from transformerlm.checkpoint.store import Checkpoint
from transformerlm.config import RuntimeConfig
from transformerlm.control import RunControl
from transformerlm.distributed.ranks import Ranks
from transformerlm.errors import ConfigError, Key, first_line
from transformerlm.evaluation.loss import MeanLoss
from transformerlm.infer import check_prompts
from transformerlm.limits import available_cores
from transformerlm.logging import CombinedLogger, Logger, MetricsFile, RunHistory, SamplesFile, make_logger
from transformerlm.logging.history import END, ERROR, START, STOP
from transformerlm.ngrams import NgramMemory
from transformerlm.nn import TransformerLM
from transformerlm.nn.accounting import checkpoint_bytes
from transformerlm.progress import Reporter
from transformerlm.runtime import (
    LoadWatch,
    Precision,
    Runtime,
    ThreadAdapter,
    choose_precision,
    resolve_device,
    set_up_process,
)
from transformerlm.schema import from_dict, to_dict
from transformerlm.signals import end_at_interrupts, warnings_ignored
from transformerlm.storage.files import require_free_bytes
from transformerlm.training.choices import AUTO, keep_begun, resolve_runtime
from transformerlm.training.expectation import Expectation
from transformerlm.training.init_from import load_initial_weights
from transformerlm.training.microbatch import share_of_batch
from transformerlm.training.ngrams import judge_memory, make_memory, scoring_seconds
from transformerlm.training.outcome import outcome_of, progress_of
from transformerlm.training.plan import Plan, make_plan
from transformerlm.training.prepare import Prepared
from transformerlm.training.report import (
    best_weights,
    is_complete_in_folder,
    report_choice,
    report_end,
    report_expectation,
    report_memory,
    report_nothing_to_do,
    report_quality,
    report_skipped_steps,
    report_start,
    start_facts,
    write_page,
)
from transformerlm.training.samples import Samples, sampling_seconds
from transformerlm.training.torch_settings import temporary_torch_settings
from transformerlm.training.trainer import Trainer
from transformerlm.training.verify_resume import verify_resume

EXIT_SECONDS = 0.2
"""Time from the last sample of a run to the end of the process."""
PAGE_SECONDS = 0.3
"""Time in which the page of a run is written."""


class Assembly:
    """A prepared run, with its folder, ranks and process."""

    def __init__(
        self,
        prepared: Prepared,
        run_dir: Path,
        reporter: Reporter,
        ranks: Ranks,
        *,
        owns_process: bool,
        control: RunControl | None = None,
    ) -> None:
        self.config, self.tokenizer, self.data, self.xz, _, self.choice = prepared
        self.control = control or RunControl()
        self.to_go_on = ["--training.resume=auto"] if self.config.training.resume == "never" else []
        """Options that the same command needs to continue the run after a stop."""
        self.is_adaptive = False
        """True if [runtime] lets the number of threads change during the run."""
        self.run, self.reporter, self.ranks, self.owns_process = (
            RunDirectory(run_dir),
            reporter,
            ranks,
            owns_process,
        )
        self.history = RunHistory(run_dir)
        self.has_begun = False
        """True on rank 0 once the run's folder describes this start."""

    def train(self, loggers: Sequence[Logger] | None, run_name: str, started: float | None = None) -> Trainer:
        """Train, from the newest checkpoint if there is one, then write samples; return the trainer.

        Args:
            started: moment by `time.perf_counter` from which the run's time counts; None: now.
        """
        if self.config.is_named_by_time:
            self.keep_name(run_name)
        with self.ranks.collective_errors():
            check_prompts(self.tokenizer, self.config.generation)
            if self.ranks.is_main:
                num_bytes = 2 * checkpoint_bytes(self.config.model, self.config.optimizer.name)
                require_free_bytes(self.run.path, num_bytes, "two checkpoints")
        with self.ranks.collective_errors():
            check_same_on_all_ranks(self.ranks, self.config, identity(self.config, self.data))
        found = self.run.resume_point(self.config.training.resume, self.reporter, self.ranks)
        with self.failures_recorded(), self.runtime(found) as runtime, contextlib.ExitStack() as to_the_end:
            trainer = self.make_trainer(runtime, found, started)
            if self.is_complete(trainer):
                self.control.end(outcome_of(trainer))
                report_nothing_to_do(trainer, self.reporter)
                self.report_end()
                return trainer
            with self.ranks.collective_errors():
                own = self.begin(trainer, loggers, run_name) if self.ranks.is_main else []
            ngrams = self.make_memory()
            self.estimate_end(trainer, ngrams)
            file = SamplesFile(self.run.samples)
            samples = Samples(trainer, self.tokenizer, CombinedLogger(own[:-1]), file)
            trainer.write_samples = samples.write
            with CombinedLogger([*own, file] if own else []) as logger:
                logger.log_config(to_dict(self.config))
                logger.log_artifact(
                    self.run.path / "tokenizer", f"tokenizer-{self.run.path.name}", "tokenizer"
                )
                signal = trainer.train(logger)
                if trainer.threads:
                    trainer.threads.stop()
                if signal:
                    to_the_end.enter_context(warnings_ignored())
                    self.stop(trainer)
                else:
                    self.control.finishing()
                    self.finish(trainer, samples, ngrams)
            self.control.end(outcome_of(trainer))
        return trainer

    def keep_name(self, run_name: str) -> None:
        """Put the generated name of the run into its config, which then continues it."""
        self.config = dataclasses.replace(
            self.config, logging=dataclasses.replace(self.config.logging, run_name=run_name)
        )
        self.to_go_on.insert(0, f"--logging.run_name={run_name}")
        self.reporter.say(f"the run is named {run_name}; if it is stopped, {self.same_command()} goes on")

    def same_command(self) -> str:
        """Return the words for the command that continues the run."""
        return " ".join(["the same command", *(["with"] if self.to_go_on else []), *self.to_go_on])

    def plan(self, started: float | None = None) -> Plan:
        """Return the estimated time, memory and disk space of training; see `train`."""
        with self.ranks.collective_errors():
            share_of_batch(self.config, self.ranks.size)
        is_new = self.config.training.resume == "never"
        found = None if is_new else self.run.resume_point("auto", self.reporter, self.ranks)
        with self.runtime(found) as runtime:
            if self.choice:
                report_choice(self.choice, runtime, self.reporter, with_pace=False)
            parts = self.config, self.data, self.run.path, runtime, self.reporter
            return make_plan(*parts, ranks=self.ranks, started=started, tokenizer=self.tokenizer)

    def verify_resume(self, steps: int) -> None:
        """Take `steps` steps from the newest checkpoint, without and with a stop, and compare all bits."""
        found = self.run.resume_point("must", self.reporter, self.ranks)
        with self.runtime(found) as runtime:

            def make(run: RunDirectory) -> Trainer:
                return Trainer(self.config, self.data, run, runtime, self.reporter, lambda: 0.0, self.ranks)

            verify_resume(make, self.run, steps)

    @contextlib.contextmanager
    def runtime(self, found: Checkpoint | None) -> Iterator[Runtime]:
        """Context manager: the runtime of this rank, with [runtime]'s settings of PyTorch in the block.

        From here on the run's config has what was chosen in place of "auto".

        Args:
            found: the checkpoint to resume from, whose choices are kept.

        Raises:
            ConfigError: there is no such device, or not one for each rank.
        """
        with contextlib.ExitStack() as stack:
            with self.ranks.collective_errors():
                kept = keep_begun(self.config.runtime, found)
                config = runtime_of_rank(kept, self.ranks)
                if self.owns_process:
                    set_up_process(config)
                    if resolve_device(config.device).type == "cpu":
                        stack.enter_context(LoadWatch())
                else:
                    stack.enter_context(temporary_torch_settings(config))
            precision = self.choose_precision(config)
            resolved = self.choose_implementation(config, precision)
            # The number of threads of a rank is its part of this machine, not a setting of the run.
            num_threads = resolved.num_threads if self.ranks.size == 1 else kept.num_threads
            own = dataclasses.replace(resolved, num_threads=num_threads)
            self.is_adaptive = self.config.runtime.num_threads == AUTO and not config.deterministic
            self.config = dataclasses.replace(self.config, runtime=own)
            yield Runtime.of(resolved, precision)

    def choose_precision(self, config: RuntimeConfig) -> Precision:
        """Return the precision that rank 0 has chosen: ranks of two kinds of machines must agree."""
        with self.ranks.while_rank_0_works():
            chosen = choose_precision(config, self.config.model) if self.ranks.is_main else None
        sent = json.dumps(dataclasses.asdict(chosen) if chosen else {}).encode()
        precision = Precision(**json.loads(self.ranks.broadcast_bytes(sent)))
        if precision.warning:
            self.reporter.say(precision.warning)
        return precision

    def choose_implementation(self, config: RuntimeConfig, precision: Precision) -> RuntimeConfig:
        """Return [runtime] of this rank without "auto", as rank 0 has chosen."""
        with self.ranks.while_rank_0_works():
            owns_process = self.owns_process and self.ranks.size == 1
            is_main, arguments = self.ranks.is_main, (self.config, config, precision)
            chosen = resolve_runtime(*arguments, owns_process=owns_process) if is_main else config
        values = json.loads(self.ranks.broadcast_bytes(json.dumps(to_dict(chosen)).encode()))
        own = {key: values[key] for key in ("dtype", "attention", "compile")}
        num_threads = chosen.num_threads
        return from_dict(RuntimeConfig, {**to_dict(config), **own, "num_threads": num_threads}, source="")

    def thread_adapter(self) -> ThreadAdapter | None:
        """Return what adapts the number of threads during the run, if that may change."""
        num_threads, is_alone = self.config.runtime.num_threads, self.owns_process and self.ranks.size == 1
        if not self.is_adaptive or not is_alone or not isinstance(num_threads, int) or num_threads == 1:
            return None
        return ThreadAdapter(num_threads)

    def make_trainer(self, runtime: Runtime, found: Checkpoint | None, started: float | None) -> Trainer:
        """Return the run's trainer, restored from the checkpoint to resume from, or new."""
        config, ranks = self.config, self.ranks
        are_loaded = found is not None or config.training.start_from is not None
        with ranks.collective_errors():
            where = self.run, runtime, self.reporter
            trainer = Trainer(
                config,
                self.data,
                *where,
                ranks=ranks,
                started=started,
                draw_weights=not are_loaded,
                threads=self.thread_adapter(),
                control=self.control,
            )
        if found:
            trainer.restore(found)
        elif config.training.start_from is not None:
            load_initial_weights(trainer.learner, config, self.reporter)
        return trainer

    def begin(self, trainer: Trainer, loggers: Sequence[Logger] | None, run_name: str) -> list[Logger]:
        """Start or continue the run's folder, and report the run; return the loggers, the metrics file
        last."""
        config, run = self.config, self.run
        run.start(config, self.tokenizer)
        metrics = MetricsFile(run.metrics)
        metrics.truncate_after(trainer.step)
        SamplesFile(run.samples).rewind(trainer.step)
        self.control.begin(partial(progress_of, trainer), trainer.step)
        if self.choice:
            report_choice(self.choice, trainer.runtime, self.reporter)
            Expectation(self.choice.chosen.bits_per_byte, self.choice.low, self.choice.high).write(run.path)
        report_start(trainer, self.reporter)
        if loggers is None:
            dataset = config.logging.dataset or config.data.corpus_name
            logging = dataclasses.replace(config.logging, dataset=dataset)
            loggers = [make_logger(logging, config.wandb, run.path, run_name)]
            loggers[0].rewind(trainer.step)
        self.history.add(START, trainer.step, **start_facts(trainer, self.xz))
        self.history.newest_step, self.has_begun = trainer.step, True
        return [*loggers, self.history, metrics]

    def make_memory(self) -> NgramMemory | None:
        """Return the run's memory of n-grams on rank 0, which alone uses it; None if it has none."""
        with self.ranks.while_rank_0_works():
            parts = self.config, self.data, self.run, self.reporter
            return make_memory(*parts) if self.ranks.is_main else None

    def estimate_end(self, trainer: Trainer, ngrams: NgramMemory | None) -> None:
        """Estimate, for a budget in time, how long the run will take after its last checkpoint."""
        if self.config.training.max_time is None:
            return
        seconds = sampling_seconds(trainer.learner, self.tokenizer)
        page_seconds = PAGE_SECONDS if self.config.logging.report else 0.0
        pauses = trainer.budget.pauses
        with self.ranks.while_rank_0_works():
            lookup_seconds = scoring_seconds(ngrams, self.data, self.separator) if ngrams else 0.0
        (lookup_seconds, is_kept), *_ = self.ranks.all_gather_numbers([lookup_seconds, float(bool(ngrams))])
        # Rank 0 alone scores the text again, of which each has a part in a validation.
        pauses.sampling_seconds, pauses.validations_at_end = seconds, int(is_kept) * self.ranks.size
        pauses.ending_seconds = EXIT_SECONDS + page_seconds + lookup_seconds

    def stop(self, trainer: Trainer) -> None:
        """Report that a signal has stopped the run."""
        if self.owns_process:
            end_at_interrupts()
        self.reporter.say(f"stopped after step {trainer.step}; {self.same_command()} goes on from there")
        if self.ranks.is_main:
            self.history.add(STOP, trainer.step, clock=trainer.clock.state())
            self.write_page()

    @contextlib.contextmanager
    def failures_recorded(self) -> Iterator[None]:
        """Context manager: an error that ends a run which has begun is in its history and on its page."""
        try:
            yield
        except Exception as error:
            if self.has_begun:
                self.history.add(ERROR, self.history.newest_step, what=first_line(error))
                if self.ranks.size == 1:  # torchrun ends the other ranks soon, and the error has to be told
                    self.write_page()
            raise

    def write_page(self) -> None:
        """Write the run's page, on rank 0."""
        write_page(self.config, self.run.path, self.reporter)

    def finish(self, trainer: Trainer, samples: Samples, ngrams: NgramMemory | None) -> None:
        """Report the quality of the finished model, and write samples."""
        model = trainer.learner.whole_model()
        with self.ranks.while_rank_0_works():
            if self.ranks.is_main:
                report_end(trainer, self.reporter)
                report_skipped_steps(trainer, self.reporter)
                found = best_weights(trainer, model)
                report_quality(trainer, found, self.xz, self.reporter)
                report_expectation(found, self.run.path, self.reporter)
                mixed = ngrams and self.judge_memory(trainer, model, ngrams)
                samples.write_result(model, found)
                own = {"ngram_bits_per_byte": mixed.bits_per_byte} if mixed else {}
                self.history.add(END, trainer.step, clock=trainer.clock.state(), **own)
                self.write_page()
        self.report_end()

    def judge_memory(self, trainer: Trainer, model: TransformerLM, ngrams: NgramMemory) -> MeanLoss | None:
        """Report the quality of the finished model with the memory of n-grams, and return it."""
        found = judge_memory(model, ngrams, self.data, self.separator, trainer.runtime, self.reporter)
        if found:
            report_memory(found, ngrams, self.reporter)
        return found

    @property
    def separator(self) -> int | None:
        """Id of the token that ends documents; None if there is none."""
        return self.tokenizer.special_token_ids.get(str(self.config.data.document_separator))

    def is_complete(self, trainer: Trainer) -> bool:
        """Return True, on all ranks, if the run was completed by an earlier process."""
        (is_complete,), *_ = self.ranks.all_gather_numbers([is_complete_in_folder(trainer)])
        return bool(is_complete)

    def report_end(self) -> None:
        """Report the run's folder, and the command that writes more text."""
        more = f'more text: transformerlm-infer --infer.checkpoint="{self.run.path}"'
        self.reporter.say(f"done: {self.run.path}; {more}")


def runtime_of_rank(config: RuntimeConfig, ranks: Ranks) -> RuntimeConfig:
    """Return [runtime] for this rank: its own GPU, or its part of the machine's cores.

    Raises:
        ConfigError: there is no such device, or not one for each rank.
    """
    if ranks.size == 1:
        return config
    world, device = ranks.world, resolve_device(config.device).type
    if device == "mps":
        raise ConfigError('several ranks compute on "cuda" or "cpu", got mps', key=Key("runtime", "device"))
    if device == "cuda":
        if world.local_size > torch.cuda.device_count():
            what = f"{world.local_size} ranks of this machine, got {torch.cuda.device_count()}"
            raise ConfigError(f"expected a GPU for each of the {what}", key=Key("runtime", "device"))
        torch.cuda.set_device(world.local_rank)
    if config.num_threads != AUTO:
        return config
    return dataclasses.replace(config, num_threads=max(1, available_cores() // world.local_size))
