"""Hostile archives and tables end a command with a line that names them, soon and in little memory.

Each is read in one process of its own, where a crash would be seen.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.hostile_texts import DAMAGED, NUM_DAMAGED, REFUSED, damaged, write

PROGRAM = """
import json, sys, time
from tests.peak_memory import peak_memory, reset_peak_memory
from tests.data.reading.reader import documents
from transformerlm.errors import DataError
import pyarrow.parquet
reset_peak_memory()
before = peak_memory()
for path in sys.stdin.read().splitlines():
    start = time.process_time()
    try:
        told = [], len(documents(path))
    except DataError as error:
        told = error.lines, 0
    seconds, taken = time.process_time() - start, peak_memory() - before
    print(json.dumps([path, *told, seconds, taken]), flush=True)
"""


def read_all(paths: list[Path]) -> list:
    """For each path the lines of an error, the number of documents, seconds, and memory so far."""
    command = [sys.executable, "-c", PROGRAM]
    names = "\n".join(map(str, paths))
    done = subprocess.run(command, input=names, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, (done.returncode, done.stdout[-1000:], done.stderr[-2000:])
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [path for path, *_ in found] == [str(path) for path in paths]
    return found


@pytest.mark.slow
def test_hostile_texts_are_refused_by_name_in_bounded_memory(tmp_path):
    paths = [write(tmp_path / str(n), name, make()) for n, (name, make) in enumerate(REFUSED.values())]
    for what, (path, lines, num_documents, seconds, taken) in zip(REFUSED, read_all(paths), strict=True):
        assert lines, (what, num_documents)
        assert Path(path).name in " ".join(lines), (what, lines)
        assert len(lines) < 4, (what, lines)
        assert all(line.isprintable() and len(line) < 1000 for line in lines), (what, lines)
        assert seconds < 30, (what, seconds)
        assert taken < 450 * 2**20, (what, taken)


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [NUM_DAMAGED, pytest.param(3000, marks=pytest.mark.endurance)])
def test_damaged_tables_and_archives_are_refused_or_read(tmp_path, num_seeds):
    wholes = {name: make() for name, make in DAMAGED.items()}
    paths = [
        write(tmp_path / name / str(seed), name, damaged(whole, seed))
        for name, whole in wholes.items()
        for seed in range(num_seeds)
    ]
    found = read_all(paths)
    assert sum(bool(lines) for _, lines, *_ in found) > len(paths) / 4
    for path, lines, number, seconds, taken in found:
        assert bool(lines) != bool(number) or not lines, path
        assert all(line.isprintable() and len(line) < 1000 for line in lines), lines
        assert not lines or path in " ".join(lines), lines
        assert seconds < 10
        assert taken < 300 * 2**20
