"""A run so small that a thousand of them are quick, by the real command in this process, and what it leaves.

The programs beside this file import it and fork a child for each trial: nothing here computes before that.
"""

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

import torch

from transformerlm.checkpoint.store import checkpoint_paths, read_checkpoint
from transformerlm.cli import make_data, train, train_tokenizer
from transformerlm.logging import names
from transformerlm.training import trainer

# Imported on first use, which each child would have to do anew.
for module in ("infer", "training.assembly", "training.learner", "training.plan", "training.verify_resume"):
    importlib.import_module(f"transformerlm.{module}")

MAX_STEPS, CHECKPOINT_EVERY = 40, 3
DATA_CONFIG = """
[data]
corpus = "text"
validation_fraction = 0.1

[tokenizer]
vocab_size = 270
"""
CONFIG = f"""{DATA_CONFIG}
[model]
context_length = 16
d_model = 16
num_layers = 1
num_heads = 2
d_ff = 16

[schedule]
warmup_steps = 2

[training]
run_dir = "run"
max_steps = {MAX_STEPS}
batch_size = 2
validate_every = 7
checkpoint_every = {CHECKPOINT_EVERY}
log_every = 1

[generation]
prompts = ["The "]
max_new_tokens = 2

[runtime]
device = "cpu"
dtype = "float32"
kernels = false
num_threads = 1

[logging]
report = false
"""
COMMANDS = {"train": train.main, "make_data": make_data.main, "train_tokenizer": train_tokenizer.main}
NOT_REPEATED = {names.TOKENS_PER_SECOND, names.MFU, names.DATA_WAIT_FRACTION, names.SECONDS_REMAINING}


def prepare(folder: Path) -> None:
    """Write a corpus and configs into `folder`."""
    (folder / "text").mkdir(parents=True)
    for number in range(40):
        line = f"The {number}th fox met {number * 7 % 11} crows by the river and said good day to them.\n"
        (folder / "text" / f"{number:02d}.txt").write_text(line * 4)
    (folder / "train.toml").write_text(CONFIG)
    for command in ("make_data", "train_tokenizer"):
        (folder / f"{command}.toml").write_text(DATA_CONFIG)


def main(command: str, *words: str, noisy: bool = False) -> int:
    """Run the command in this process and the current folder; its output goes into a file `output`."""
    trainer.measured_flops_ceiling = lambda runtime, seconds: 1e9
    if noisy:
        make_noisy()
    with Path("output").open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return COMMANDS[command](["--config", f"{command}.toml", *words])


def make_noisy() -> None:
    """Let each step depend on torch's generator, as dropout would: else a lost generator would not show."""
    quiet = trainer.Trainer.take_step

    def take_step(self):
        result = quiet(self)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(torch.randn(parameter.shape), alpha=1e-3)
        return result

    trainer.Trainer.take_step = take_step


def in_child(work) -> int:
    """Start `work()` in a forked process, whose exit status is what it returns; return the process id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    try:
        status = work() or 0
    except SystemExit as end:
        status = int(end.code or 0)
    except KeyboardInterrupt:  # a second one, when the command was through
        status = 130
    except BaseException:
        import traceback

        with Path("output").open("a") as file:
            traceback.print_exc(file=file)
        status = 99
    os._exit(status)


def status_of(process: int) -> int:
    """Wait for a child; return its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def records(run: Path) -> list[dict]:
    """Return the records in metrics.jsonl; a torn line is a ValueError."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def left_by(run: Path) -> list[str]:
    """Return what a finished run has left and does not depend on time: weights, optimizer, RNG, metrics."""
    found = []
    for path in checkpoint_paths(run / "checkpoints")[-1:]:
        checkpoint = read_checkpoint(path)
        found += [f"{path.name} {name} {member['sha256']}" for name, member in checkpoint.members.items()]
    for record in records(run):
        found.append(json.dumps({key: value for key, value in record.items() if key not in NOT_REPEATED}))
    return found
