"""The scheduler: starts the runs that are to be made, each in a process, and records what they come to.

It remembers nothing that is not in the journal or in the folders of the runs. Killed at any moment and
started again, it starts each run that has no result yet; such a run goes on from its newest checkpoint.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from transformerlm.config import RuntimeConfig, TrainConfig
from transformerlm.errors import DataError, LockedError, OutputError
from transformerlm.schema import SchemaError, to_toml
from transformerlm.signals import StopSignals
from transformerlm.storage.files import committed_file
from transformerlm.storage.lock import is_locked
from transformerlm.sweep import ends
from transformerlm.sweep.job import TOKEN_TABLES, Job, job_config
from transformerlm.sweep.journal import Result
from transformerlm.sweep.state import Sweep
from transformerlm.sweep.workers import Process, Slot, Workplace

POLL_SECONDS = 0.05
"""Time between two looks at the workers."""


class StoppedError(Exception):
    """A signal has asked the scheduler to end; its workers have ended."""


@dataclass
class Running:
    """A run that is being made."""

    job: Job
    slot: Slot
    process: Process


class Scheduler:
    """Makes runs, as many at a time as there are slots.

    Args:
        signals: entered by the caller.
        on_end: called with each run that has ended, and its result.
        say: receives a line about a worker that is started again.
    """

    def __init__(
        self,
        sweep: Sweep,
        workplace: Workplace,
        signals: StopSignals,
        on_end: Callable[[Job, Result], None],
        say: Callable[[str], object],
    ) -> None:
        self._section, self._base = sweep.config.sweep, sweep.config.training_config
        self._paths, self._journal = sweep.paths, sweep.journal
        self._workplace, self._free = workplace, list(workplace.slots)
        self._signals, self._on_end, self._say = signals, on_end, say
        self._running: dict[str, Running] = {}
        searched = {axis.key.partition(".")[0] for axis in sweep.config.axes}
        self._same_text = searched.isdisjoint(TOKEN_TABLES)

    def make(self, jobs: Callable[[], Iterable[Job]]) -> None:
        """Make all runs that `jobs` yields; it is called again whenever a result may have changed them.

        Raises:
            StoppedError: on a signal; workers have saved what they had.
            OutputError: the disk is full. Nothing is lost, as after a kill.
            DataError: the text cannot be used.
        """
        try:
            while self._start_some(jobs) or self._running:
                self._wait()
        except BaseException:
            self._end_workers()
            raise

    def _start_some(self, jobs: Callable[[], Iterable[Job]]) -> bool:
        """Start runs while there are free slots; return True if some run has to be waited for."""
        waits = False
        while self._free:
            job = next((job for job in jobs() if self._is_to_start(job)), None)
            if job is None:
                break
            if is_locked(self._paths.run(job)):
                waits = True  # a worker of a scheduler that was killed, where it is not killed with it
                break
            self._begin(job)
        return waits

    def _is_to_start(self, job: Job) -> bool:
        return job.name not in self._journal.results and job.name not in self._running

    def _begin(self, job: Job) -> None:
        """Start a run, unless there is nothing to do for it."""
        self._journal.add(job)
        try:
            config = job_config(self._base, job, self._paths, self._workplace.runtime)
        except SchemaError as error:
            self._end(job, Result("refused", reason=error.lines[0]))
            return
        if self._is_complete(job):  # the scheduler was killed before it had recorded that
            self._end(job, self._result(job))
            return
        words = self._score_words(job, config.runtime) if job.is_score else self._train_words(job, config)
        self._journal.start(job.name, ends.newest_step(self._paths.run(job)))
        slot = self._free.pop(0)
        process = self._workplace.launch(words, slot.environment, self._paths.beside(job, ".log"))
        self._running[job.name] = Running(job, slot, process)

    def _train_words(self, job: Job, config: TrainConfig) -> list[str]:
        path = self._paths.beside(job, ".toml")
        with committed_file(path) as file:
            file.write(to_toml(config).encode())
        return ["transformerlm.cli.train", "--config", str(path)]

    def _score_words(self, job: Job, runtime: RuntimeConfig) -> list[str]:
        """Return the arguments of transformerlm-eval. All models are scored in the same precision."""
        own = {"device": runtime.device, "num_threads": runtime.num_threads, "kernels": runtime.kernels}
        files = {"checkpoint": self._paths.run(job), "documents_file": self._paths.scores(job)}
        return [
            "transformerlm.cli.eval",
            *(f"--eval.{key}={path}" for key, path in files.items()),
            *(
                f"--runtime.{key}={value}"
                for key, value in {**own, "dtype": "float32", "ngram_memory": False}.items()
            ),
        ]

    def _is_complete(self, job: Job) -> bool:
        return self._paths.scores(job).exists() if job.is_score else ends.is_complete(self._paths.run(job))

    def _result(self, job: Job) -> Result:
        """Return the result of a job that is complete."""
        if job.is_score:
            return ends.result_of_scores(self._paths.scores(job))
        return ends.result_of_complete(self._paths.run(job), self._section.metric)

    def _wait(self) -> None:
        """Wait for the end of a worker, or for a moment."""
        time.sleep(POLL_SECONDS)
        if self._signals.received:
            self._end_workers()
            self._journal.stop()
            raise StoppedError
        for running in list(self._running.values()):
            if (status := running.process.poll()) is not None:
                del self._running[running.job.name]
                self._free.insert(0, running.slot)
                self._judge(running.job, status)

    def _judge(self, job: Job, status: int) -> None:
        """Record the result of a run whose worker has ended, if it has one."""
        run_dir, messages = self._paths.run(job), self._paths.beside(job, ".log")
        attempts = self._journal.attempts(job.name, ends.newest_step(run_dir))
        if status == 0:
            self._end(job, self._result(job))
        elif status == LockedError.exit_status:
            return  # another process works in its folder: wait for it
        elif self._same_text and status == DataError.exit_status:
            raise DataError(f"{messages}: {ends.last_line(messages)}")
        elif ends.is_to_go_on(status) and attempts < self._section.max_attempts:
            self._say(f"{run_dir}: its process was killed; another one goes on")
        elif ends.is_to_go_on(status):
            self._end(job, ends.result_of_killed(run_dir, status, attempts))
        elif status == OutputError.exit_status and attempts < self._section.max_attempts:
            raise OutputError(f"{messages}: {ends.last_line(messages)}")
        else:
            self._end(job, ends.result_of_failed(run_dir, status, messages))

    def _end(self, job: Job, result: Result) -> None:
        self._journal.end(job.name, result)
        self._on_end(job, result)

    def _end_workers(self) -> None:
        """Ask all workers to save and end, and wait; a second signal ends the scheduler, and them."""
        for running in self._running.values():
            running.process.send_signal(signal.SIGTERM)
        while any(running.process.poll() is None for running in self._running.values()):
            time.sleep(POLL_SECONDS)
        self._running.clear()
