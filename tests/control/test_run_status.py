"""The state of runs, read from folders as processes of all kinds leave them."""

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys

import pytest

from transformerlm.control import find_runs, read_status
from transformerlm.control.heartbeat import (
    ENDS,
    STATUS_BYTES,
    Heartbeat,
    read_heartbeat,
    status_path,
    write_heartbeat,
)
from transformerlm.storage.checksummed_json import dump
from transformerlm.storage.lock import LOCK_FILE, locked

NOW = 1_000_000.0
BEAT = Heartbeat(
    start_id="a",
    host="here",
    pid=7,
    started_at=NOW - 5000,
    written_at=NOW,
    phase="training",
    step=120,
    end_step=500,
    seconds_left=40.0,
)


def beat(run, age=1.0, **changes):
    """Write a heartbeat that is so old at NOW."""
    status_path(run).parent.mkdir(parents=True, exist_ok=True)
    write_heartbeat(run, dataclasses.replace(BEAT, **changes))
    os.utime(status_path(run), (NOW - age, NOW - age))


def lock_age(run, age):
    os.utime(run / LOCK_FILE, (NOW - age, NOW - age))


def test_the_trained_run_has_ended(trained):
    status = read_status(trained / "runs" / "fables")
    assert (status.state, status.step, status.checkpoint) == ("ended", 6, "step_00000006")
    assert status.reason == "the budget is used up"
    assert status.loss > 0
    assert status.validated_step == 6
    assert status.bits_per_byte > 0
    assert status.num_checkpoints == 2
    size = sum(path.stat().st_size for path in (trained / "runs").rglob("*") if path.is_file())
    assert status.run_bytes == size
    assert not status.is_alive
    assert json.loads(json.dumps(status.to_json()))["state"] == "ended"


@pytest.mark.parametrize(
    ("age", "changes", "state"),
    [
        (1, {}, "running"),
        (119, {}, "running"),
        (121, {}, "hanging"),
        (121, {"longest_pause_seconds": 20.0}, "running"),
        (201, {"longest_pause_seconds": 20.0}, "hanging"),
        (1000, {"phase": "validating"}, "running"),
        (1801, {"phase": "saving"}, "hanging"),
        (1801, {"phase": "complete"}, "ended"),
    ],
)
def test_a_lock_that_is_held_is_a_run_that_is_alive(tmp_path, age, changes, state):
    with locked(tmp_path):
        lock_age(tmp_path, 6000)
        beat(tmp_path, age, **changes)
        status = read_status(tmp_path, NOW)
    assert status.state == state
    if state == "running":
        assert status.ends_at == max(NOW, NOW - age + 40)
        assert status.since == BEAT.started_at
    if state == "hanging":
        assert status.since == NOW - age
        assert status.ends_at is None


def test_without_the_lock_it_was_killed_however_young_its_heartbeat_and_whoever_has_its_process_id(tmp_path):
    beat(tmp_path, 0.1, pid=os.getpid())
    (tmp_path / "metrics.jsonl").write_text('{"step": 125, "metrics.loss": 2.5}\n{"step": 126, "metri')
    status = read_status(tmp_path, NOW)
    assert (status.state, status.step, status.loss) == ("killed", 125, 2.5)
    assert status.start_id is None
    assert "killed after step 125" in status.sentence


@pytest.mark.parametrize("phase", ENDS)
def test_a_start_that_has_recorded_nothing_yet_is_not_the_one_before(tmp_path, phase):
    beat(tmp_path, 100, phase=phase, reason="SIGTERM")
    before = read_status(tmp_path, NOW)
    assert before.reason == "SIGTERM"
    with locked(tmp_path):
        lock_age(tmp_path, 50)
        status = read_status(tmp_path, NOW)
    assert (status.state, status.start_id, status.reason) == ("preparing", None, "")
    assert status.pid == os.getpid()
    assert read_status(tmp_path, NOW).sentence == before.sentence


def test_without_locks_the_age_of_the_heartbeat_decides(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "no locks")

    (tmp_path / LOCK_FILE).touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    for age, phase, state in (
        (1, "training", "running"),
        (121, "training", "killed"),
        (1, "failed", "failed"),
    ):
        beat(tmp_path, age, phase=phase)
        assert read_status(tmp_path, NOW).state == state


def test_a_killed_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from transformerlm.storage.lock import locked\n"
        "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    beat(tmp_path)
    lock_age(tmp_path, 10)
    assert read_status(tmp_path, NOW).state == "running"
    process.kill()
    process.wait()
    process.stdout.close()
    assert read_status(tmp_path, NOW).state == "killed"


def test_runs_of_versions_without_heartbeats(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained / "runs" / "fables", run)
    shutil.rmtree(run / "control")
    assert read_status(run).state == "ended"
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    status = read_status(run)
    assert (status.state, status.step, status.checkpoint) == ("killed", 6, "step_00000003")
    (run / "metrics.jsonl").unlink()
    assert read_status(run).state == "stopped"
    shutil.rmtree(run / "checkpoints")
    assert read_status(run).state == "empty"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"heartbeat": {}}', "[" * 99_999, "\0" * 99])
def test_a_damaged_heartbeat_is_none(tmp_path, content):
    status_path(tmp_path).parent.mkdir()
    status_path(tmp_path).write_text(content)
    assert read_heartbeat(tmp_path) is None
    assert read_status(tmp_path).state == "empty"


@pytest.mark.parametrize("values", [{}, {**vars(BEAT), "step": "six"}, {**vars(BEAT), "host": None}])
def test_a_heartbeat_of_another_form_is_none(tmp_path, values):
    status_path(tmp_path).parent.mkdir()
    status_path(tmp_path).write_bytes(dump({"format_version": 1, "heartbeat": values}))
    assert read_heartbeat(tmp_path) is None


def test_a_heartbeat_may_have_more_fields_and_a_pipe_is_none(tmp_path):
    beat(tmp_path)
    assert read_heartbeat(tmp_path) == BEAT
    values = {"format_version": 1, "heartbeat": {**vars(BEAT), "mood": "good"}, "more": 1}
    status_path(tmp_path).write_bytes(dump(values))
    assert read_heartbeat(tmp_path) == BEAT
    status_path(tmp_path).unlink()
    os.mkfifo(status_path(tmp_path))
    assert read_heartbeat(tmp_path) is None


def test_a_reader_sees_one_state_or_the_next(tmp_path):
    """A part of one and a part of the next is told by the checksum."""
    beat(tmp_path, step=1)
    old = status_path(tmp_path).read_bytes()
    beat(tmp_path, step=2, reason="\u20ac" * 5000)
    new = status_path(tmp_path).read_bytes()
    assert len(old) == len(new) == STATUS_BYTES
    assert read_heartbeat(tmp_path).reason == "\u20ac" * 400
    beat(tmp_path, step=2)
    new = status_path(tmp_path).read_bytes()
    seen = set()
    for cut in range(0, 1200, 37):
        status_path(tmp_path).write_bytes(new[:cut] + old[cut:])
        found = read_heartbeat(tmp_path)
        seen.add(found.step if found else None)
    assert seen == {1, 2, None}


def test_of_long_metrics_only_the_end_is_read(tmp_path):
    line = '{"step": %d, "metrics.loss": %s, "metrics.tokens_per_second": 10.0}\n'
    with (tmp_path / "metrics.jsonl").open("w") as file:
        file.write('{"step": 1, "metrics.val_bits_per_byte": 9.0}\n')
        file.writelines(line % (step, step / 2) for step in range(1, 20_000))
        file.write('{"step": 20000, "metrics.loss": "NaN"}\n')
    status = read_status(tmp_path)
    assert status.loss != status.loss
    assert (status.step, status.bits_per_byte, status.tokens_per_second) == (20_000, None, 10.0)


def test_runs_are_found_below_a_folder(tmp_path):
    for name in ("b/metrics.jsonl", "a/deep/checkpoints/x", "a/other/control/status.json", "c/none/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with locked(tmp_path / "begun"):
        found = find_runs(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/deep", "a/other", "b", "begun"]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]
    assert find_runs(tmp_path / "missing") == []
