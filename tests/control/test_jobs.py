"""Running jobs that are asked to save, validate, stop and anneal: real processes, two ranks, kills."""

import itertools

import pytest

from tests.faults.programs import run

MAX_STEPS = 40  # that of tests.faults.small_run, which imports much


@pytest.mark.slow
@pytest.mark.distributed
def test_a_running_job_does_what_it_is_asked_and_says_so():
    found = run("tests.control.jobs")  # one program for all: its start takes longer than a run
    check_saved(found["saved"], found["straight"])
    check_steered(found["steered"])
    check_killed(found["killed"], found["straight"])
    check_killed_with_an_asker(found["killed_with_an_asker"])
    check_last_step(found["last_step"], found["straight"])
    check_two_ranks(found["two_ranks"])


def told(answers: list[dict]) -> list[tuple]:
    return [(answer["kind"], answer["is_done"], answer["step"]) for answer in answers]


def check_saved(saved: dict, straight: dict) -> None:
    """Who is asked to save, by a command and by two at once, comes to the same bits as who is not."""
    assert told(saved["answers"]) == [("save", True, 5), ("save", True, 8), ("save", True, 8)]
    first = saved["answers"][0]
    assert first["text"] == "saved after step 5: checkpoints/step_00000005"
    assert (first["status"], first["stderr"].count("\n")) == (0, 1)
    assert saved["running"]["state"] == "running"
    assert 5 <= saved["running"]["step"] < 8
    assert saved["running"]["end_step"] == MAX_STEPS
    assert saved["running"]["checkpoint"] in ("step_00000005", "step_00000006", "step_00000007")
    assert (saved["ended"]["state"], saved["ended"]["step"]) == ("ended", MAX_STEPS)
    assert saved["left"] == straight["left"]
    assert saved["control"] == ["status.json"]
    # The command at its end has failed; the run has not.
    assert saved["status"] == straight["status"] == 0
    assert saved["said"][-1] == "warning: [logging].on_end: exit 3: exit status 3"


def check_steered(found: dict) -> None:
    assert told(found["answers"]) == [("validate", True, 9), ("stop", True, 12), ("anneal", True, 20)]
    assert found["statuses"] == [143, -9, 0]
    assert 9 in found["validated"]
    # Who has asked it to stop finds the folder free.
    assert found["was_free"] == found["stopped"]["state"] == "stopped"
    assert (found["stopped"]["step"], found["stopped"]["checkpoint"]) == (12, "step_00000012")
    # Killed after the answer, it still ends early, and with its lowest learning rate.
    assert (found["ended"]["state"], found["ended"]["step"]) == ("ended", 25)
    rates = found["rates"]
    assert len(rates) == 25
    falls = [before - after for before, after in itertools.pairwise(rates[19:])]
    assert falls == pytest.approx([falls[0]] * 5)
    assert rates[-1] == pytest.approx(rates[1] / 10)  # [schedule].final_lr_fraction
    variables = dict(line.split("=", 1) for line in found["ends"].splitlines()[-6:])
    assert variables["TRANSFORMERLM_STATUS"] == "complete"
    assert variables["TRANSFORMERLM_STEPS"] == "25"
    assert float(variables["TRANSFORMERLM_BITS_PER_BYTE"]) > 0
    assert variables["TRANSFORMERLM_RUN_DIR"].endswith("/steered/run")
    assert "TRANSFORMERLM_STATUS=stopped" in found["ends"]
    assert found["said"].count("to stderr") == 2  # a killed run has no end


def check_killed(found: dict, straight: dict) -> None:
    """A request from before a restart is neither obeyed nor kept."""
    assert found["statuses"] == [-9, 0]
    assert (found["dead"]["state"], found["dead"]["checkpoint"]) == ("killed", "step_00000003")
    assert found["left_by_the_dead"] == ["aa.request.json", "status.json"]
    assert found["after_the_restart"] == ["status.json"]
    # One that was meant for the start before, and comes when the next one runs.
    assert not found["late"]["is_done"]
    assert "started anew" in found["late"]["text"]
    assert found["left"] == straight["left"]


def check_killed_with_an_asker(found: dict) -> None:
    (answer,) = found["answers"]
    assert not answer["is_done"]
    assert "ended before it has answered: killed" in answer["text"]
    assert found["control"] == ["status.json"]  # the request was withdrawn


def check_last_step(found: dict, straight: dict) -> None:
    """After its last step a run validates and saves in any case, and has no learning rate left to lower."""
    assert told(found["answers"]) == [("validate", True, MAX_STEPS), ("anneal", False, MAX_STEPS)]
    assert "has ended meanwhile: complete" in found["answers"][1]["text"]
    assert found["status"] == 0
    assert found["left"] == straight["left"]


def check_two_ranks(found: dict) -> None:
    """Both ranks act at the same step: they would wait for each other for ever otherwise."""
    expected = [("validate", True, 5), ("save", True, 5), ("stop", True, 7), ("anneal", True, 20)]
    assert told(found["answers"]) == expected
    assert found["statuses"] == [[143, 143], [0, 0]]
    assert (found["ended"]["state"], found["ended"]["step"]) == ("ended", 25)
    assert found["checkpoints"][-1] == "step_00000025"
    assert len(found["rates"]) == 25
