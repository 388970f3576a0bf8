"""Benchmarks on models and texts of the smallest size, run in this process."""

import json
from pathlib import Path

from benchmarking.timing import LeftOutError, Run, Task, measure, memory, prepared

ROOT = Path(__file__).parents[2]
MODEL = ("vocab_size=300", "context_length=16", "d_model=16", "num_layers=1", "num_heads=2", "d_ff=16")


def run_bench(main, config, *arguments, capsys):
    """Return the exit status, the records on stdout, and what was said on stderr."""
    capsys.readouterr()
    status = main(["--config", str(ROOT / "configs" / config), *arguments])
    printed = capsys.readouterr()
    return status, [json.loads(line) for line in printed.out.splitlines()], printed.err


class LocalContestant:
    """A contestant in this process: what a process of its own does is tested in test_timing.py."""

    def prepare(self, task: Task) -> None:
        self.task = task

    def wait(self):
        self.work = self._ready()
        return memory()

    def run(self, check: bool):
        work = self._ready() if self.task.is_new else self.work
        return measure(self.task, work, check=check)

    def close(self) -> None:
        self.work = None

    def _ready(self) -> Run:
        try:
            return prepared(self.task)
        except Exception as error:
            raise LeftOutError(f"failed: {error!r}") from error
