"""transformerlm-train-tokenizer, killed again and again, and what is left; a fresh interpreter runs this.

    python tests/cli/killed_tokenizers.py FOLDER NUM_KILLS

The package is imported once; every trial is a fork. Half of the kills come at any moment of a run, half once
it has begun to write. What was seen is printed as JSON: of the command ("committed"), and of 10 kills of one
that writes its files where readers look ("in_place"), a control that has to be found out.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

os.environ["TRANSFORMERLM_KERNELS"] = "never"

from transformerlm.cli import train_tokenizer
from transformerlm.config import DataConfig, TokenizerConfig
from transformerlm.data import prepare_tokenizer
from transformerlm.errors import DataError
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.formats import gpt2_files

NAMES = ("vocab.json", "merges.txt", "manifest.json")
DIRECTORY = Path("data/tokenizer")
WORDS = ["--data.corpus=corpus", "--data.num_workers=1", "--tokenizer.vocab_size=400"]
WORDS += [f"--tokenizer.tokenizer_dir={DIRECTORY}"]
BEFORE = {
    "absent": lambda: None,
    "empty": lambda: DIRECTORY.mkdir(parents=True),
    "not empty": lambda: (DIRECTORY.mkdir(parents=True), (DIRECTORY / "notes.txt").write_text("mine")),
}
"""What there is where the tokenizer is wanted."""


def write_corpus():
    generator = random.Random(0)
    words = ["".join(generator.choices(" abcdefé漢1.'\n", k=generator.randint(1, 9))) for _ in range(300)]
    Path("corpus").mkdir()
    for number in range(8):
        Path(f"corpus/{number}.txt").write_text("".join(generator.choices(words, k=500)))


def in_place(directory, members):
    """How it must not be done."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in members.items():
        with (directory / name).open("wb") as file:
            for half in (content[: len(content) // 2], content[len(content) // 2 :]):
                file.write(half)
                file.flush()
                time.sleep(0.005)


class Run:
    """A run of the command in a process of its own, which says when it begins to write."""

    def __init__(self, write_files):
        reading, writing = os.pipe()
        self.start = time.monotonic()
        self.process = os.fork()
        if self.process == 0:
            os.close(reading)
            self._child(writing, write_files)
        os.close(writing)
        self.pipe = reading

    def _child(self, writing, write_files):
        status = 1
        try:
            nowhere = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)

            def announced(directory, members):
                os.write(writing, b"!")
                write_files(directory, members)

            gpt2_files.write_files = announced
            status = train_tokenizer.main(WORDS)
        finally:
            os._exit(status)

    def wait_until_it_writes(self):
        assert os.read(self.pipe, 1) == b"!"
        return time.monotonic() - self.start

    def kill(self):
        os.kill(self.process, signal.SIGKILL)
        return os.WIFSIGNALED(self.end())

    def end(self):
        status = os.waitpid(self.process, 0)[1]
        os.close(self.pipe)
        self.seconds = time.monotonic() - self.start
        return status


def digests():
    found = {name: DIRECTORY / name for name in NAMES if (DIRECTORY / name).exists()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}


def what_is_there(before, whole):
    """ "whole", "none" or "torn": a part of them, other content, or what does not load."""
    found = digests()
    if found == whole:
        return "whole"
    if not found:
        return "none"
    # Beside other files they come one by one, and vocab.json, which tells, comes last.
    is_none = before == "not empty" and "vocab.json" not in found and found.items() <= whole.items()
    return "none" if is_none else "torn"


def must_load():
    try:
        Tokenizer.from_dir(DIRECTORY)
    except DataError as error:
        return str(error)
    return None


def lengths():
    """Seconds until a run that is left alone begins to write, and from then on: the shortest of some."""
    runs = []
    for _ in range(5):
        shutil.rmtree("data", ignore_errors=True)
        run = Run(gpt2_files.write_files)
        until_writing = run.wait_until_it_writes()
        assert run.end() == 0
        runs.append((until_writing, run.seconds - until_writing))
    return tuple(map(min, zip(*runs, strict=True)))


def kill(num_kills, write_files):
    generator = random.Random(num_kills)
    until_writing, writing_seconds = lengths()
    whole = digests()
    assert sorted(whole) == sorted(NAMES)
    seen = {"kills": 0, "while_writing": 0, "none": 0, "whole": 0, "torn": 0, "temporaries": 0}
    wrong = []
    while seen["kills"] < num_kills:
        before = generator.choice(list(BEFORE))
        shutil.rmtree("data", ignore_errors=True)  # a run may not have come so far
        BEFORE[before]()
        run, is_writing = Run(write_files), generator.random() < 0.5
        if is_writing:
            run.wait_until_it_writes()
        time.sleep(generator.uniform(0, writing_seconds if is_writing else until_writing + writing_seconds))
        is_killed = run.kill()
        seen["kills"] += is_killed
        seen["while_writing"] += is_killed and is_writing
        state = what_is_there(before, whole)
        seen[state] += 1
        seen["temporaries"] += len(list(Path("data").rglob(".*.tmp.*")))
        wrong += [must_load()] * (state == "whole" and must_load() is not None)
        if state != "torn" and generator.random() < 0.5:
            wrong += go_on(whole, before)
    return {**seen, "wrong": wrong}


def go_on(whole, before):
    """What the next start makes of it: the same bytes, and nothing is left over."""
    run = Run(gpt2_files.write_files)
    status = run.end()
    left = sorted(str(path) for path in Path("data").rglob(".*.tmp.*"))
    expected = {*NAMES, "notes.txt"} if before == "not empty" else {*NAMES}
    names = {path.name for path in DIRECTORY.iterdir()}
    return [] if (status, digests(), left, names) == (0, whole, [], expected) else [[status, left, *names]]


if __name__ == "__main__":
    place, number = sys.argv[1:]
    os.chdir(place)
    write_corpus()
    # What is imported and compiled here, no fork has to import and compile.
    prepare_tokenizer(DataConfig(corpus="corpus", num_workers=1), TokenizerConfig(tokenizer_dir="warm"))
    committed = kill(int(number), gpt2_files.write_files)
    print(json.dumps({"committed": committed, "in_place": kill(10, in_place)}))
