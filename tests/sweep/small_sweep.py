"""A sweep of very small runs whose workers are forked: PyTorch is imported once, by the program that uses it.

All else is as in the command: each worker is a process that runs the real transformerlm-train in the folder
of its run, and dies with its scheduler. See tests/faults/small_run.py.
"""

import importlib
import json
import os
import signal
import traceback
from pathlib import Path

from tests.faults import small_run
from transformerlm.cli import eval as eval_command  # noqa: F401  (imported before the forks)
from transformerlm.cli.sweep_report import JsonPrinter
from transformerlm.config import SweepConfig
from transformerlm.schema import from_toml
from transformerlm.sweep import workers
from transformerlm.sweep.result import SweepResult
from transformerlm.sweep.run import sweep
from transformerlm.training import trainer

for module in ("evaluation.compare", "report.page", "sweep.page", "sweep.finals"):
    importlib.import_module(f"transformerlm.{module}")

HALVING = """
[sweep]
sweep_dir = "sweep"
method = "halving"
max_trials = 4
rungs = 2
halving_factor = 2
workers_per_device = 2
finalists = 2
seeds = 1
max_attempts = 1000000

[sweep.space]
"optimizer.lr" = { low = 1e-3, high = 1e-1, scale = "log" }
"model.d_ff" = [16, 24]
"""


class Forked:
    """A worker that was forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def send_signal(self, number: int) -> None:
        if self._status is None:
            os.kill(self.pid, number)


def forked(words, environment, messages: Path) -> Forked:
    """Start a worker in place of `transformerlm.sweep.workers.launch`."""
    die_with_parent = workers.end_with_parent()

    def work() -> int:
        os.setpgid(0, 0)
        die_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(environment)
        os.dup2(os.open(messages, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            return importlib.import_module(words[0]).main(list(words[1:]))
        except Exception:  # as Python itself reports it
            traceback.print_exc()
            return 1

    return Forked(small_run.in_child(work))


def run(folder: Path, launch=forked) -> SweepResult:
    """Run `sweep.toml` in a folder, in this process; what it prints goes into a file `printed`."""
    os.chdir(folder)
    trainer.measured_flops_ceiling = lambda runtime, seconds: 1e9
    config = from_toml(SweepConfig, "sweep.toml")
    with Path("printed").open("a") as file:
        printer = JsonPrinter(config.sweep.metric)
        printer._console._stream = file
        return sweep(config, None, printer.trial, launch=launch)


def prepare(folder: Path, settings: str = HALVING, max_steps: int = 18) -> None:
    """Write a corpus and `sweep.toml` into a folder; the first worker makes the token files."""
    small_run.prepare(folder)
    config = small_run.CONFIG.replace(f"max_steps = {small_run.MAX_STEPS}", f"max_steps = {max_steps}")
    (folder / "sweep.toml").write_text(config + settings)


def left_by(folder: Path) -> dict[str, list[str]]:
    """Return what a sweep has come to and does not depend on time: results, and what its runs have left."""
    found = {path.name: small_run.left_by(path) for path in sorted((folder / "sweep/trials").glob("*/"))}
    records = [json.loads(line) for line in (folder / "sweep/sweep.jsonl").read_text().splitlines()]
    ends = [record for record in records if record["event"] == "end"]
    for record in ends:
        record["result"].pop("seconds")
    found["results"] = sorted(f"{record['name']} {json.dumps(record['result'])}" for record in ends)
    found["best"] = (folder / "sweep/best.toml").read_text().splitlines()
    scores = sorted((folder / "sweep/trials").glob("*-scores.jsonl"))
    found["scores"] = [path.name + path.read_text() for path in scores]
    return found
