"""Event files, read back by TensorBoard's own reader after resumes, roll-backs and kills."""

import math
import os
import signal
import subprocess
import sys
import time

from tests.logging.event_files import scalars, texts
from transformerlm.logging import TensorBoardLogger, names
from transformerlm.logging.tensorboard import PREFIX, TensorBoardServer, new_file


def started(folder, step=0) -> TensorBoardServer:
    server = TensorBoardServer()
    server.start({"directory": str(folder)})
    server.rewind(step)
    return server


def log(server, steps, value=1.0):
    for step in steps:
        server.log({names.LOSS: value}, step)


def test_resumes_and_roll_backs_leave_every_step_once_and_in_order(tmp_path):
    for first, last, checkpoint in [(1, 12, 10), (11, 14, 10), (11, 25, 20)]:
        server = started(tmp_path, first - 1)
        log(server, range(first, last + 1), value=checkpoint)
        server.close()
    server = started(tmp_path, 20)
    log(server, range(21, 28), value=99)
    server.rewind(24)  # a roll-back within a process
    log(server, range(25, 31), value=30)
    server.close()
    expected = [(step, 10) for step in range(1, 11)] + [(step, 20) for step in range(11, 21)]
    expected += [(step, 99) for step in range(21, 25)] + [(step, 30) for step in range(25, 31)]
    assert scalars(tmp_path) == expected


def test_a_logger_that_is_not_told_of_its_beginning_can_go_back(tmp_path):
    server = TensorBoardServer()
    server.start({"directory": str(tmp_path)})
    log(server, range(1, 6))
    server.rewind(3)
    log(server, [4], value=2.0)
    server.close()
    assert scalars(tmp_path) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]


def test_what_is_logged_is_there_before_the_run_ends(tmp_path):
    server = started(tmp_path)
    server.log(
        {names.LOSS: 0.5, names.TOKENS: 1024, names.GRAD_L2_NORM: math.nan, "norms.weight.a.b": 2.0}, 7
    )
    server.log({names.VAL_LOSS: 0.25}, 7)
    assert scalars(tmp_path) == [(7, 0.5)]
    assert scalars(tmp_path, "metrics/tokens") == [(7, 1024)]
    assert scalars(tmp_path, "norms/weight.a.b") == [(7, 2.0)]
    assert scalars(tmp_path, "metrics/val_loss") == [(7, 0.25)]
    assert math.isnan(scalars(tmp_path, "metrics/grad_l2_norm")[0][1])
    server.close()


def test_samples_and_the_config_are_texts(tmp_path):
    server = started(tmp_path)
    server.log_config({"model": {"d_model": 64}})
    for step in (5, 10):
        for prompt in ("The ", "A "):
            server.log({names.PROMPT: prompt, names.OUTPUT: f"fox\n☃ {step}", names.TEMPERATURE: 0.8}, step)
    server.close()
    assert texts(tmp_path, "text/1") == [(5, "    The fox\n    ☃ 5"), (10, "    The fox\n    ☃ 10")]
    assert texts(tmp_path, "text/2") == [(5, "    A fox\n    ☃ 5"), (10, "    A fox\n    ☃ 10")]
    ((_, config),) = texts(tmp_path, "config")
    assert '"d_model": 64' in config


def test_a_file_comes_after_all_others_whatever_the_clock_says(tmp_path):
    first = new_file(tmp_path)
    first.touch()
    (tmp_path / f"{PREFIX}{int(time.time()) + 5000}.another-machine.1.0").touch()
    (tmp_path / f"{PREFIX}somebody-else").touch()
    second = new_file(tmp_path)
    second.touch()
    assert new_file(tmp_path).name > second.name > first.name


SCRIPT = """
import time
from pathlib import Path
from transformerlm.logging import TensorBoardLogger

logger = TensorBoardLogger(Path("events"))
logger.rewind(0)
for step in range(1, 10**9):
    logger.log({"metrics.loss": 1.0}, step)
    while logger._calls.qsize() > 5:
        time.sleep(0.001)
    print(step, flush=True)
"""


def test_a_killed_run_goes_on_without_zigzag(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    while int(process.stdout.readline()) < 50:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with TensorBoardLogger(tmp_path / "events") as logger:
        logger.rewind(40)
        for step in range(41, 61):
            logger.log({names.LOSS: 2.0}, step)
    expected = [(step, 1.0) for step in range(1, 41)] + [(step, 2.0) for step in range(41, 61)]
    assert scalars(tmp_path / "events") == expected


def test_a_folder_that_cannot_be_made_is_one_warning_and_the_console_gets_all(tmp_path, capfd):
    (tmp_path / "tensorboard").write_text("")
    with TensorBoardLogger(tmp_path / "tensorboard") as logger:
        for step in range(3):
            logger.log({names.LOSS: 1.0}, step)
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 3
    (warning,) = err.splitlines()
    assert warning.startswith("warning: tensorboard: FileExistsError")
    assert warning.endswith("; metrics go to the console instead")
