"""transformerlm-status on the folders of runs; tests/control/test_jobs.py asks running ones."""

import dataclasses
import json
import os
import re
import shutil
import time

import pytest

from transformerlm.cli import status
from transformerlm.cli.status_report import Screen, changed_lines, lines
from transformerlm.control import RunControl, read_status
from transformerlm.logging.screen import cells
from transformerlm.storage.lock import locked


def run(capfd, *argv):
    result = status.main(argv)
    out, err = capfd.readouterr()
    return result, out, err


@pytest.fixture
def place(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def test_a_run_in_full(place, capfd):
    result, out, err = run(capfd, "runs/fables")
    assert (result, err) == (0, "")
    first, *rows = out.splitlines()
    found = {row[:14].strip(): row[14:] for row in rows}
    assert first == "runs/fables"
    assert found["state"].startswith("ended, ")
    assert found["state"].endswith(" ago: the budget is used up")
    assert found["step"] == "6"
    assert "bits per byte at step 6" in found["loss"]
    assert found["checkpoint"].startswith("step 6, ")
    assert found.keys() == {"state", "host", "step", "loss", "rate", "checkpoint", "disk"}
    assert run(capfd)[1].splitlines()[0] == "runs/fables"  # all below runs/, of which there is one


def test_json(place, capfd):
    result, out, err = run(capfd, "--json", "runs")
    assert (result, err) == (0, "")
    record = json.loads(out)
    assert (record["run_dir"], record["state"], record["step"]) == ("runs/fables", "ended", 6)


def test_several_runs_are_a_table(place, tmp_path, capfd):
    for name in ("a", "longer name"):
        shutil.copytree(place / "runs" / "fables" / "control", tmp_path / name / "control")
    result, out, _ = run(capfd, str(tmp_path))
    assert result == 0
    head, *rows = out.splitlines()
    assert head.split() == ["run", "state", "step", "loss", "bits/byte", "tokens/s", "ends", "checkpoint"]
    assert [row[head.index("state") :].split() for row in rows] == [["ended", "6", rows[0].split()[-1]]] * 2
    result, out, _ = run(capfd, str(tmp_path), "--json")
    assert [json.loads(line)["step"] for line in out.splitlines()] == [6, 6]


@pytest.mark.parametrize(
    ("argv", "result", "words"),
    [
        (["none"], 2, "command line: [status].run: expected the folder of a run"),
        (["fables"], 2, "or one with runs below it, got fables"),
        (
            ["runs/fables", "--save"],
            1,
            "runs/fables: not running, so there is nobody to ask: ended after step 6",
        ),
        (["--stop", "--save"], 2, "expected it without --stop"),
        (["--foo"], 2, '--foo: unknown argument; did you mean "--follow"?'),
    ],
)
def test_what_cannot_be_done_is_one_line(place, capfd, argv, result, words):
    status_, out, err = run(capfd, *argv)
    assert (status_, out, err.count("\n")) == (result, "", 1)
    assert words in err


def begun(folder, step=4):
    """A control of a run that is alive as long as its folder is locked."""
    control = RunControl(poll_seconds=0)
    control.run_dir = folder
    control.begin(lambda step: {"seconds_left": 3700.0, "end_step": 2 * step, "done": "1s of 2h done"}, step)
    return control


def test_the_only_run_that_is_alive_is_asked(tmp_path, capfd):
    with locked(tmp_path / "a"):
        begun(tmp_path / "a")
        begun(tmp_path / "b")
        words = [str(tmp_path), "--save", "--status.answer_seconds=0.01"]
        result, out, err = run(capfd, *words)
        assert (result, out) == (1, "")
        asked, answered = err.splitlines()
        assert asked == f"{tmp_path}/a: asked to save; starting after step 4"
        assert "no answer in time; the request is withdrawn" in answered
        with locked(tmp_path / "b"):
            result, _, err = run(capfd, *words)
    assert result == 2
    assert f"2 are running: {tmp_path}/a, {tmp_path}/b" in err
    result, _, err = run(capfd, *words)
    assert (result, "of which none is running" in err) == (2, True)


def test_a_run_that_is_alive(tmp_path):
    with locked(tmp_path):
        begun(tmp_path).beat(5)
        found = read_status(tmp_path)
    rows = {row[:14].strip(): row[14:] for row in lines([found], time.time())[1:]}
    assert rows["state"].startswith("running for ")
    assert rows["state"].endswith("s, training")
    assert rows["host"].endswith(f", process {os.getpid()}")
    assert rows["step"] == "5 of about 10 (1s of 2h done)"
    assert rows["ends"].startswith("in 1h0")
    assert re.fullmatch(r"[0-9.]+ [MG]B", rows["memory"])
    hanging = dataclasses.replace(found, state="hanging", since=time.time() - 600)
    assert "hanging since" in lines([hanging], time.time())[1]
    assert "for 10m00s, while training" in lines([hanging], time.time())[1]


def test_following_a_pipe_prints_what_changes(place, capfd):
    assert run(capfd, "--follow", "--json")[1].count("\n") == 1  # it has ended, and so does this
    before = read_status(place / "runs" / "fables")
    now = time.time()
    (line,) = changed_lines([], [before], now)
    assert line.endswith("/runs/fables  ended after step 6: the budget is used up")
    assert changed_lines([before], [before], now) == []
    assert len(changed_lines([dataclasses.replace(before, step=5)], [before], now)) == 1


def test_a_screen_replaces_its_lines_and_cuts_them_to_the_window(monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("LINES", "4")
    screen = Screen()
    screen.show(["a" * 20, "b"])
    screen.show(list("cdefgh"))
    screen.show(["i"])
    out, _ = capfd.readouterr()
    assert out == "aaaaaaaaa\nb\n\x1b[2A\r\x1b[Jc\nd\ne\n\x1b[3A\r\x1b[Ji\n"


def test_names_cannot_move_the_cursor(tmp_path):
    folder = tmp_path / "\x1b[2Jrun"
    with locked(folder):
        begun(folder)
        assert not any("\x1b" in line for line in lines([read_status(folder)] * 2, time.time()))
        assert not any("\x1b" in line for line in lines([read_status(folder)], time.time()))


def test_columns_of_wide_names_are_aligned(place, tmp_path, capfd):
    for name in ("ascii", "漢字の実行"):
        shutil.copytree(place / "runs" / "fables" / "control", tmp_path / name / "control")
    _, out, _ = run(capfd, str(tmp_path))
    assert len({cells(line.partition("ended")[0]) for line in out.splitlines()[1:]}) == 1
