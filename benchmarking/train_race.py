"""Time to a loss: whole trainings on tiny Shakespeare, from the command to the end of its process.

nanoGPT runs its own recipe for characters on a CPU. Ours runs a config of this repository whose vocabulary
is the 256 bytes: the text is ASCII, so a token is a character for both, and the losses compare.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarking.timing import Contestants, Run, Task, timed_command

TIME_LIMIT_SECONDS = 3600

RECIPE = (
    *("config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20"),
    *("--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4"),
    *("--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0"),
)
"""From nanoGPT's README, "quick start", for a computer without a GPU."""
RECIPE_LOSS = 1.8857
"""Loss of that recipe on the whole validation split (the last 10 % of the text)."""

# nanoGPT's prepare.py imports requests for a download that is not needed if the text exists already.
PREPARE = """
import runpy, sys, types
sys.modules["requests"] = types.ModuleType("requests")
runpy.run_path("data/shakespeare_char/prepare.py")
"""


def time_to_loss(text_path: Path, config: str, nanogpt_dir: str | None, races: int) -> None:
    """Run the trainings in turn and print a line for each contestant."""
    from transformerlm.logging import ConsoleLogger

    if not text_path.is_file():
        print(f"{text_path}: not found, time_to_loss left out", file=sys.stderr)
        return
    text = text_path.absolute()
    jobs: dict[str, Run] = {
        "transformerlm": functools.partial(our_training, text, str(Path(config).absolute()))
    }
    if nanogpt_dir:
        jobs["nanoGPT"] = functools.partial(nanogpt_training, text, nanogpt_dir)
    tasks = {
        name: Task(functools.partial(ready, job), str, TIME_LIMIT_SECONDS, is_checked_every_round=True)
        for name, job in jobs.items()
    }
    with Contestants(functools.partial(print, file=sys.stderr)) as processes:
        outcomes = processes.race("time_to_loss", tasks, rounds=races)
    for name, outcome in outcomes.items():
        values: dict[str, float | str] = {
            "bench.work": "time_to_loss",
            "bench.contestant": name,
            "bench.seconds": outcome.median,
            "bench.fastest_seconds": min(outcome.seconds),
            "bench.slowest_seconds": max(outcome.seconds),
            "metrics.val_loss": max(float(measured.fingerprint) for measured in outcome.rounds),
        }
        if "transformerlm" in outcomes:
            values["bench.ours_is_faster_by"] = outcome.times_slower_than(outcomes["transformerlm"])
        ConsoleLogger().log(values)


def ready(job: Run) -> Run:
    """Return a job that needs no preparation."""
    return job


def our_training(text_path: Path, config: str) -> float:
    """Train in a process of its own; return the last validation loss, over the whole split."""
    train = [
        sys.executable,
        "-m",
        "transformerlm.cli.train",
        "--config",
        config,
        f"--data.corpus={text_path}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        _, stdout = timed_command(train, Path(folder))
    records = [json.loads(line) for line in stdout.splitlines()]
    losses: list[float] = [record["metrics.val_loss"] for record in records if "metrics.val_loss" in record]
    return losses[-1]


def nanogpt_training(text_path: Path, checkout: str) -> float:
    """Train nanoGPT; return the loss that it prints last, over 20 batches of 12."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "nanogpt"
        shutil.copytree(checkout, work)
        shutil.copy(text_path, work / "data" / "shakespeare_char" / "input.txt")
        timed_command([sys.executable, "-c", PREPARE], work)
        _, stdout = timed_command([sys.executable, "train.py", *RECIPE], work)
    return float(re.findall(r"val loss ([\d.]+)", stdout)[-1])
