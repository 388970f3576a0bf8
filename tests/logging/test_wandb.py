"""wandb for real, offline or out of reach; test_wandb_training.py has a training and each fault."""

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from transformerlm.config import LoggingConfig, WandbConfig
from transformerlm.logging import WandbLogger, tracker

SCRIPT = """
import time
from pathlib import Path
from transformerlm.config import LoggingConfig, WandbConfig
from transformerlm.logging import make_logger, tracker
from transformerlm.logging.names import LOSS, OUTPUT, VAL_LOSS

tracker.IMPORT_SECONDS, tracker.INIT_SECONDS, tracker.CALL_SECONDS, tracker.FINISH_SECONDS = LIMITS
here = Path.cwd()
logging = LoggingConfig(backend="wandb", dataset="texts", architecture="tiny")
start = time.monotonic()
with make_logger(logging, WandbConfig(project="the-project"), here / "run", "the-run") as logger:
    logger.log_config({"model": {"d_model": 64}, "optimizer": {"betas": [0.9, 0.95]}})
    for step in range(1, 6):
        logger.log({LOSS: 1 / step}, step)
    logger.log({VAL_LOSS: float("nan"), OUTPUT: "déjà vu"}, 5)
    (here / "tokenizer").mkdir()
    (here / "tokenizer" / "vocab.json").write_text("some vocabulary")
    logger.log_artifact(here / "tokenizer", "the tokenizer", "tokenizer")
    logger.log_artifact(here / "gone", "gone", "checkpoint")
    logged = time.monotonic()
closed = time.monotonic()
(here / "waited").write_text(f"{logged - start} {closed - logged}")
"""


def run_script(directory: Path, limits=(100, 100, 100, 100), **environment: str):
    """Return stdout, the lines of stderr, and the seconds that logging and closing have taken."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    home = directory / "home"
    home.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("LIMITS", str(limits))],
        cwd=directory,
        env={**kept, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=500,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr
    logging, closing = map(float, (directory / "waited").read_text().split())
    return result.stdout, result.stderr.splitlines(), logging, closing


def records(path: Path) -> list[object]:
    """wandb's own file: LevelDB's log format (blocks of 32 KiB; CRC, length, kind) after 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, found, parts, at = path.read_bytes(), [], b"", 7
    while at + 7 <= len(data):
        left_in_block = 32768 - at % 32768
        length, kind = struct.unpack_from("<HB", data, at + 4)
        if left_in_block < 7 or kind == 0:
            at += left_in_block
            continue
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


@pytest.mark.slow
def test_offline_run_holds_config_metrics_and_artifact(tmp_path):
    stdout, messages, logging, _ = run_script(tmp_path, WANDB_MODE="offline")
    assert stdout == ""
    assert [message.split(":")[0] for message in messages] == ["wandb", "warning"]
    assert "gone" in messages[1]
    assert logging < 0.5

    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    found = records(file)
    run = next(record.run for record in found if record.HasField("run"))
    assert (run.display_name, run.project) == ("the-run", "the-project")

    config = {}
    for record in found:
        if record.HasField("config") or record.HasField("run"):
            updates = record.config.update or record.run.config.update
            config.update({item.key or item.nested_key[0]: json.loads(item.value_json) for item in updates})
    assert config["model"] == {"d_model": 64}
    assert config["optimizer"] == {"betas": [0.9, 0.95]}
    assert (config["architecture"], config["dataset"]) == ("tiny", "texts")

    history: dict[int, dict[str, object]] = {}
    for record in found:
        if record.HasField("history"):
            items = {
                ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            history[items["_step"]] = {key: value for key, value in items.items() if not key.startswith("_")}
    assert [history[step]["metrics.loss"] for step in range(1, 6)] == [1 / step for step in range(1, 6)]
    assert history[5]["text.output"] == "déjà vu"

    artifacts = [record.request.log_artifact.artifact for record in found if record.HasField("request")]
    artifacts += [record.artifact for record in found if record.HasField("artifact")]
    (artifact,) = [artifact for artifact in artifacts if artifact.name]
    assert (artifact.name, artifact.type) == ("the-tokenizer", "tokenizer")
    assert [entry.path for entry in artifact.manifest.contents] == ["vocab.json"]


RECORDS = [
    *({"step": step, "metrics.loss": pytest.approx(1 / step, rel=1e-5)} for step in range(1, 6)),
    {"step": 5, "metrics.val_loss": "NaN", "text.output": "déjà vu"},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WANDB_MODE": "online"}, "not logged in; run `wandb login`"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}, "Error: "),
    ],
    ids=["not logged in", "unreachable"],
)
def test_where_the_real_wandb_fails_the_console_gets_everything(tmp_path, environment, expected):
    stdout, messages, logging, _ = run_script(tmp_path, (100, 2, 100, 100), **environment)
    (message,) = messages
    assert message.startswith("warning: wandb: ")
    assert expected in message
    assert message.endswith("; metrics go to the console instead")
    assert [json.loads(line) for line in stdout.splitlines()] == RECORDS
    assert logging < 0.5


@pytest.mark.slow
def test_a_server_that_never_answers_is_left_behind(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and says nothing
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "a" * 40}
        stdout, messages, logging, closing = run_script(tmp_path, (100, 2, 2, 15), **environment)
    (message,) = messages
    assert message.startswith("warning: wandb: ")
    assert [json.loads(line) for line in stdout.splitlines()] == RECORDS
    assert logging < 0.5
    assert closing < 15


def test_a_wandb_that_lags_behind_is_given_up(fake_wandb, tmp_path, monkeypatch, capfd):
    monkeypatch.syspath_prepend(fake_wandb("logging hangs"))
    monkeypatch.setattr(tracker, "MAX_BACKLOG", 20)
    with WandbLogger(WandbConfig(), LoggingConfig(), tmp_path, "x") as logger:
        for step in range(50):
            logger.log({"metrics.loss": 1.0}, step)
    out, err = capfd.readouterr()
    *_, warning = err.splitlines()
    assert warning.startswith("warning: wandb: 20 records behind; ")
    assert {json.loads(line)["step"] for line in out.splitlines()} >= set(range(5, 50))


def test_artifacts_can_be_declined(tmp_path):
    class Deaf(WandbLogger):
        def _serve(self) -> None:
            pass

    logger = Deaf(WandbConfig(log_artifacts=False), LoggingConfig(), tmp_path, "x")
    logger.log_artifact(tmp_path, "x", "checkpoint")
    assert logger._calls.empty()
