import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from transformerlm.logging import ConsoleLogger

MANY_LINES = """
import sys
from transformerlm.logging import ConsoleLogger
with ConsoleLogger() as logger:
    for step in range(20000):
        logger.log({"metrics.loss": 1 / (step + 1), "text.output": "déjà vu ☃"}, step)
print("finished", file=sys.stderr)
"""


# An unbuffered stdout has nothing left to flush at exit, which is where a closed one hurts.
BUFFERED = {**os.environ, "PYTHONUNBUFFERED": ""}


@pytest.fixture
def run_shell(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(MANY_LINES, encoding="utf-8")
    return lambda command, **environment: shell(
        command.replace("PYTHON", f"'{sys.executable}' '{script}'"), **environment
    )


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env={**BUFFERED, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_each_record_is_one_json_object_on_a_line():
    stream = io.StringIO()
    with ConsoleLogger(stream) as logger:
        logger.log({"metrics.loss": 3.25, "metrics.tokens": 12_345_678}, step=10)
        logger.log_config({"model": {"d_model": 64}})
        logger.log_artifact(Path("checkpoint"), "model", "checkpoint")
        logger.log({"text.output": "two\nlines ☃"})
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"step": 10, "metrics.loss": 3.25, "metrics.tokens": 12_345_678},
        {"text.output": "two\nlines ☃"},
    ]
    assert stream.getvalue().isascii()


def test_floats_are_short_and_close():
    stream = io.StringIO()
    ConsoleLogger(stream).log({"metrics.loss": 1 / 3, "metrics.lr": 3e-4})
    assert stream.getvalue() == '{"metrics.loss": 0.333333, "metrics.lr": 0.0003}\n'


def test_a_reader_that_goes_away_ends_neither_program_nor_exit_status(run_shell):
    result = run_shell("PYTHON | head -1")
    assert json.loads(result.stdout) == {"step": 0, "metrics.loss": 1.0, "text.output": "déjà vu ☃"}
    assert result.stderr == "finished\n"
    assert result.returncode == 0


def test_a_program_without_stdout_runs(run_shell):
    result = run_shell("PYTHON >&-")
    assert (result.returncode, result.stderr) == (0, "finished\n")


def test_a_full_disk_behind_stdout_is_one_warning(run_shell):
    result = run_shell("PYTHON > /dev/full")
    warning, finished = result.stderr.splitlines()
    assert warning.startswith("warning: metrics can no longer be printed")
    assert (result.returncode, finished) == (0, "finished")


def test_any_locale_will_do(run_shell):
    result = run_shell("PYTHON | tail -1", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert result.returncode == 0
    assert json.loads(result.stdout)["text.output"] == "déjà vu ☃"


def test_a_line_is_seen_before_the_program_ends():
    code = "import sys; from transformerlm.logging import ConsoleLogger\n"
    code += "ConsoleLogger().log({'metrics.loss': 1.0}, 1); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], env=BUFFERED, **pipes)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == {"step": 1, "metrics.loss": 1.0}
    process.communicate(b"")
    assert process.returncode == 0


def test_a_progress_bar_steps_aside(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    with tqdm(total=10, file=terminal, ncols=60) as bar:
        bar.update(3)
        ConsoleLogger().log({"metrics.loss": 1.0}, 3)
    lines = terminal.getvalue().replace("\n", "\r").split("\r")
    assert '{"step": 3, "metrics.loss": 1.0}' in lines
