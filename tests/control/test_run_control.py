"""The two sides of a request, in one process: `RunControl` of the run, `ask` of who asks."""

import dataclasses
import threading
import time

import pytest

from transformerlm.control import Outcome, RunControl, ask, read_status
from transformerlm.control.asking import NotAnsweredError
from transformerlm.control.heartbeat import CONTROL_DIR, read_heartbeat
from transformerlm.control.requests import (
    KINDS,
    Request,
    from_mask,
    read_answer,
    request_ids,
    request_path,
    to_mask,
    write_record,
)
from transformerlm.errors import NumericalError, OutputError
from transformerlm.storage.lock import locked


@pytest.fixture
def run(tmp_path):
    """A run that has begun, and whose lock is held."""
    control = RunControl(poll_seconds=0)
    with locked(tmp_path), control.attached(tmp_path):
        control.begin(lambda step: {"end_step": 2 * step}, step=3)
        yield control
        control.end(Outcome("complete", "x"))


class Asker(threading.Thread):
    def __init__(self, run_dir, kind, time_limit=60.0):
        super().__init__()
        self.arguments, self.answer, self.error = (run_dir, kind, time_limit), None, None
        self.start()

    def run(self):
        try:
            self.answer = ask(*self.arguments)
        except NotAnsweredError as error:
            self.error = str(error)


def poll(control):
    while not (asked := control.poll()):
        time.sleep(0.001)
    return from_mask(asked)


def put(run_dir, name, **values):
    start_id = read_heartbeat(run_dir).start_id
    request = Request(**{"id": name, "kind": "save", "start_id": start_id, "asked_by": "me"} | values)
    write_record(request_path(run_dir, name), request)


def test_sums_of_kinds():
    assert from_mask(sum(map(to_mask, KINDS))) == list(KINDS)
    assert from_mask(to_mask("stop")) == ["stop"]
    assert from_mask(0) == []


def test_a_request_is_seen_once_and_answered(run):
    asker = Asker(run.run_dir, "save")
    assert poll(run) == ["save"]
    assert run.poll() == 0
    assert " on " in run.askers("save")
    run.beat(7)
    run.answer("save", "done so", is_done=True)
    asker.join()
    assert (asker.answer.text, asker.answer.is_done, asker.answer.step) == ("done so", True, 7)
    assert [path.name for path in (run.run_dir / CONTROL_DIR).iterdir()] == ["status.json"]


def test_the_heartbeat_follows_the_steps(run):
    run.beat(8)
    run.beat(9, "validating")
    status = read_status(run.run_dir)
    assert (status.state, status.phase, status.step, status.end_step) == ("running", "validating", 9, 18)


def test_what_is_no_request_for_this_start_is_not_obeyed(run):
    put(run.run_dir, "old", start_id="earlier")
    put(run.run_dir, "new", kind="dance")
    put(run.run_dir, "other", id="else")
    (run.run_dir / CONTROL_DIR / "torn.request.json").write_text('{"id": "to')
    (run.run_dir / CONTROL_DIR / "folder.request.json").mkdir()
    assert run.poll() == 0
    assert "started anew" in read_answer(run.run_dir, "old").text
    assert read_answer(run.run_dir, "new").text == "this run takes save, validate, stop, anneal"
    run.answer("save", "", is_done=True)
    assert request_ids(run.run_dir) == ["folder", "other", "torn"]


def test_no_answer_in_time_withdraws_the_request(run):
    asker = Asker(run.run_dir, "validate", time_limit=0.01)
    asker.join()
    assert "no answer in time; the request is withdrawn: starting after step 3" in asker.error
    assert request_ids(run.run_dir) == []


def test_a_new_start_while_somebody_waits(run):
    asker = Asker(run.run_dir, "validate")
    poll(run)
    run.begin(lambda step: {})
    asker.join()
    assert "started anew" in asker.error


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (NumericalError("step 4: not finite"), "failed", "step 4: not finite"),
        (ZeroDivisionError("by\nzero"), "failed", "ZeroDivisionError: by"),
        (KeyboardInterrupt(), "stopped", "interrupted; steps since the newest checkpoint are lost"),
        (SystemExit(143), "stopped", "ended with exit status 143"),
    ],
)
def test_an_error_is_the_outcome_and_the_answer(tmp_path, error, status, reason):
    control = RunControl(poll_seconds=0)
    with locked(tmp_path):
        with pytest.raises(type(error)), control.attached(tmp_path):
            control.begin(lambda step: {"bits_per_byte": 1.5})
            control.beat(4)
            asker = Asker(tmp_path, "save")
            poll(control)
            raise error
        asker.join()
    assert control.outcome == Outcome(status, reason, 4, 1.5)
    found = read_status(tmp_path)
    assert (found.state, found.reason, found.step) == (status, reason, 4)
    assert asker.answer.is_done == (status == "stopped")
    assert reason in asker.answer.text


def test_a_start_that_fails_early_is_told_of_a_run_and_leaves_nothing_of_none(tmp_path):
    def fail():
        with pytest.raises(OutputError), locked(tmp_path / "run"), RunControl().attached(tmp_path / "run"):
            raise OutputError("the disk is full")

    fail()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "run"), (control := RunControl()).attached(tmp_path / "run"):
        control.begin(lambda step: {}, step=5)
        control.end(Outcome("stopped", "SIGTERM", 5))
    before = read_heartbeat(tmp_path / "run")
    fail()
    after = read_heartbeat(tmp_path / "run")
    assert (after.phase, after.reason, after.step) == ("failed", "the disk is full", 5)
    assert after.start_id != before.start_id


def test_of_a_run_that_was_complete_before_nothing_is_written(run, tmp_path):
    folder = tmp_path / "again"
    with locked(folder), (control := RunControl()).attached(folder):
        control.begin(lambda step: {})
        control.end(Outcome("complete", "x", 5))
    before = read_heartbeat(folder)
    with locked(folder), (control := RunControl()).attached(folder):
        control.end(Outcome("complete", "y", 5))
    assert read_heartbeat(folder) == before


def test_a_folder_that_was_removed_ends_nothing(run):
    for path in (run.run_dir / CONTROL_DIR).iterdir():
        path.unlink()
    (run.run_dir / CONTROL_DIR).rmdir()
    assert run.poll() == 0
    run.beat(4, "saving")
    run.answer("save", "", is_done=True)


def test_nobody_is_asked_where_nothing_runs(tmp_path):
    control = RunControl()
    assert (control.poll(), control.outcome, control.run_dir) == (0, None, None)
    control.begin(lambda step: {})
    control.beat(1)
    with pytest.raises(NotAnsweredError, match="not running"):
        ask(tmp_path, "stop", 1.0)
    with locked(tmp_path), pytest.raises(NotAnsweredError, match="not yet training"):
        ask(tmp_path, "stop", 1.0)
    assert not tmp_path.exists()  # the lock has removed an empty folder: nobody has written there


def test_heartbeats_are_not_written_at_each_step(run):
    run.beat(4)
    first = read_heartbeat(run.run_dir)
    for step in range(5, 500):
        run.beat(step)
    assert read_heartbeat(run.run_dir).step in (first.step, *range(400, 500))
    assert dataclasses.replace(first, step=0).phase == "training"
