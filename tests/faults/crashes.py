"""Let commands crash, or find the disk full, at each of their calls to the file system, one after the other.

    python -m tests.faults.crashes train --faults power full

Prints one JSON object. Each trial is a forked child in a copy of the same folder; after it the same command
runs again without a fault, and has to come to what it comes to when nothing ever happens.
"""

import argparse
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults import small_run
from tests.faults.watched_disk import WatchedDisk, faults_of_order
from transformerlm.checkpoint.store import checkpoint_paths, read_checkpoint
from transformerlm.data import TokenFile
from transformerlm.data.listing import RECORD_FILE
from transformerlm.errors import DataError, TransformerLMError
from transformerlm.tokenizer import Tokenizer

FAULTS = {
    "crash": lambda number: {"crash_at": number},
    "power": lambda number: {"crash_at": number, "loses_power": True},
    "full": lambda number: {"full_at": number},
    "full-once": lambda number: {"full_at": number, "full_once": True},
}
WORDS = {
    "train": [f"--training.{value}" for value in ("max_steps=5", "checkpoint_every=2", "keep_checkpoints=1")],
    "make_data": [],
    "train_tokenizer": [],
}


@dataclass
class Found:
    calls: int = 0
    trials: int = 0
    order: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    bad_messages: list[str] = field(default_factory=list)
    temporaries_left: list[str] = field(default_factory=list)
    not_finished: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def run(folder: Path, command: str, disk: WatchedDisk | None = None) -> int:
    """Run the command in a child, in `folder`; return its exit status."""

    def work() -> int:
        os.chdir(folder)
        if disk:
            disk.install()
        status = small_run.main(command, *WORDS[command])
        if disk and not (disk.crash_at or disk.full_at):
            Path("output").write_text(json.dumps(disk.calls))
        return status

    return small_run.status_of(small_run.in_child(work))


def left_by(folder: Path) -> dict[str, bytes | list[str]]:
    """Return what a command has made, as far as it is always the same."""
    files = [
        path
        for path in folder.rglob("data/**/*")
        if path.is_file() and path.name not in (".lock", RECORD_FILE)
    ]
    left = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return left | {"run": small_run.left_by(folder / "run")}


def unreadable(folder: Path) -> list[str]:
    """Return errors about files that readers would take for whole. A missing token file is no fault."""
    found = []

    def look(read: Callable[[], object]) -> None:
        try:
            read()
        except TransformerLMError as error:
            if not (isinstance(error, DataError) and "no such token file" in str(error)):
                found.append(str(error))

    for path in checkpoint_paths(folder / "run" / "checkpoints"):
        look(lambda path=path: read_checkpoint(path).training_state())
    for sidecar in folder.glob("data/text/*.memmap.json"):
        look(lambda path=sidecar: TokenFile.open(path.with_suffix("")).verify())
    tokenizer = folder / "data" / "text" / "tokenizer"
    if any((tokenizer / name).exists() for name in ("vocab.json", "merges.txt")):
        look(lambda: Tokenizer.from_dir(tokenizer))
    return found


def temporaries(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob(".*.tmp.*")]


def judge_message(output: str, status: int, found: Found, where: str) -> None:
    """Check that a full disk ends in one line with path, free bytes and status 74, or in a warning."""
    lines = [line for line in output.splitlines() if "Traceback" in line or "o space left" in line]
    is_said = any(re.search("[0-9,]+ bytes.* free", line) or "could not be written" in line for line in lines)
    is_good = not any("Traceback" in line for line in lines) and (is_said or not lines)
    if status not in (0, 74) or (status == 74 and not is_said) or not is_good:
        found.bad_messages.append(f"{where}: status {status}: {output[-300:]}")


def enumerate_faults(
    work: Path, commands: Mapping[str, int], faults: Sequence[str]
) -> dict[str, dict[str, Found]]:
    """Try faults at every so many calls of each command; return command -> fault -> what was found."""
    found = {}
    for command, every in commands.items():
        folder = work / command
        small_run.prepare(folder / "start")
        if command == "train":
            assert run(folder / "start", "make_data") == 0
        shutil.copytree(folder / "start", folder / "straight")
        assert run(folder / "straight", command, WatchedDisk(folder / "straight")) == 0
        calls = json.loads((folder / "straight" / "output").read_text())
        expected = left_by(folder / "straight")
        found[command] = {}
        for index, fault in enumerate(faults):
            one = Found(calls=len(calls), order=faults_of_order(calls))
            # Each fault begins at another call, so that together they try more of them.
            for number in range(1 + index * every // len(faults), len(calls) + 1, every):
                where = f"call {number}: {' '.join(calls[number - 1])}"
                try_fault(folder, command, fault, number, where, expected, one)
            found[command][fault] = one
    return found


def try_fault(
    work: Path, command: str, fault: str, number: int, where: str, expected: dict, found: Found
) -> None:
    """Run the command with a fault at one call, inspect what is left, and run it again without."""
    folder = work / "trial"
    shutil.copytree(work / "start", folder)
    status = run(folder, command, WatchedDisk(folder, **FAULTS[fault](number)))
    found.trials += 1
    found.statuses[status] = found.statuses.get(status, 0) + 1
    found.unreadable += [f"{where}: {line}" for line in unreadable(folder)]
    if fault.startswith("full"):
        judge_message((folder / "output").read_text(), status, found, where)
        found.temporaries_left += [f"{where}: at once: {path}" for path in temporaries(folder)]
    if run(folder, command) != 0:
        found.not_finished.append(f"{where}: {(folder / 'output').read_text()[-300:]}")
    else:
        found.temporaries_left += [f"{where}: {path}" for path in temporaries(folder)]
        left = left_by(folder)
        found.differences += [f"{where}: {name}" for name in expected if left.get(name) != expected[name]]
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("commands", nargs="+", choices=WORDS)
    parser.add_argument("--faults", choices=FAULTS, nargs="+", default=["crash"])
    parser.add_argument("--every", type=int, nargs="+", default=[1], help="one for each command, or for all")
    options = parser.parse_args()
    every = options.every * (len(options.commands) if len(options.every) == 1 else 1)
    commands = dict(zip(options.commands, every, strict=True))
    with tempfile.TemporaryDirectory() as temporary:
        found = enumerate_faults(Path(temporary).resolve(), commands, options.faults)
    print(json.dumps({c: {f: asdict(one) for f, one in by.items()} for c, by in found.items()}, indent=1))


if __name__ == "__main__":
    main()
