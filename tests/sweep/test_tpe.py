"""optuna: proposals that can be repeated, and its own dashboard on the results."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.sweep.test_methods import SPACE, config_of, planted, searched, what_it_did
from transformerlm.sweep.job import Job
from transformerlm.sweep.tpe import mirror

optuna = pytest.importorskip("optuna")
CONFIG = config_of(SPACE, method="tpe", max_trials=14)


@pytest.fixture
def sweep(tmp_path):
    return searched(tmp_path, CONFIG, shuffle=0)


def write(sweep) -> Path:
    jobs = [job for job in sweep.begun() if job.is_search]
    mirror(sweep.paths.optuna, "a sweep", sweep.config.axes, jobs, sweep.journal)
    return sweep.paths.optuna


def study_in(path: Path):
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.load_study(storage=optuna.storages.JournalStorage(backend), study_name="a sweep")


def test_with_one_worker_kills_change_no_proposal(tmp_path, sweep):
    expected = what_it_did(sweep)
    assert len(expected) == 14
    for shuffle in range(1, 4):
        assert what_it_did(searched(tmp_path, CONFIG, shuffle)) == expected


def test_with_several_workers_every_proposal_is_made_once(tmp_path):
    jobs = searched(tmp_path, CONFIG, shuffle=5, workers=3).begun()
    assert [job.trial for job in jobs] == list(range(14))


def test_optunas_journal_has_each_trial_once_and_none_that_is_running(sweep):
    for _ in range(2):
        trials = study_in(write(sweep)).trials
        assert sorted(trial.user_attrs["job"] for trial in trials) == sorted(sweep.journal.results)
        assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    best = study_in(sweep.paths.optuna).best_trial
    assert best.user_attrs["job"] == sweep.ranked()[0].name
    assert best.value == planted(sweep.ranked()[0]).value


@pytest.mark.parametrize("damage", [b'{"op_code": 4', b'{"op_code"\n', b"\xff\n"])
def test_a_journal_of_optuna_that_was_cut_is_written_anew(sweep, damage):
    with write(sweep).open("ab") as file:
        file.write(damage)
    assert len(study_in(write(sweep)).trials) == 14


def test_a_lock_that_a_killed_process_has_left_is_waited_for_and_then_removed(sweep):
    lock = Path(f"{sweep.paths.optuna}.lock")
    lock.touch()
    write(sweep)
    assert not lock.exists()
    assert len(study_in(sweep.paths.optuna).trials) == 14


@pytest.mark.slow
def test_optunas_own_dashboard_opens_the_study(sweep):
    pytest.importorskip("optuna_dashboard")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = Path(sys.executable).with_name("optuna-dashboard")
    words = [command, str(write(sweep)), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as dashboard:
        try:
            (study,) = ask(port, "api/studies")["study_summaries"]
            assert study["study_name"] == "a sweep"
            trials = ask(port, f"api/studies/{study['study_id']}")["trials"]
        finally:
            dashboard.terminate()
    values = [trial["values"] for trial in trials if trial["state"] == "Complete"]
    expected = [planted(job).value for job in sweep.begun()]
    assert [value for (value,) in values] == [value for value in expected if value is not None]


def ask(port: int, path: str):
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_value_that_is_a_list_or_none_comes_back_as_it_was(tmp_path):
    space = {
        "optimizer.betas": [[0.9, 0.99], [0.8, 0.9]],
        "model.num_kv_heads": ["None", 2],
        "model.qk_norm": [True],
    }
    config = config_of({**SPACE, **space}, method="tpe", max_trials=12)
    jobs = searched(tmp_path, config, shuffle=0).begun()
    assert {json.dumps(job.values["optimizer.betas"]) for job in jobs} == {"[0.9, 0.99]", "[0.8, 0.9]"}
    assert {job.values["model.num_kv_heads"] for job in jobs} == {None, 2}
    assert all(isinstance(job, Job) and job.values["model.qk_norm"] is True for job in jobs)
