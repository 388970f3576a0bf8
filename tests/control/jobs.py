"""Trainings that are asked for something while they run, each by the real command in a forked process.

    python -m tests.control.jobs

Prints what was found as JSON. PyTorch is imported once. A run waits in chosen steps until it has been asked,
so that nothing depends on the machine's speed.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.faults import small_run
from transformerlm import control
from transformerlm.checkpoint.store import checkpoint_paths
from transformerlm.control import asking, read_status, requests, run_control
from transformerlm.control.asking import NotAnsweredError
from transformerlm.distributed import collectives
from transformerlm.logging import names
from transformerlm.training import trainer

PATIENCE = 120
"""Seconds after which a run or its asker has failed."""
asking.LOOK_SECONDS = 0.01
run_control.POLL_SECONDS = 0.0
collectives.HEARTBEAT_SECONDS = 5.0


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "nothing has come"
        time.sleep(0.003)
    return found


def hold(run: Path, steps: dict[int, int], kill_at: int | None) -> None:
    """Let the run wait within each of these steps until so many requests are there."""
    plain = trainer.Trainer.take_step

    def take_step(self):
        step = self.step + 1
        if self.ranks.is_main and step in steps:
            run.with_name(f"holding {step}").touch()
            until(lambda: len(requests.request_ids(run)) >= steps[step])
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self)

    trainer.Trainer.take_step = take_step


def start(folder: Path, *words: str, steps=None, kill_at=None, environment=None) -> int:
    """Start a training in a child; return its process id."""

    def work() -> int:
        os.chdir(folder)
        os.environ.update(environment or {})
        hold(folder / "run", steps or {}, kill_at)
        return small_run.main("train", *words, noisy=True)

    return small_run.in_child(work)


def holding(folder: Path, step: int) -> None:
    marker = folder / f"holding {step}"
    until(marker.exists)
    marker.unlink()


def ask(folder: Path, step: int, *kinds: str) -> list[dict]:
    """Ask for all these at once while the run waits in `step`."""
    holding(folder, step)
    answers: dict[int, dict] = {}

    def one(number: int, kind: str) -> None:
        try:
            answers[number] = dataclasses.asdict(control.ask(folder / "run", kind, PATIENCE))
        except NotAnsweredError as error:
            answers[number] = {"kind": kind, "is_done": False, "text": str(error), "step": -1}

    askers = [threading.Thread(target=one, args=item) for item in enumerate(kinds)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    return [answers[number] for number in range(len(kinds))]


def ask_by_command(folder: Path, step: int, *words: str) -> dict:
    holding(folder, step)
    command = [sys.executable, "-m", "transformerlm.cli.status", "run", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    return {"status": done.returncode, "stderr": done.stderr, **json.loads(done.stdout)}


def left_in_control(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "control").iterdir())


def learning_rates(folder: Path) -> list[float]:
    return [r[names.LR] for r in small_run.records(folder / "run") if names.LR in r]


def said(folder: Path) -> list[str]:
    """What the run has told people."""
    return [line for line in (folder / "output").read_text().splitlines() if not line.startswith("{")]


def state(folder: Path) -> dict:
    return read_status(folder / "run").to_json()


def straight(folder: Path) -> dict:
    status = small_run.status_of(start(folder))
    return {"status": status, "left": small_run.left_by(folder / "run")}


def saved(folder: Path) -> dict:
    """A run that is asked to save, then by two at once; its last command fails."""
    process = start(folder, "--logging.on_end=exit 3", steps={5: 1, 8: 2})
    alone = [ask_by_command(folder, 5, "--save", "--json")]
    running = state(folder)
    both = ask(folder, 8, "save", "save")
    status = small_run.status_of(process)
    return {
        "status": status,
        "answers": alone + both,
        "running": running,
        "ended": state(folder),
        "left": small_run.left_by(folder / "run"),
        "control": left_in_control(folder),
        "said": said(folder),
    }


def steered(folder: Path) -> dict:
    """A run that is asked to validate and to stop, goes on, is asked to anneal, killed, and goes on."""
    on_end = "--logging.on_end=env | grep ^TRANSFORMERLM_ >> ends; echo to stderr"
    process = start(folder, on_end, steps={9: 1, 12: 1})
    answers = ask(folder, 9, "validate") + ask(folder, 12, "stop")
    was_free = read_status(folder / "run").state
    statuses = [small_run.status_of(process)]
    stopped = state(folder)
    validated = [r["step"] for r in small_run.records(folder / "run") if names.VAL_LOSS in r]
    process = start(folder, on_end, steps={20: 1}, kill_at=22)
    answers += ask(folder, 20, "anneal")
    statuses += [small_run.status_of(process), small_run.status_of(start(folder, on_end))]
    return {
        "statuses": statuses,
        "answers": answers,
        "was_free": was_free,
        "stopped": stopped,
        "ended": state(folder),
        "validated": validated,
        "rates": learning_rates(folder),
        "ends": (folder / "ends").read_text(),
        "said": said(folder),
    }


def killed(folder: Path) -> dict:
    """A run that is killed between a request and its act, by an asker that is gone; then one that goes on."""
    process = start(folder, steps={5: 1}, kill_at=5)
    holding(folder, 5)
    old = read_status(folder / "run").start_id
    request = requests.Request(id="aa", kind="stop", start_id=old, asked_by="nobody")
    requests.write_record(requests.request_path(folder / "run", "aa"), request)
    statuses = [small_run.status_of(process)]
    dead, left = state(folder), left_in_control(folder)
    with contextlib.suppress(NotAnsweredError):
        control.ask(folder / "run", "save", PATIENCE)
        raise AssertionError("a dead run has answered")
    process = start(folder, steps={10: 1})
    holding(folder, 10)
    removed = left_in_control(folder)
    late = dataclasses.replace(request, id="bb")
    requests.write_record(requests.request_path(folder / "run", "bb"), late)
    statuses.append(small_run.status_of(process))
    answer = requests.read_answer(folder / "run", "bb")
    return {
        "statuses": statuses,
        "dead": dead,
        "left_by_the_dead": left,
        "after_the_restart": removed,
        "late": dataclasses.asdict(answer) if answer else None,
        "left": small_run.left_by(folder / "run"),
    }


def killed_with_an_asker(folder: Path) -> dict:
    """A run that is killed while somebody waits."""
    process = start(folder, steps={5: 1}, kill_at=5)
    answers = ask(folder, 5, "save")
    return {
        "status": small_run.status_of(process),
        "answers": answers,
        "control": left_in_control(folder),
    }


def last_step(folder: Path) -> dict:
    """A run that is asked in its last step."""
    process = start(folder, steps={small_run.MAX_STEPS: 2})
    answers = ask(folder, small_run.MAX_STEPS, "validate", "anneal")
    status = small_run.status_of(process)
    return {"status": status, "answers": answers, "left": small_run.left_by(folder / "run")}


def two_ranks(folder: Path) -> dict:
    """Two ranks that are asked to validate, save and stop, and go on until they are asked to anneal."""
    statuses, answers = [], []
    for steps, kinds in (({5: 2, 7: 1}, {5: ["validate", "save"], 7: ["stop"]}), ({20: 1}, {20: ["anneal"]})):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        ranks = [
            start(folder, steps=steps, environment={**shared, "RANK": rank, "LOCAL_RANK": rank})
            for rank in ("0", "1")
        ]
        for step, asked in kinds.items():
            answers += ask(folder, step, *asked)
        statuses.append([small_run.status_of(process) for process in ranks])
    return {
        "statuses": statuses,
        "answers": answers,
        "ended": state(folder),
        "rates": learning_rates(folder),
        "checkpoints": [path.name for path in checkpoint_paths(folder / "run" / "checkpoints")],
        "said": said(folder),
    }


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        small_run.prepare(work / "start")

        def make_data() -> int:
            os.chdir(work / "start")
            return small_run.main("make_data")

        assert small_run.status_of(small_run.in_child(make_data)) == 0
        for job in (straight, saved, steered, killed, killed_with_an_asker, last_step, two_ranks):
            if len(sys.argv) > 1 and job.__name__ not in sys.argv[1:]:
                continue
            folder = work / job.__name__
            shutil.copytree(work / "start", folder)
            try:
                found[job.__name__] = job(folder)
            except BaseException:
                print((folder / "output").read_text()[-3000:], file=sys.stderr)
                raise
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
