"""metrics.csv as spreadsheets read it, after resumes, kills and full disks."""

import csv
import math
import subprocess
import sys

import pytest

from transformerlm.logging import CsvFile, names


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert all(None not in row and None not in row.values() for row in rows), "a row of another width"
    return [{key: value for key, value in row.items() if value} for row in rows]


def log(path, steps, key=names.LOSS):
    with CsvFile(path) as file:
        for step in steps:
            file.log({key: 1 / step}, step)


def test_a_row_is_in_the_file_when_log_returns_and_floats_are_exact(tmp_path):
    file = CsvFile(tmp_path / "run" / "metrics.csv")
    file.log({names.LOSS: 0.1 + 0.2, names.TOKENS: 12_345_678, names.GRAD_L2_NORM: math.nan}, 3)
    file.log({names.VAL_LOSS: math.inf}, 3)
    first, second = rows_of(file.path)
    assert (first["step"], float(first[names.LOSS]), first[names.TOKENS]) == ("3", 0.1 + 0.2, "12345678")
    assert math.isnan(float(first[names.GRAD_L2_NORM]))
    assert second == {"step": "3", names.VAL_LOSS: "inf"}
    file.close()


def test_a_resumed_run_keeps_its_history_and_has_every_step_once(tmp_path):
    path = tmp_path / "metrics.csv"
    for first, last, checkpoint in [(1, 12, 10), (11, 14, 10), (11, 25, 20), (21, 30, 30)]:
        log(path, range(first, last + 1))
        CsvFile(path).rewind(checkpoint)
    log(tmp_path / "straight.csv", range(1, 31))
    assert path.read_bytes() == (tmp_path / "straight.csv").read_bytes()


def test_new_columns_cost_no_rows_and_the_file_is_rewritten_only_then(tmp_path):
    path = tmp_path / "metrics.csv"
    log(path, range(1, 4))
    with CsvFile(path) as file:
        file.log({names.LOSS: 0.5, "norms.weight.a": 1.5}, 4)
        inode = path.stat().st_ino
        file.log({"norms.weight.a": 2.5}, 5)
        file.log({names.LOSS: 0.25}, 6)
        file.rewind(5)
        kept = path.stat().st_ino
        file.log({names.LOSS: 0.25}, 6)
        assert path.stat().st_ino == kept
    assert inode != kept
    assert rows_of(path) == [
        *({"step": str(step), names.LOSS: str(1 / step)} for step in range(1, 4)),
        {"step": "4", names.LOSS: "0.5", "norms.weight.a": "1.5"},
        {"step": "5", "norms.weight.a": "2.5"},
        {"step": "6", names.LOSS: "0.25"},
    ]


def test_ordinary_records_never_rewrite_the_file(tmp_path):
    path = tmp_path / "metrics.csv"
    log(path, [1])
    inode = path.stat().st_ino
    log(path, range(2, 9))
    log(path, [9], names.VAL_LOSS)
    assert path.stat().st_ino == inode


def test_texts_are_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    log(path, [1])
    with CsvFile(path) as file:
        file.log({names.PROMPT: "a,\nb", names.OUTPUT: "c", names.TEMPERATURE: 0.8}, 1)
    assert len(rows_of(path)) == 1


@pytest.mark.parametrize("torn", ["3", "3,1.5", "3,1.5,,,,,,,,,,,,,", "\x00" * 9, 'step,"'])
def test_a_torn_row_is_dropped(torn, tmp_path):
    path = tmp_path / "metrics.csv"
    log(path, [1, 2])
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    CsvFile(path).rewind(9)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "step\nx\n", "step\n1e999\n", '"'])
def test_whatever_a_person_has_put_there_training_goes_on(content, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    CsvFile(path).rewind(3)
    log(path, [4])
    assert rows_of(path)[-1] == {"step": "4", names.LOSS: "0.25"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on file size")
def test_a_full_disk_costs_neither_rows_nor_the_run(tmp_path):
    path = tmp_path / "metrics.csv"
    code = f"""
import resource, signal
from pathlib import Path
from transformerlm.logging import CsvFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = CsvFile(Path({str(path)!r}))
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
limit(1000)
for step in range(100):
    file.log({{"metrics.loss": 1.0}}, step)
print(sum(1 for line in open({str(path)!r})))
file.log({{"metrics.new": 1.0}}, 100)
file.rewind(200)
limit(10**6)
file.log({{"metrics.loss": 1.0}}, 101)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("could not be written") == 1
    assert 1 < int(done.stdout) < 100  # whole rows, as many as there was room for
    assert [row["step"] for row in rows_of(path)] == [str(step) for step in range(102)]
