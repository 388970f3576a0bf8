"""wandb for real in its offline mode, and each way in which it can fail, in a process of its own."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
from pathlib import Path
{prelude}
from transformerlm.config import LoggingConfig, WandbConfig
from transformerlm.logging import make_logger, wandb as ours
from transformerlm.logging.names import LOSS, OUTPUT, VAL_LOSS

ours.INIT_SECONDS, ours.FINISH_SECONDS = 2, 2
here = Path.cwd()
logging = LoggingConfig(backend="wandb", dataset="texts", architecture="tiny")
start = time.monotonic()
with make_logger(logging, WandbConfig(project="the-project"), here / "run", "the-run") as logger:
    logger.log_config({{"model": {{"d_model": 64}}, "optimizer": {{"betas": [0.9, 0.95]}}}})
    for step in range(1, 6):
        logger.log({{LOSS: 1 / step}}, step)
    logger.log({{VAL_LOSS: float("nan"), OUTPUT: "déjà vu"}}, 5)
    (here / "tokenizer").mkdir()
    (here / "tokenizer" / "vocab.json").write_text("some vocabulary")
    logger.log_artifact(here / "tokenizer", "the tokenizer", "tokenizer")
    logger.log_artifact(here / "gone", "gone", "checkpoint")
    waited = time.monotonic() - start
(here / "waited").write_text(str(waited))
"""


def run_script(directory: Path, prelude: str = "", **environment: str):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    home = directory / "home"
    home.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(prelude=prelude)],
        cwd=directory,
        env={**kept, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr.splitlines(), float((directory / "waited").read_text())


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


def test_offline_run_holds_config_metrics_and_artifact(tmp_path):
    stdout, messages, _ = run_script(tmp_path, WANDB_MODE="offline")
    assert stdout == ""
    assert [message.split(":")[0] for message in messages] == ["wandb", "warning"]
    assert "gone" in messages[1]

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


FAILURES = {
    "missing": ("sys.modules['wandb'] = None", {}, "ImportError|ModuleNotFoundError"),
    "init raises": (
        "import wandb\ndef boom(**_): raise wandb.errors.CommError('no such server')\nwandb.init = boom",
        {"WANDB_MODE": "offline"},
        "CommError: no such server",
    ),
    "not logged in": ("", {"WANDB_MODE": "online"}, "not logged in; run `wandb login`"),
    "unreachable": (
        "",
        {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40},
        "CommError|Error",
    ),
    "log raises": (
        "import wandb\ndef boom(*_, **__): raise RuntimeError('gone')\nwandb.Run.log = boom",
        {"WANDB_MODE": "offline"},
        "RuntimeError: gone",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_where_wandb_fails_training_goes_on_and_the_console_gets_everything(tmp_path, case):
    prelude, environment, expected = FAILURES[case]
    stdout, messages, _ = run_script(tmp_path, prelude, **environment)
    (warning,) = [message for message in messages if message.startswith("warning")]
    assert any(part in warning for part in expected.split("|"))
    assert [json.loads(line) for line in stdout.splitlines()] == [
        *({"step": step, "metrics.loss": pytest.approx(1 / step, rel=1e-5)} for step in range(1, 6)),
        {"step": 5, "metrics.val_loss": "NaN", "text.output": "déjà vu"},
    ]


def test_a_wandb_that_hangs_is_left_behind(tmp_path):
    prelude = "import wandb\nwandb.init = lambda **_: time.sleep(1000)"
    stdout, messages, waited = run_script(tmp_path, prelude, WANDB_MODE="offline")
    assert stdout == ""
    assert len(messages) == 1
    assert messages[0].startswith("warning: wandb did not finish")
    assert waited < 2, "logging waited for wandb"


def test_artifacts_can_be_declined(tmp_path):
    from transformerlm.config import LoggingConfig, WandbConfig
    from transformerlm.logging import WandbLogger

    class Deaf(WandbLogger):
        def _serve(self) -> None:
            pass

    logger = Deaf(WandbConfig(log_artifacts=False), LoggingConfig(), tmp_path, "x")
    logger.log_artifact(tmp_path, "x", "checkpoint")
    assert logger._calls.empty()
