"""A whole sweep, from a config to best.toml and a page; called by transformerlm-sweep, or from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from transformerlm.config import SweepConfig
from transformerlm.progress import Reporter, SilentReporter
from transformerlm.schema import to_toml
from transformerlm.signals import StopSignals
from transformerlm.storage.files import committed_file, make_directory, remove_dead_temporaries
from transformerlm.storage.lock import locked
from transformerlm.sweep.check import begin_or_continue, check
from transformerlm.sweep.job import RUNS, Job, Paths
from transformerlm.sweep.journal import Result
from transformerlm.sweep.result import SweepResult, best_config, result_of
from transformerlm.sweep.scheduler import Scheduler, StoppedError
from transformerlm.sweep.state import Sweep
from transformerlm.sweep.workers import Launch, Workplace, launch, own_runtime, slots_of

OnEnd = Callable[[Job, Result], None]
"""Receives each run that has ended."""


def sweep(
    config: SweepConfig,
    reporter: Reporter | None = None,
    on_end: OnEnd = lambda job, result: None,
    *,
    launch: Launch = launch,
) -> SweepResult:
    """Run a sweep, or go on with it, until it is complete or a signal stops it.

    At the end, best.toml and report.html are written into its folder.

    Args:
        reporter: receives messages; None: no output.
        on_end: called with each run that ends.
        launch: starts a worker.

    Raises:
        TransformerLMError: any error that the user can correct, as one of its subclasses. The same call goes
            on afterwards.
    """
    reporter = reporter or SilentReporter()
    paths = paths_of(config)
    check(config, paths)
    with locked(paths.lock, reporter.say), StopSignals() as signals:
        slots = slots_of(config.runtime, config.sweep.workers_per_device)
        state = Sweep.of(config, paths, len(slots))
        if lines := state.journal.damaged_lines:
            reporter.say(f"warning: {paths.journal}: {len(lines)} lines are cut or damaged, and passed over")
        runtime = begin_or_continue(config, state.journal, own_runtime(slots))
        for folder in (paths.sweep_dir, paths.sweep_dir / RUNS):
            make_directory(folder)
            remove_dead_temporaries(folder)
        workplace = Workplace(slots, runtime, launch)
        with _mirrored(state, on_end) as told:
            try:
                Scheduler(state, workplace, signals, told, reporter.say).make(state.jobs)
            except StoppedError:
                return result_of(state, signals.received)
        result = result_of(state)
        _write(result)
        return result


def paths_of(config: SweepConfig) -> Paths:
    """Return the files of the sweep that the config names."""
    from transformerlm.data import fill_placeholders

    return Paths(Path(fill_placeholders(config.sweep.sweep_dir, config.data)).expanduser())


@contextmanager
def _mirrored(state: Sweep, on_end: OnEnd) -> Iterator[OnEnd]:
    """Yield a listener that also keeps optuna's journal up to date, if it is wanted."""
    section, axes = state.config.sweep, state.config.axes

    def write() -> None:
        if section.needs_optuna:
            from transformerlm.sweep.tpe import mirror

            jobs = [job for job in state.begun() if job.is_search]
            mirror(state.paths.optuna, state.paths.sweep_dir.name, axes, jobs, state.journal)

    def told(job: Job, result: Result) -> None:
        on_end(job, result)
        write()

    write()
    yield told


def _write(result: SweepResult) -> None:
    """Write best.toml and the page."""
    from transformerlm.sweep.page import write_page

    paths, config = result.sweep.paths, best_config(result)
    if config is not None and result.best is not None:
        lines = [f"# The best of this sweep: trial {result.best.trial:04}."]
        lines += [f"# Compared with trial {one.other:04}: {one.verdict}." for one in result.comparisons]
        with committed_file(paths.best) as file:
            file.write("\n".join([*lines, "", to_toml(config)]).encode())
    write_page(result)
