"""Whole sweeps with trials that end in every way, each by forked workers.

    python -m tests.sweep.jobs

Prints what was found as JSON.
"""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults import small_run
from tests.sweep import small_sweep
from transformerlm.cli import sweep as command
from transformerlm.errors import TransformerLMError

ENDS = """
[sweep]
sweep_dir = "sweep"
method = "grid"
finalists = 0
optuna_journal = true

[sweep.space]
"optimizer.lr" = [1e-2, 1e30]
"model.d_model" = [16, 24, 6000]
"model.num_heads" = [2, 3]
"""
LR = """
[sweep]
sweep_dir = "sweep"
method = "grid"
finalists = 2
seeds = 2
max_attempts = 3

[sweep.space]
"optimizer.lr" = [1e-7, 1e-2, 1e-6]
"training.start_from" = ["None", "nowhere"]
"""
FEW = """
[sweep]
sweep_dir = "sweep"
method = "grid"
finalists = 0

[sweep.space]
"optimizer.lr" = [1e-2, 1e-6]
"""
MEMORY = 2**28
"""Bytes that a worker may take beyond what it begins with."""


def with_little_memory(words, environment, messages):
    """Start a worker that cannot allocate much: an allocation fails, as on a full GPU."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        return small_sweep.forked(words, environment, messages)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def killed_in_trial_4(words, environment, messages):
    """Start a worker; that of trial 4 is killed at once, as by a system without memory."""
    process = small_sweep.forked(words, environment, messages)
    if messages.name.startswith("0004"):
        os.kill(process.pid, signal.SIGKILL)
    return process


def results(folder: Path) -> dict[str, dict]:
    records = [json.loads(line) for line in (folder / "sweep/sweep.jsonl").read_text().splitlines()]
    return {record["name"]: record["result"] for record in records if record["event"] == "end"}


def output(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "printed").read_text().splitlines()]


def ends(folder: Path) -> dict:
    """A grid in which trials are refused, diverge and run out of memory."""
    small_sweep.prepare(folder, ENDS, max_steps=6)
    status = small_sweep.run(folder, with_little_memory).exit_status
    again = small_sweep.run(folder, with_little_memory).exit_status
    return {
        "statuses": [status, again],
        "results": results(folder),
        "output": output(folder),
        "best": (folder / "sweep/best.toml").read_text(),
        "page": (folder / "sweep/report.html").read_text(),
    }


def planted(folder: Path) -> dict:
    """A grid in which one learning rate is good, some trials fail, and one is killed again and again."""
    small_sweep.prepare(folder, LR, max_steps=30)
    result = small_sweep.run(folder, killed_in_trial_4)
    best = result.best
    (folder / "sweep.toml").write_text((folder / "sweep.toml").read_text().replace("1e-6", "1e-5"))
    try:
        small_sweep.run(folder)
        refused = []
    except TransformerLMError as error:
        refused = error.lines
    return {
        "status": result.exit_status,
        "results": results(folder),
        "best": best.values if best else None,
        "finalists": [one.trial for one in result.finalists],
        "verdicts": [one.verdict for one in result.comparisons],
        "config": (folder / "sweep/best.toml").read_text(),
        "refused": refused,
    }


def full_disk(words, environment, messages):
    """Start a worker that ends as one does that cannot write."""
    messages.write_text("the disk is full\n")
    return small_sweep.Forked(small_run.in_child(lambda: 74))


def stopped_by_the_disk(folder: Path) -> dict:
    """A sweep on a full disk, and then on one with room."""
    small_sweep.prepare(folder, FEW, max_steps=3)
    try:
        small_sweep.run(folder, full_disk)
        status = 0
    except TransformerLMError as error:
        status = error.exit_status
    before = results(folder)
    return {"status": status, "before": before, "then": small_sweep.run(folder).exit_status}


def locked(folder: Path) -> dict:
    """Two schedulers at once: the second is refused."""
    small_sweep.prepare(folder, FEW, max_steps=3)
    marker = folder / "marker"

    def second(words, environment, messages):
        if not marker.exists():
            marker.touch()
            child = small_run.in_child(lambda: command.main(["sweep.toml"]))
            marker.write_text(str(small_run.status_of(child)))
        return small_sweep.forked(words, environment, messages)

    return {"status": small_sweep.run(folder, second).exit_status, "second": int(marker.read_text())}


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for job in (ends, planted, stopped_by_the_disk, locked):
            if len(sys.argv) > 1 and job.__name__ not in sys.argv[1:]:
                continue
            folder = Path(temporary) / job.__name__
            try:
                found[job.__name__] = job(folder)
            except BaseException:
                for path in sorted((folder / "sweep/trials").glob("*.log")):
                    print(path, path.read_text()[-600:], file=sys.stderr)
                raise
            os.chdir(temporary)
            shutil.rmtree(folder)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
