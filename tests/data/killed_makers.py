"""Makers of token files that are killed, and what is left of them; a fresh interpreter runs this.

    python tests/data/killed_makers.py FOLDER kill:NUM_KILLS packed:NUM_KILLS in_place:NUM_KILLS crash

`kill`: SIGKILL at random moments, start again, until it is done, and again, while another process reads.
`packed`: the same of a maker that reads compressed files.
`in_place`: the same of a maker that writes where the readers look: a control that has to be found out.
`crash`: the process ends at each call in turn that changes something in the file system.
The package is imported once; every trial is a fork. What was seen is printed as JSON, by the trials' names.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

os.environ["TRANSFORMERLM_KERNELS"] = "never"

from transformerlm.config import CorpusConfig
from transformerlm.data import build, build_lock
from transformerlm.data.build import TokenData, make_data
from transformerlm.data.build_journal import Progress
from transformerlm.data.listing import RECORD_FILE
from transformerlm.data.reading import streams
from transformerlm.data.sidecar import UNFINISHED
from transformerlm.data.token_file import TokenFile
from transformerlm.errors import DataError
from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts

EOT = "<|endoftext|>"
CHUNK_BYTES, COMMIT_BYTES = 4000, 20_000
NAMES = ("train.memmap", "val.memmap")
FILES = sorted([*NAMES, *(f"{name}.json" for name in NAMES)])
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


class Diary:
    """A Reporter that leaves in writing how far the work had come, whatever happens next."""

    def __init__(self, path):
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def say(self, message):
        pass

    def bar(self, total, unit, description):
        return self

    def update(self, amount):
        os.write(self.descriptor, f"{amount}\n".encode())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def write_corpus(folder, num_stories):
    words = ["the", " cat", " sat", " on", " the", " mat", " 漢字", ".", "\n", "'s", " 123"]
    generator = random.Random(0)
    stories = ["".join(generator.choices(words, k=60)) for _ in range(num_stories)]
    folder.mkdir()
    (folder / "stories.txt").write_text(EOT.join(stories))
    (folder / "long.txt").write_text(" ".join(stories[: num_stories // 3]))
    (folder / "more.txt").write_text(EOT.join(stories[: num_stories // 5]))
    vocab, merges = train_bpe_from_texts(stories[:20], 300, [EOT])
    return CorpusConfig(corpus=str(folder), validation_fraction=0.2), Tokenizer(vocab, merges, [EOT])


def pack(folder):
    """Compress two texts, with the programs that people have, each in two parts one after the other.

    A third becomes the member of an archive.
    """
    for path, command in ((folder / "stories.txt", ["zstd", "-qc"]), (folder / "long.txt", ["gzip", "-c"])):
        content = path.read_bytes()
        parts = (content[: len(content) // 2], content[len(content) // 2 :])
        packed = [subprocess.run(command, input=part, stdout=subprocess.PIPE, check=True) for part in parts]
        suffix = {"zstd": ".zst", "gzip": ".gz"}[command[0]]
        path.with_name(path.name + suffix).write_bytes(b"".join(done.stdout for done in packed))
        path.unlink()
    with zipfile.ZipFile(folder / "more.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "more.txt", "more.txt")
    (folder / "more.txt").unlink()


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def forked(function):
    """The number of a process that does this and ends."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return child


def poll(folder, whole, results):
    """Open the files again and again; leave in writing what was seen when told to end.

    Beside the results a file "whole" is made whenever a whole one was seen.
    """
    seen = {"whole": 0, "refused": 0, "partial": 0}
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    while not ended:
        time.sleep(0.0005)  # else it takes a processor from those that it watches
        for name in NAMES:
            try:
                file = TokenFile.open(folder / name)
            except DataError:
                seen["refused"] += 1
                continue
            is_whole = hashlib.sha256(file.tokens.tobytes()).hexdigest() == whole[name]
            is_whole = is_whole and len(file.tokens) == file.num_tokens
            seen["whole" if is_whole else "partial"] += 1
            if is_whole:
                results.with_name("whole").touch()
    results.write_text(json.dumps(seen))


def in_place(straight, folder):
    """How it must not be done."""
    for name in NAMES:
        shutil.copy(straight / f"{name}.json", folder)
        content = (straight / name).read_bytes()
        (folder / name).touch()
        with (folder / name).open("r+b") as file:  # emptying it would end a reader with SIGBUS
            file.truncate(len(content))
            for start in range(0, len(content), 50_000):
                file.write(content[start : start + 50_000])
                file.flush()
                time.sleep(0.01)


def is_done(config, folder):
    """The files are in place and no record is left that a next maker would go on from.

    One that is killed while it removes `UNFINISHED` leaves that folder without its record.
    """
    try:
        TokenData.open(config, folder)
    except DataError:
        return False
    return Progress.read(folder) is None


def wait_for_reader(marker):
    """Wait until the reader has seen a whole file, which takes it long on a busy machine."""
    marker.unlink(missing_ok=True)
    deadline = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.001)


def wait_for_lines(path, number, child):
    """Wait until a file has so many lines, or the process has ended."""
    while path.read_bytes().count(b"\n") < number:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)


def kill(place, num_kills, *, is_in_place=False, is_packed=False):
    build.WORKER_BYTES, build_lock.POLL_SECONDS = 1, 0.005
    generator = random.Random(num_kills)
    config, tokenizer = write_corpus(place / "corpus", 2000)
    sizes = {"chunk_bytes": CHUNK_BYTES, "commit_bytes": COMMIT_BYTES}
    make_data(config, tokenizer, place / "straight", **sizes)
    if is_packed:
        plain = digests(place / "straight")
        pack(place / "corpus")
        shutil.rmtree(place / "straight")
        make_data(config, tokenizer, place / "straight", **sizes)
        assert all(digests(place / "straight")[name] == plain[name] for name in NAMES)
    whole, folder, diary = digests(place / "straight"), place / "tokens", place / "diary"
    folder.mkdir()
    reader = forked(lambda: poll(folder, whole, place / "seen"))
    kills, builds, torn, written, redone, starts = 0, 0, 0, 0, [], []

    def maker():
        if is_in_place:
            in_place(place / "straight", folder)
        else:
            workers = random.SystemRandom().choice([1, 1, 2])
            own = CorpusConfig(corpus=config.corpus, validation_fraction=0.2, num_workers=workers)
            make_data(own, tokenizer, folder, Diary(diary), **sizes)

    while kills < num_kills or not (builds or is_in_place):
        diary.write_text("")
        child = forked(maker)
        if kills < num_kills:
            # Killed after so much work and not so much time, a busy machine gets as far as a quiet one.
            wait_for_lines(diary, 0 if is_in_place else generator.randrange(30), child)
            time.sleep(generator.uniform(0.001, 0.2 if is_in_place else 0.02))
            os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        amounts = [int(line) for line in diary.read_text().split()]
        if amounts:  # the first is where it began
            redone.append(written - amounts[0])
            written = sum(amounts)
            starts.append(amounts[0])
        if is_done(config, folder):
            if digests(folder) == whole:
                wait_for_reader(place / "whole")
            else:
                torn += 1
            assert {path.name for path in folder.iterdir()} <= {*FILES, ".lock", RECORD_FILE, UNFINISHED}
            builds, written = builds + 1, 0
            for name in reversed(FILES):  # sidecars first
                (folder / name).unlink()
    os.kill(reader, signal.SIGTERM)
    assert os.waitpid(reader, 0)[1] == 0
    largest = 2 * CHUNK_BYTES
    seen = json.loads((place / "seen").read_text())
    return {
        "kills": kills,
        "builds": builds,
        "torn": torn,
        "resumed": sum(start > 0 for start in starts),
        "most_redone": max(redone, default=0),
        # Compressed files are read ahead, block by block.
        "allowed": COMMIT_BYTES + largest + streams._INPUT_BYTES * is_packed,
        **seen,
    }


def crash_at(number):
    """From now on, end the process before the so-many-th change to the file system."""
    left = [number]

    def hook(event, arguments):
        is_writing = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in CHANGES or (is_writing and not str(arguments[0]).startswith("/dev/")):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)

    sys.addaudithook(hook)


def crash(place):
    config, tokenizer = write_corpus(place / "corpus", 200)
    old = CorpusConfig(corpus=config.corpus, validation_fraction=0.4, num_workers=1)
    new = CorpusConfig(corpus=config.corpus, validation_fraction=0.2, num_workers=1)
    sizes = {"chunk_bytes": CHUNK_BYTES, "commit_bytes": COMMIT_BYTES}
    known = {}
    for name, own in (("old", old), ("new", new)):
        make_data(own, tokenizer, place / name, **sizes)
        known[name] = digests(place / name)
    folder, seen, number = place / "tokens", [], 0
    while True:
        number += 1
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place / "old", folder)

        def maker(number=number):
            crash_at(number)
            make_data(new, tokenizer, folder, **sizes)

        if os.waitpid(forked(maker), 0)[1] == 0:
            break
        seen.append(what_is_there(new, folder, known))
        make_data(new, tokenizer, folder, **sizes)
        assert digests(folder) == known["new"]
        assert {path.name for path in folder.iterdir()} == {*FILES, ".lock", RECORD_FILE}
    return {"crashes": number - 1, "seen": sorted(set(seen)), "order": seen}


def what_is_there(config, folder, known):
    """Old, new, or none: each file, and both together, are wholly that."""
    kinds = set()
    for name in NAMES:
        try:
            file = TokenFile.open(folder / name)
        except DataError:
            kinds.add("none")
            continue
        digest = hashlib.sha256(file.tokens.tobytes()).hexdigest()
        (kind,) = (kind for kind, files in known.items() if files[name] == digest)
        kinds.add(kind)
    assert not {"old", "new"} <= kinds
    if len(kinds) == 1 and "none" not in kinds:
        TokenData.open(config, folder)
        return kinds.pop()
    return "none"


if __name__ == "__main__":
    place, *trials = sys.argv[1:]
    seen = {}
    for trial in trials:
        mode, _, number = trial.partition(":")
        folder = Path(place) / mode
        folder.mkdir(parents=True)
        modes = {"is_in_place": mode == "in_place", "is_packed": mode == "packed"}
        seen[trial] = crash(folder) if mode == "crash" else kill(folder, int(number), **modes)
    print(json.dumps(seen))
