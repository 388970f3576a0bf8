"""The command at the end of a run: real shells."""

import os
import time
from pathlib import Path

import pytest

from transformerlm.control import Outcome
from transformerlm.control.at_end import run_at_end, variables

OUTCOME = Outcome("failed", "step 7: not finite: loss nan\nand more", 7)


def run(command, tmp_path, seconds=60.0, outcome=OUTCOME):
    said = []
    run_at_end(command, seconds, tmp_path, outcome, said.append)
    return said


def test_it_finds_the_outcome_in_its_environment(tmp_path):
    file = tmp_path / "it's here"
    assert (
        run(f'env | grep ^TRANSFORMERLM_ > "{file}"', tmp_path, outcome=Outcome("complete", "x", 9, 1.25))
        == []
    )
    found = dict(line.split("=", 1) for line in file.read_text().splitlines())
    expected = {
        "TRANSFORMERLM_STATUS": "complete",
        "TRANSFORMERLM_RUN_DIR": str(tmp_path),
        "TRANSFORMERLM_STEPS": "9",
        "TRANSFORMERLM_BITS_PER_BYTE": "1.25",
        "TRANSFORMERLM_REASON": "x",
    }
    assert found | expected == found


def test_the_reason_is_one_line_and_unknown_bits_are_empty(tmp_path):
    values = variables(tmp_path, OUTCOME)
    assert values["TRANSFORMERLM_REASON"] == "step 7: not finite: loss nan\\nand more"
    assert values["TRANSFORMERLM_BITS_PER_BYTE"] == ""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("exit 3", "exit 3: exit status 3"),
        ("no-such-program-here", "exit status 127"),
        ("kill -9 $$", "ended by signal 9"),
    ],
)
def test_a_failure_is_said(tmp_path, command, words):
    (line,) = run(command, tmp_path)
    assert line.startswith("warning: [logging].on_end: ")
    assert line.endswith(words)


def test_one_that_takes_too_long_is_ended_with_all_that_it_has_started(tmp_path):
    file = tmp_path / "child"
    for seconds in (0.3, 3, 30):  # longer where the machine is so busy that the shell had not even begun
        (line,) = run(f"sleep 600 & echo $! > {file}; wait", tmp_path, seconds=seconds)
        assert f"not done within {seconds} s" in line
        if file.exists() and file.read_text().endswith("\n"):
            break
    child = int(file.read_text())
    deadline = time.monotonic() + 60
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(process):
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def test_what_it_prints_is_not_among_the_metrics(tmp_path, capfd):
    assert run("echo hello", tmp_path) == []
    out, err = capfd.readouterr()
    assert out == ""
    assert err in ("hello\n", "")  # pytest's stderr may have no file
