"""Whatever wandb does, training is the same: it starts, no step waits, and the checkpoints are equal."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from transformerlm.kernels.environment import CACHE_VARIABLE, cache_dir

CONFIG = """
[data]
corpus = "corpus"

[tokenizer]
vocab_size = 300

[model]
context_length = 16
d_model = 16
num_layers = 1
num_heads = 2
d_ff = 32

[schedule]
warmup_steps = 2

[training]
max_steps = 100
batch_size = 4
validate_every = 50
checkpoint_every = 50
log_every = 1

[generation]
max_new_tokens = 4

[runtime]
device = "cpu"
dtype = "float32"

[logging]
run_name = "the-run"
"""

SCRIPT = """
import contextlib, hashlib, io, json, sys, time
from pathlib import Path

from transformerlm.training import trainer
from transformerlm.checkpoint.store import read_checkpoint
from transformerlm.cli.train import main
from transformerlm.logging import CombinedLogger, tracker

tracker.IMPORT_SECONDS, tracker.INIT_SECONDS, tracker.CALL_SECONDS, tracker.FINISH_SECONDS = 1, 1, 1, 2
steps, logs = [], []


def timed(method, times):
    def call(*arguments, **more):
        before = time.perf_counter()
        result = method(*arguments, **more)
        times.append((before, time.perf_counter()))
        return result
    return call


trainer.Trainer.take_step = timed(trainer.Trainer.take_step, steps)
CombinedLogger.log = timed(CombinedLogger.log, logs)


def run(name, fake=None):
    steps.clear(), logs.clear()
    words = ["--config", "config.toml", f"--training.run_dir=runs/{name}"]
    if fake:
        sys.path.insert(0, fake)
        words += ["--logging.backend=wandb"]
    out, err = io.StringIO(), io.StringIO()
    began = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    ended = time.perf_counter()
    if fake:
        sys.path.remove(fake)
    last = read_checkpoint(Path("runs") / name / "checkpoints" / "step_00000100")
    return {
        "status": status,
        "stdout": out.getvalue().splitlines(),
        "stderr": err.getvalue().splitlines(),
        "start": steps[0][0] - began,
        "end": ended - steps[-1][1],
        "log": max(after - before for before, after in logs),
        # The first steps compile, with wandb or without.
        "gap": max(after[0] - before[0] for before, after in zip(steps[5:], steps[6:], strict=False)),
        "members": {key: member["sha256"] for key, member in last.members.items()},
    }


run("warm")
for line in sys.stdin:
    print(json.dumps({name: run(name, fake) for name, fake in json.loads(line).items()}), flush=True)
"""

QUICK = ["missing", "logging fails", "logging hangs", "logging is slow"]
CONSOLE = "console"


@pytest.fixture
def train_with(tmp_path, fake_wandb):
    """Trains in one process of its own: at each call once on the console and once with each faulty wandb."""
    (tmp_path / "corpus").mkdir()
    for number in range(40):
        (tmp_path / "corpus" / f"{number}.txt").write_text(
            f"The {number}. fox met a crow by the river.\n" * 9
        )
    (tmp_path / "config.toml").write_text(CONFIG)
    # A home of its own, but the kernels that are compiled already: they take longer than all else here.
    environment = os.environ | {
        "HOME": str(tmp_path),
        CACHE_VARIABLE: str(cache_dir()),
        "OMP_NUM_THREADS": "1",
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", SCRIPT]
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=errors, **pipes) as process,
    ):

        def train(faults):
            shutil.rmtree(tmp_path / "runs", ignore_errors=True)
            fakes = {CONSOLE: None, **{fault: str(fake_wandb(fault)) for fault in faults}}
            return asked(process, json.dumps(fakes), tmp_path / "errors")

        yield train
        process.stdin.close()
        assert process.wait(300) == 0, (tmp_path / "errors").read_text()


def asked(process, line, errors):
    """What the process answers to a line; one that does not within 300 seconds is killed."""
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    process.stdin.write(line + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    watchdog.cancel()
    assert answer, errors.read_text()
    return json.loads(answer)


TIMED = (
    "metrics.tokens_per_second",
    "metrics.mfu",
    "metrics.data_wait_fraction",
    "metrics.seconds_remaining",
)


def records(path: Path) -> list[dict[str, object]]:
    """What was logged, without what a clock decides."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMED} for record in found]


def check(train_with, folder, fake_wandb, faults):
    found = train_with(faults)
    console = found.pop(CONSOLE)
    wanted = records(folder / "runs" / CONSOLE / "metrics.jsonl")
    assert [record["step"] for record in wanted if "metrics.loss" in record] == list(range(1, 101))
    for fault, run in found.items():
        assert run["status"] == 0, (fault, run)
        assert run["members"] == console["members"], fault
        assert records(folder / "runs" / fault / "metrics.jsonl") == wanted, fault
        assert run["start"] < console["start"] + 5, fault
        assert run["end"] < console["end"] + 5, fault
        check_messages(fault, run, console, fake_wandb)
    return console, found


def check_messages(fault, run, console, fake_wandb):
    warnings = [line for line in run["stderr"] if line.startswith("warning")]
    if fault in fake_wandb.sound:
        assert (warnings, run["stdout"]) == ([], []), fault
        return
    (warning,) = warnings
    assert warning.startswith(f"warning: wandb: {fake_wandb.reasons[fault]}"), warning
    steps = [json.loads(line)["step"] for line in run["stdout"] if "metrics.loss" in line]
    if "console instead" in warning:
        assert len(run["stdout"]) == len(console["stdout"])
    else:  # wandb has the first ones, and a place on the disk
        assert "`wandb sync the-sync-dir` uploads what is there" in warning
        assert steps == list(range(101 - len(steps), 101))
        assert len(steps) < 100
        assert not fault.startswith("logging") or steps, fault


@pytest.mark.parametrize(
    "every",
    [
        pytest.param(False, id="some", marks=pytest.mark.slow),
        pytest.param(True, id="all", marks=[pytest.mark.slow, pytest.mark.endurance]),
    ],
)
def test_training_is_the_same_whatever_wandb_does(every, train_with, fake_wandb, tmp_path):
    faults, runs = fake_wandb.faults if every else QUICK, 0
    # The machine's own hiccups do not come with the same fault three times.
    while faults and runs < 3:
        console, found = check(train_with, tmp_path, fake_wandb, faults)
        faults, runs = [fault for fault, run in found.items() if is_slow(run, console)], runs + 1
    assert not faults


def is_slow(run, console):
    """Has a step, or passing on its record, taken longer than without wandb?"""
    return max(run["log"] - console["log"], run["gap"] - console["gap"]) > 0.05
