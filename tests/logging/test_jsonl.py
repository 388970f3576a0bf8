import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.logging import MetricsFile
from transformerlm.logging.jsonl import to_line


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@given(st.floats())
def test_every_float_survives(value):
    read = json.loads(to_line({"x": value}), parse_constant=pytest.fail)["x"]
    assert float(read) == value or math.isnan(value)
    assert isinstance(read, float) == math.isfinite(value)


@given(st.text(), st.integers(0, 10**12))
def test_every_text_survives_on_one_ascii_line(text, step):
    line = to_line({"text.output": text}, step)
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line) == {"step": step, "text.output": text}


def test_a_record_is_in_the_file_when_log_returns(tmp_path):
    metrics = MetricsFile(tmp_path / "run" / "metrics.jsonl")
    metrics.log({"metrics.loss": 0.1 + 0.2}, step=1)
    assert json.loads(metrics.path.read_text()) == {"step": 1, "metrics.loss": 0.1 + 0.2}
    metrics.close()


def test_a_resumed_run_has_every_step_once_and_in_order(tmp_path):
    path = tmp_path / "metrics.jsonl"
    straight = MetricsFile(tmp_path / "straight.jsonl")
    for step in range(1, 31):
        straight.log({"metrics.loss": 1 / step}, step)
    metrics = MetricsFile(path)
    for first, last, checkpoint in [(1, 12, 10), (11, 14, 10), (11, 25, 20), (21, 30, 30)]:
        for step in range(first, last + 1):
            metrics.log({"metrics.loss": 1 / step}, step)
        metrics.truncate_after(checkpoint)
    assert path.read_bytes() == straight.path.read_bytes()


@pytest.mark.parametrize("torn", [b'{"step": 3, "metri', b'{"step": 3}', b'"\xe2', b"\x00" * 40, b"3\n"])
def test_a_torn_line_is_dropped(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1, "metrics.loss": 2.0}\n{"step": 2, "metrics.loss": 1.0}\n'
    path.write_bytes(whole + torn)
    metrics = MetricsFile(path)
    metrics.truncate_after(5)
    assert path.read_bytes() == whole
    metrics.log({"metrics.loss": 0.5}, 3)
    assert steps_of(path) == [1, 2, 3]


def test_a_record_without_a_step_goes_with_the_one_before(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        metrics.log({"metrics.loss": 1.0}, step)
        metrics.log({"text.output": f"after {step}"})
    metrics.truncate_after(1)
    assert [json.loads(line) for line in metrics.path.read_text().splitlines()] == [
        {"step": 1, "metrics.loss": 1.0},
        {"text.output": "after 1"},
    ]


def test_truncating_what_is_not_there_makes_nothing(tmp_path):
    MetricsFile(tmp_path / "metrics.jsonl").truncate_after(3)
    assert list(tmp_path.iterdir()) == []


def test_nothing_logged_is_lost_to_sigkill(tmp_path):
    path, told = tmp_path / "metrics.jsonl", tmp_path / "told"
    code = f"""
from pathlib import Path
from transformerlm.logging import MetricsFile
metrics, told = MetricsFile(Path({str(path)!r})), open({str(told)!r}, "ab", buffering=0)
for step in range(10**9):
    metrics.log({{"metrics.loss": 1.0}}, step)
    told.write(b".")
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while not told.exists() or told.stat().st_size < 1000:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    MetricsFile(path).truncate_after(10**9)
    steps = steps_of(path)
    assert steps == list(range(len(steps)))
    assert len(steps) - told.stat().st_size in (0, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on file size")
def test_a_full_disk_costs_neither_records_nor_the_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    code = f"""
import resource, signal, sys
from pathlib import Path
from transformerlm.logging import MetricsFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
metrics = MetricsFile(Path({str(path)!r}))
for step in range(100):
    metrics.log({{"metrics.loss": 1.0}}, step)
print(sum(1 for line in open({str(path)!r})))
resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, resource.RLIM_INFINITY))
metrics.log({{"metrics.loss": 1.0}}, 100)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stderr.count("warning") == 1
    assert 0 < int(result.stdout) < 100  # whole lines, as many as there was room for
    assert steps_of(path) == list(range(101))
