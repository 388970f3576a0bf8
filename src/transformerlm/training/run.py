"""A whole run, from a config to a trained model; called by transformerlm-train, or from Python.

    from transformerlm.config import TrainConfig
    from transformerlm.training import train

    result = train(TrainConfig(...))
    print(result.run_dir, result.steps, result.best)

This module has the part that needs no PyTorch: the run's folder, the tokenizer and the token files.
assembly.py assembles the rest.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformerlm.config import TrainConfig
from transformerlm.config.commands import NEEDS_RUN_NAME
from transformerlm.control import RunControl
from transformerlm.control.at_end import run_at_end
from transformerlm.control.heartbeat import CONTROL_DIR
from transformerlm.distributed.collectives import ranks_from_environment
from transformerlm.distributed.ranks import Ranks
from transformerlm.errors import ConfigError, Key
from transformerlm.progress import Reporter, SilentReporter
from transformerlm.storage.files import full_disk_as_output_error, remove_dead_temporaries
from transformerlm.storage.lock import LOCK_FILE, locked
from transformerlm.training.folders import check_folders
from transformerlm.training.prepare import Prepared, prepare

if TYPE_CHECKING:
    from transformerlm.evaluation.loss import Validation
    from transformerlm.logging import Logger
    from transformerlm.training.assembly import Assembly
    from transformerlm.training.plan import Plan


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of a run."""

    run_dir: Path
    """Its folder: config, tokenizer, checkpoints, metrics, samples."""
    steps: int
    """Completed optimizer steps, those of earlier processes included."""
    best: Validation | None
    """The validation with the lowest loss, and its step; None without validation."""
    last: Validation | None
    """The latest validation."""
    stop_signal: int | None = None
    """The signal that stopped the run, which the same call continues. None if it is complete."""

    @property
    def was_stopped(self) -> bool:
        """True if a signal ended the run."""
        return self.stop_signal is not None

    @property
    def exit_status(self) -> int:
        """0, or 128 + the number of the signal, as in shells."""
        return 128 + self.stop_signal if self.stop_signal else 0


def train(
    config: TrainConfig,
    reporter: Reporter | None = None,
    loggers: Sequence[Logger] | None = None,
    *,
    owns_process: bool = False,
    started: float | None = None,
) -> TrainingResult:
    """Train a model: make the tokenizer and the token files if they are missing, train, write samples.

    Existing files that match are reused; a stopped run continues from its newest checkpoint, according to
    [training].resume. Metrics are also written to `metrics.jsonl` in the run's folder. During training, the
    first SIGINT, SIGTERM or SIGHUP ends the run after the current step; so do SIGUSR1, SIGUSR2 and SIGXCPU,
    unless the program handles them itself. Under torchrun each process calls this. Thread count, random state
    and PyTorch's settings are restored afterwards.

    Args:
        config: as for `transformerlm-train --config`.
        reporter: receives messages and progress; None: no output.
        loggers: receive metrics and samples; None: the one that [logging] names.
        owns_process: True if the process has no other purpose, as in the command: [runtime] sets it up
            permanently, the allocator keeps freed memory, and after a stop Ctrl-C ends it at once.
        started: moment by `time.perf_counter` from which [training].max_time counts; None: this call.

    Raises:
        TransformerLMError: any error that the user can correct, as one of its subclasses: ConfigError,
            DataError, CheckpointError, NumericalError, OutputError, LockedError.
    """
    started = time.perf_counter() if started is None else started
    control = RunControl()
    try:
        return _train(config, reporter, loggers, control, started, owns_process=owns_process)
    finally:
        # Here the folder is free again: the command may move it, or go on with the run.
        if config.logging.on_end and control.run_dir and control.outcome:
            limit, say = config.logging.on_end_seconds, (reporter or SilentReporter()).say
            run_at_end(config.logging.on_end, limit, control.run_dir, control.outcome, say)


def _train(
    config: TrainConfig,
    reporter: Reporter | None,
    loggers: Sequence[Logger] | None,
    control: RunControl,
    started: float,
    *,
    owns_process: bool,
) -> TrainingResult:
    with contextlib.ExitStack() as stack:
        ranks, reporter = stack.enter_context(_ranks(reporter))
        check_loggers(config, loggers, ranks)
        run_dir, run_name = stack.enter_context(locked_run_folder(config, ranks, reporter))
        if ranks.is_main:
            stack.enter_context(control.attached(run_dir))
        check_start(config, run_dir, reporter, ranks)
        prepared = _prepare(config, run_dir, reporter, ranks, started, owns_process=owns_process)
        assembly = _assembly(prepared, run_dir, reporter, ranks, owns_process=owns_process, control=control)
        trainer = assembly.train(loggers, run_name, started + prepared.seconds)
        ranks.barrier()
    stop_signal = trainer.rank_sync.received
    return TrainingResult(run_dir, trainer.step, trainer.best, trainer.newest, stop_signal)


def plan_run(
    config: TrainConfig,
    reporter: Reporter | None = None,
    *,
    owns_process: bool = False,
    started: float | None = None,
) -> Plan:
    """Estimate memory, disk and time of `train` from a few steps on the data, which are discarded.

    Tokenizer and token files are made if they are missing. See `train` for the arguments.
    """
    from transformerlm.logging import resolved_run_name

    started = time.perf_counter() if started is None else started
    with _ranks(reporter) as (ranks, reporter):
        run_dir = run_path(config, resolved_run_name(config.logging))
        with ranks.collective_errors():
            check_folders(config, run_dir)
        prepared = _prepare(config, run_dir, reporter, ranks, started, owns_process=owns_process)
        assembly = _assembly(prepared, run_dir, reporter, ranks, owns_process=owns_process)
        return assembly.plan(started + prepared.seconds)


def verify_run(
    config: TrainConfig, steps: int, reporter: Reporter | None = None, *, owns_process: bool = False
) -> None:
    """Verify that a resumed run computes the same bits: `steps` steps from its newest checkpoint, both ways.

    The result is reported. See `train` for the arguments.

    Raises:
        CheckpointError: there is no checkpoint; or, on a CPU, the bits differ.
        ConfigError: the config names no existing run.
    """
    if config.is_named_by_time:
        raise ConfigError(NEEDS_RUN_NAME, key=Key("logging", "run_name"))
    with _ranks(reporter) as (ranks, reporter), locked_run_folder(config, ranks, reporter) as (run_dir, _):
        started = time.perf_counter()
        prepared = _prepare(config, run_dir, reporter, ranks, started, owns_process=owns_process)
        _assembly(prepared, run_dir, reporter, ranks, owns_process=owns_process).verify_resume(steps)
        ranks.barrier()


def _prepare(
    config: TrainConfig,
    run_dir: Path,
    reporter: Reporter,
    ranks: Ranks,
    started: float,
    *,
    owns_process: bool,
) -> Prepared:
    """Prepare a run, and replace each "auto" of its config."""
    if not config.automatic():
        return prepare(config, reporter, ranks)
    from transformerlm.data.first_look import check_corpora

    with ranks.collective_errors():
        if ranks.is_main:
            check_corpora(config.data)
    # Imported only now: torch takes seconds.
    from transformerlm.training.automatic import prepare_automatic

    return prepare_automatic(config, run_dir, reporter, ranks, started, owns_process=owns_process)


def _assembly(
    prepared: Prepared,
    run_dir: Path,
    reporter: Reporter,
    ranks: Ranks,
    *,
    owns_process: bool,
    control: RunControl | None = None,
) -> Assembly:
    """Import the assembly only now: torch takes seconds, and an error in the text is told before."""
    was_enabled = gc.isenabled()
    gc.disable()  # nothing that is imported is garbage, and looking for it takes a sixth of the time
    try:
        from transformerlm.training.assembly import Assembly
    finally:
        if was_enabled:
            gc.enable()
    return Assembly(prepared, run_dir, reporter, ranks, owns_process=owns_process, control=control)


@contextlib.contextmanager
def _ranks(reporter: Reporter | None) -> Iterator[tuple[Ranks, Reporter]]:
    """Connect the ranks; only rank 0 reports, since the others would repeat it."""
    ranks = ranks_from_environment()
    with ranks.connected("nccl"), ranks.fail_together():
        yield ranks, reporter if reporter and ranks.is_main else SilentReporter()


@contextlib.contextmanager
def locked_run_folder(config: TrainConfig, ranks: Ranks, reporter: Reporter) -> Iterator[tuple[Path, str]]:
    """Lock the run's folder for these ranks, remove dead temporaries; yield the folder and the run's name.

    Raises:
        ConfigError: it is the folder of the text or of the token files.
        LockedError: another process trains there. (AgreedError on several ranks.)
    """
    from transformerlm.logging import resolved_run_name

    run_name = ranks.broadcast_bytes(resolved_run_name(config.logging).encode()).decode()
    run_dir = run_path(config, run_name)
    with contextlib.ExitStack() as stack:
        with ranks.collective_errors():
            if ranks.is_main:
                check_folders(config, run_dir)
                with full_disk_as_output_error(run_dir / LOCK_FILE):
                    stack.enter_context(locked(run_dir, reporter.say))
                for folder in (run_dir, run_dir / "checkpoints", run_dir / CONTROL_DIR):
                    remove_dead_temporaries(folder)
        yield run_dir, run_name


def run_path(config: TrainConfig, run_name: str) -> Path:
    """Return [training].run_dir with its placeholders filled in."""
    from transformerlm.data import fill_placeholders

    return Path(fill_placeholders(config.training.run_dir, config.data).replace("{run_name}", run_name))


def check_loggers(config: TrainConfig, loggers: Sequence[Logger] | None, ranks: Ranks) -> None:
    """Refuse a [logging].backend whose package is not installed where rank 0 is."""
    from transformerlm.logging import check_backends

    with ranks.collective_errors():
        if ranks.is_main and loggers is None:
            check_backends(config.logging)


def check_start(config: TrainConfig, run_dir: Path, reporter: Reporter, ranks: Ranks) -> None:
    """Refuse an unusable [training].start_from, before anything is made for the run."""
    if config.training.start_from is None:
        return
    from transformerlm.checkpoint.store import checkpoint_paths
    from transformerlm.training.init_from import starting_point

    with ranks.while_rank_0_works():
        if ranks.is_main and not checkpoint_paths(run_dir / "checkpoints"):
            starting_point(config, reporter)
