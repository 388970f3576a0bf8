"""Time to a loss: whole trainings on tiny Shakespeare, from the command to the end of its process.

nanoGPT runs its own recipe for characters on a CPU. Ours runs a config of this repository whose vocabulary
is the 256 bytes: the text is ASCII, so a token is a character for both, and the losses compare.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = (
    *("config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20"),
    *("--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4"),
    *("--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0"),
)
"""From nanoGPT's README, "quick start", for a computer without a GPU."""
RECIPE_LOSS = 1.8857
"""What that recipe comes to on the whole validation split (its last 10 %)."""

# prepare.py imports requests for a download that it does not need where the text is there already.
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
    found: dict[str, list[tuple[float, float]]] = {"transformerlm": []}
    if nanogpt_dir:
        found["nanoGPT"] = []
    for _ in range(races):
        for name, results in found.items():
            with tempfile.TemporaryDirectory() as folder:
                place, text = Path(folder), text_path.absolute()
                if name == "transformerlm":
                    results.append(our_training(place, text, config))
                elif nanogpt_dir:
                    results.append(nanogpt_training(place, text, nanogpt_dir))
    ours = statistics.median(seconds for seconds, _ in found["transformerlm"])
    for name, results in found.items():
        seconds = [seconds for seconds, _ in results]
        values: dict[str, float | str] = {
            "bench.work": "time_to_loss",
            "bench.contestant": name,
            "bench.seconds": statistics.median(seconds),
            "bench.fastest_seconds": min(seconds),
            "bench.slowest_seconds": max(seconds),
            "bench.ours_is_faster_by": statistics.median(seconds) / ours,
            "metrics.val_loss": max(loss for _, loss in results),
        }
        ConsoleLogger().log(values)


def our_training(folder: Path, text_path: Path, config: str) -> tuple[float, float]:
    """Seconds of the whole process, and its last validation loss, over the whole split."""
    corpus = f"--data.corpus={text_path}"
    train = [sys.executable, "-m", "transformerlm.cli.train", "--config", str(Path(config).absolute())]
    seconds, stdout = timed([*train, corpus], folder)
    records = [json.loads(line) for line in stdout.splitlines()]
    return seconds, [record["metrics.val_loss"] for record in records if "metrics.val_loss" in record][-1]


def nanogpt_training(folder: Path, text_path: Path, checkout: str) -> tuple[float, float]:
    """The same of nanoGPT, with the loss that it prints last: over 20 batches of 12."""
    work = folder / "nanogpt"
    shutil.copytree(checkout, work)
    shutil.copy(text_path, work / "data" / "shakespeare_char" / "input.txt")
    timed([sys.executable, "-c", PREPARE], work)
    seconds, stdout = timed([sys.executable, "train.py", *RECIPE], work)
    return seconds, float(re.findall(r"val loss ([\d.]+)", stdout)[-1])


def timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Run a command in a folder: seconds, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - start, done.stdout
