"""Kill the scheduler and the workers of a sweep at random moments, and compare what it comes to at the end.

    python -m tests.sweep.kills --kills 100

Prints what was found as JSON. The first scheduler of every fourth sweep is the real command, whose workers
import PyTorch for themselves; the others are forked.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults import small_run
from tests.sweep import small_sweep

COMMAND = [sys.executable, "-m", "transformerlm.cli.sweep", "sweep.toml"]
PATIENCE = 60
"""Seconds after which an orphan has outlived its scheduler for good."""


@dataclass
class Found:
    kills_of_schedulers: int = 0
    kills_of_workers: int = 0
    stops: int = 0
    """Schedulers that were asked to end."""
    sweeps: int = 0
    orphans: list[int] = field(default_factory=list)
    """Workers that have outlived their scheduler."""
    failed: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.kills_of_schedulers + self.kills_of_workers


def children_of(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except (OSError, ValueError):
        return []


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def start(folder: Path, *, is_command: bool) -> int:
    if not is_command:
        return small_run.in_child(lambda: small_sweep.run(folder).exit_status)
    with (folder / "output").open("a") as output:
        return subprocess.Popen(COMMAND, cwd=folder, stdout=output, stderr=output).pid


def kill_scheduler(process: int, number: int, found: Found) -> int:
    """Send a signal to a scheduler, and return its status when it and its workers have ended."""
    workers = children_of(process)
    os.kill(process, number)
    status = small_run.status_of(process)
    deadline = time.monotonic() + PATIENCE
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.002)
    found.orphans += [worker for worker in workers if is_alive(worker)]
    return status


def kill_until_done(folder: Path, rng: random.Random, found: Found, max_kills: int) -> None:
    """Kill a sweep, in one place or another, and start it again until it is through."""
    is_command, kills = found.sweeps % 4 == 0, 0
    while True:
        process = start(folder, is_command=is_command)
        waits = rng.uniform(1.0, 6.0) if is_command else rng.uniform(0.05, 1.2)
        while True:
            deadline = time.monotonic() + (waits if kills < max_kills else PATIENCE)
            while time.monotonic() < deadline and is_alive(process):
                time.sleep(0.005)
            if not is_alive(process) or kills >= max_kills:
                break
            workers = children_of(process)
            if not workers or rng.random() < 0.5:
                break
            os.kill(rng.choice(workers), signal.SIGKILL)
            found.kills_of_workers, kills = found.kills_of_workers + 1, kills + 1
            waits = rng.uniform(0.05, 0.8)
        if kills >= max_kills or not is_alive(process):
            status, number = small_run.status_of(process), 0
        else:
            number = signal.SIGTERM if rng.random() < 0.15 else signal.SIGKILL
            status, kills = kill_scheduler(process, number, found), kills + 1
            found.stops += number == signal.SIGTERM
            found.kills_of_schedulers += number == signal.SIGKILL
        is_command = False
        if status == 0:
            return
        if status not in (-number, 128 + number):
            found.failed.append(f"exit status {status}: {(folder / 'output').read_text()[-1500:]}")
            return


def straight(folder: Path) -> dict[str, list[str]]:
    process = small_run.in_child(lambda: small_sweep.run(folder).exit_status)
    assert small_run.status_of(process) == 0, (folder / "output").read_text()[-1500:]
    return small_sweep.left_by(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", action="store_true", help="let a run that was killed count as failed")
    options = parser.parse_args()
    rng, found = random.Random(options.seed), Found()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        small_sweep.prepare(work / "start")
        shutil.copytree(work / "start", work / "straight")
        expected = straight(work / "straight")
        while found.kills < options.kills and not found.failed:
            folder = work / str(found.sweeps)
            shutil.copytree(work / "start", folder)
            if options.control:
                text = (folder / "sweep.toml").read_text()
                (folder / "sweep.toml").write_text(text.replace("max_attempts = 1000000", "max_attempts = 1"))
            kill_until_done(folder, rng, found, options.kills - found.kills)
            found.sweeps += 1
            if not found.failed:
                got = small_sweep.left_by(folder)
                found.differences += [
                    f"{key}: {expected.get(key)} -> {got.get(key)}"
                    for key in sorted(expected.keys() | got.keys())
                    if expected.get(key) != got.get(key)
                ]
    print(json.dumps({**asdict(found), "runs": len(expected)}, indent=1))


if __name__ == "__main__":
    main()
