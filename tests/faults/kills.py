"""Kill a training at random moments, again and again, and see what each kill leaves and what comes of it.

    python -m tests.faults.kills --kills 1000

Prints one JSON object. Torch is imported once and each trial is a forked child; every other run is begun by
the real command in a process of its own. With --control the harness itself is tested: it has
to find the fault.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path

import torch

from tests.faults import small_run
from transformerlm.checkpoint import store
from transformerlm.checkpoint.store import checkpoint_paths, read_checkpoint
from transformerlm.errors import CheckpointError
from transformerlm.logging import names

COMMAND = [sys.executable, "-m", "transformerlm.cli.train", "--config", "train.toml"]


@dataclass
class Options:
    kills: int
    seed: int
    control: str
    signals: bool


@dataclass
class Found:
    kills: int = 0
    """Or signals that were heeded."""
    kills_of_the_command: int = 0
    runs: int = 0
    unreadable: list[str] = field(default_factory=list)
    went_back: int = 0
    most_steps_lost: int = 0
    stops: int = 0
    """Signals upon which the run said that it had saved its step."""
    not_saved: list[str] = field(default_factory=list)
    """Such stops whose newest checkpoint was of another step, or that had another status."""
    stops_of_run: int = 0
    torn_metrics: int = 0
    failed: list[str] = field(default_factory=list)
    temporaries_made: int = 0
    temporaries_left: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


@contextlib.contextmanager
def in_place(path, num_bytes=None):
    """A saver as many are: into the folder that readers look at, one file after the other."""
    path.mkdir(parents=True)
    time.sleep(0.02)
    yield path


CONTROLS = {
    "": lambda: None,
    "in-place": lambda: setattr(store, "committed_directory", in_place),
    "no-rng": lambda: setattr(torch, "set_rng_state", lambda state: None),
}


def train(folder: Path, *, noisy: bool, control: str = "") -> int:
    os.chdir(folder)
    CONTROLS[control]()
    return small_run.main("train", noisy=noisy)


def look_at(run: Path, committed: int, found: Found) -> int:
    """What a kill has left; the newest step that can be gone on from comes back."""
    steps = [0]
    for path in checkpoint_paths(run / "checkpoints"):
        try:
            one = read_checkpoint(path)
            one.model_state(), one.training_state()
            steps.append(one.step)
        except CheckpointError as error:
            found.unreadable.append(str(error))
    found.temporaries_made += len(list(run.rglob(".*.tmp.*")))
    found.went_back += max(steps) < committed
    try:
        logged = [record["step"] for record in small_run.records(run) if names.LOSS in record]
    except ValueError:
        found.torn_metrics += 1
        return max(steps)
    found.torn_metrics += logged != list(range(1, len(logged) + 1))
    found.most_steps_lost = max(found.most_steps_lost, len(logged) - max(steps))
    return max(steps)


def stop(process: int, rng: random.Random, polite: bool) -> int:
    """End a process: at once, or by a signal that asks for it, and now and then a second one."""
    number = rng.choice([signal.SIGTERM, signal.SIGINT]) if polite else signal.SIGKILL
    os.kill(process, number)
    if polite and rng.random() < 0.3:
        time.sleep(rng.uniform(0, 0.02))
        os.kill(process, number)
    return number


def check_stop(folder: Path, status: int, number: int, committed: int, found: Found) -> None:
    """A run that was asked to stop says which step it has saved, unless it was asked twice."""
    said = re.findall(r"stopped after step (\d+);", (folder / "output").read_text())
    if len(said) > found.stops_of_run:
        found.stops_of_run += 1
        found.stops += 1
        if status not in (128 + number, -number) or int(said[-1]) != committed:  # -number: asked once more
            found.not_saved.append(f"status {status}, said {said[-1]}, saved {committed}")


def kill_until_done(
    folder: Path, rng: random.Random, found: Found, options: Options, longest_wait: float
) -> None:
    """One run, from its beginning to its end, through as many kills as it takes."""
    is_command = found.runs % 2 == 1 and not options.signals
    committed, found.stops_of_run = 0, 0
    while True:
        if is_command and committed == 0 and found.kills_of_the_command <= found.runs // 2:
            with (folder / "output").open("a") as output:
                process = subprocess.Popen(COMMAND, cwd=folder, stdout=output, stderr=output).pid
            wait, found.kills_of_the_command = rng.uniform(2.5, 4.5), found.kills_of_the_command + 1
        else:
            work = partial(train, folder, noisy=not is_command, control=options.control)
            process, wait = small_run.in_child(work), rng.uniform(0.005, longest_wait)
        time.sleep(wait)
        number = stop(process, rng, options.signals)
        status = small_run.status_of(process)
        committed = max(committed, look_at(folder / "run", committed, found))
        check_stop(folder, status, number, committed, found)
        found.kills += status != 0
        if status not in (-number, 128 + number):
            if status:
                found.failed.append(f"exit status {status}: {(folder / 'output').read_text()[-500:]}")
            return


def straight(folder: Path, *, noisy: bool) -> list[str]:
    assert small_run.status_of(small_run.in_child(lambda: train(folder, noisy=noisy))) == 0
    return small_run.left_by(folder / "run")


def kill(work: Path, options: Options) -> Found:
    rng, found = random.Random(options.seed), Found()
    small_run.prepare(work / "start")

    def make_data() -> int:
        os.chdir(work / "start")
        return small_run.main("make_data")

    assert small_run.status_of(small_run.in_child(make_data)) == 0
    expected = {}
    for noisy in (False, True):
        shutil.copytree(work / "start", work / f"straight {noisy}")
        start = time.perf_counter()
        expected[noisy] = straight(work / f"straight {noisy}", noisy=noisy)
        # Where the machine is slow and busy, 0.3 seconds are no more than a start.
        longest_wait = max(0.3, 0.8 * (time.perf_counter() - start))
    assert expected[False] != expected[True]
    while found.kills < options.kills and not found.failed:
        folder, noisy = work / str(found.runs), found.runs % 2 != 1 or options.signals
        shutil.copytree(work / "start", folder)
        kill_until_done(folder, rng, found, options, longest_wait)
        if not found.failed:
            left = small_run.left_by(folder / "run")
            found.differences += [f"{a} -> {b}" for a, b in zip_longest(expected[noisy], left) if a != b]
            found.temporaries_left += map(str, folder.rglob(".*.tmp.*"))
        found.runs += 1
        shutil.rmtree(folder)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", choices=CONTROLS, default="")
    parser.add_argument("--signals", action="store_true", help="SIGTERM and SIGINT in place of SIGKILL")
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(asdict(kill(Path(temporary), options)), indent=1))
