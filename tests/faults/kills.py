"""Kill trainings at random moments, check what each kill leaves, and what the resumed run comes to.

    python -m tests.faults.kills --kills 1000

Prints a JSON list with one object for each series of kills. PyTorch is imported once and each trial is a
forked child; every other run is started by the real command in a process of its own. With --control the
training has a fault that the harness has to find; it stops when it has.
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
    kills: int = 50
    """Smallest number of kills; with a control, the largest."""
    seed: int = 0
    control: str = ""
    """A key of CONTROLS."""
    signals: bool = False
    """Send SIGTERM and SIGINT in place of SIGKILL."""


@dataclass
class Found:
    kills: int = 0
    """Kills, or signals that ended the process."""
    kills_of_the_command: int = 0
    runs: int = 0
    unreadable: list[str] = field(default_factory=list)
    went_back: int = 0
    most_steps_lost: int = 0
    stops: int = 0
    """Signals after which the run reported that it had saved its step."""
    not_saved: list[str] = field(default_factory=list)
    """Such stops with another exit status, or whose newest checkpoint is of another step."""
    stops_of_run: int = 0
    torn_metrics: int = 0
    failed: list[str] = field(default_factory=list)
    temporaries_made: int = 0
    temporaries_left: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def is_fault_found(self) -> bool:
        return bool(self.unreadable or self.differences)


@dataclass
class Surroundings:
    """Shared by all series: data, and what runs come to that nothing happens to."""

    start: Path
    expected: dict[bool, list[str]]
    """Is the run noisy? -> what it leaves."""
    longest_wait: float
    """Seconds until the latest kill."""


@contextlib.contextmanager
def in_place(path, num_bytes=None):
    """A saver that writes into the folder that readers look at, one file after the other."""
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


def inspect(run: Path, committed: int, found: Found) -> int:
    """Check what a kill has left; return the newest step from which training can resume."""
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
    """End a process with SIGKILL or politely, and sometimes with a second signal; return the signal."""
    number = rng.choice([signal.SIGTERM, signal.SIGINT]) if polite else signal.SIGKILL
    os.kill(process, number)
    if polite and rng.random() < 0.3:
        time.sleep(rng.uniform(0, 0.02))
        os.kill(process, number)
    return number


def check_stop(folder: Path, status: int, number: int, committed: int, found: Found) -> None:
    """Check that a run that was asked to stop reports the step that it has saved."""
    said = re.findall(r"stopped after step (\d+);", (folder / "output").read_text())
    if len(said) > found.stops_of_run:
        found.stops_of_run += 1
        found.stops += 1
        if status not in (128 + number, -number) or int(said[-1]) != committed:  # -number: asked once more
            found.not_saved.append(f"status {status}, said {said[-1]}, saved {committed}")


def kill_until_done(
    folder: Path, rng: random.Random, found: Found, options: Options, longest_wait: float
) -> None:
    """Kill and restart one run until it is through."""
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
        newest = inspect(folder / "run", committed, found)
        if newest <= committed:
            longest_wait *= 1.2  # the machine may have become busier: let the run get somewhere
        committed = max(committed, newest)
        check_stop(folder, status, number, committed, found)
        found.kills += status != 0
        if status not in (-number, 128 + number):
            if status:
                found.failed.append(f"exit status {status}: {(folder / 'output').read_text()[-500:]}")
            return


def straight(folder: Path, *, noisy: bool) -> list[str]:
    assert small_run.status_of(small_run.in_child(lambda: train(folder, noisy=noisy))) == 0
    return small_run.left_by(folder / "run")


def prepare(work: Path) -> Surroundings:
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
        # On a slow or busy machine, 0.3 seconds are no more than a start.
        longest_wait = max(0.3, 0.8 * (time.perf_counter() - start))
    assert expected[False] != expected[True]
    return Surroundings(work / "start", expected, longest_wait)


def kill(work: Path, surroundings: Surroundings, options: Options) -> Found:
    """A series of runs that are killed until they are through."""
    rng, found = random.Random(options.seed), Found()
    min_runs = 0 if options.signals or options.control else 2  # the second is started by the command
    while (found.kills < options.kills or found.runs < min_runs) and not found.failed:
        if options.control and found.is_fault_found:
            break
        folder, noisy = work / str(found.runs), found.runs % 2 != 1 or options.signals
        shutil.copytree(surroundings.start, folder)
        kill_until_done(folder, rng, found, options, surroundings.longest_wait)
        if not found.failed:
            pairs = zip_longest(surroundings.expected[noisy], small_run.left_by(folder / "run"))
            found.differences += [f"{a} -> {b}" for a, b in pairs if a != b]
            found.temporaries_left += map(str, folder.rglob(".*.tmp.*"))
        found.runs += 1
        shutil.rmtree(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", choices=CONTROLS, default="")
    parser.add_argument("--signals", action="store_true", help="SIGTERM and SIGINT in place of SIGKILL")
    parser.add_argument("--series", type=json.loads, help="JSON list of such options, in place of them")
    given = vars(parser.parse_args())
    series = given.pop("series") or [given]
    with tempfile.TemporaryDirectory() as temporary:
        surroundings = prepare(Path(temporary))
        found = []
        for number, options in enumerate(series):
            folder = Path(temporary, f"series {number}")
            folder.mkdir()
            found.append(asdict(kill(folder, surroundings, Options(**options))))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
