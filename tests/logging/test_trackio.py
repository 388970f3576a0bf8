"""trackio for real, in a folder of the test's own and without a network."""

import json
import os
import subprocess
import sys

import pytest

from transformerlm.config import TrainLoggingConfig, WandbConfig
from transformerlm.logging import TrackioLogger, make_logger, names

pytest.importorskip("trackio")


@pytest.mark.slow
def test_records_config_and_texts_are_in_trackios_database(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    with make_logger(
        TrainLoggingConfig(backend="trackio"), WandbConfig(project="mine"), tmp_path, "first"
    ) as logger:
        assert isinstance(logger, TrackioLogger)
        logger.rewind(0)
        logger.log_config({"model": {"d_model": 64}})
        for step in range(1, 6):
            logger.log({names.LOSS: 1 / step}, step)
        logger.log({names.PROMPT: "The ", names.OUTPUT: "fox ☃"}, 5)
        logger.rewind(3)  # a roll-back
        for step in range(4, 7):
            logger.log({names.LOSS: 2.0}, step)
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["trackio"]

    found = {run["name"]: run for run in stored(tmp_path / "store")}
    assert list(found) == ["first", "first from step 3"]
    losses = [(log["step"], log[names.LOSS]) for log in found["first"]["logs"] if names.LOSS in log]
    assert losses == [(step, 1 / step) for step in range(1, 6)]
    assert [log[names.OUTPUT] for log in found["first"]["logs"] if names.OUTPUT in log] == ["fox ☃"]
    assert found["first"]["config"]["model"] == {"d_model": 64}
    assert [log["step"] for log in found["first from step 3"]["logs"]] == [4, 5, 6]


def stored(folder):
    """The runs of the project "mine", read by trackio in a process of its own, whose folder that is."""
    code = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
runs = [(run.name, run.id, run.config) for run in trackio.Api().runs("mine")]
logs = [SQLiteStorage.get_logs("mine", name, run_id=id) for name, id, _ in runs]
found = zip(runs, logs, strict=True)
print(json.dumps([{"name": name, "config": config, "logs": log} for (name, _, config), log in found]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRACKIO_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)
