"""A process that trains for long holds no more memory and no more files at its end than near its start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import small_run


def held_by(process: int) -> tuple[int, int]:
    """Bytes of memory, and open files."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path(f"/proc/{process}/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux' /proc")
@pytest.mark.parametrize("kernels", ["true", "false"])
def test_memory_and_files_do_not_grow(kernels, tmp_path):
    small_run.prepare(tmp_path)
    words = ["max_steps=5200", "validate_every=250", "checkpoint_every=100", "log_every=100"]
    command = [sys.executable, "-m", "transformerlm.cli.train", "--config", "train.toml"]
    command += [f"--training.{word}" for word in words] + [f"--runtime.kernels={kernels}"]
    held = {}
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        for line in process.stdout:
            step = json.loads(line).get("step", 0)
            if step in (500, 5000) and step not in held:
                held[step] = held_by(process.pid)
        assert process.wait() == 0
    (memory, files), (memory_later, files_later) = held[500], held[5000]
    print(f"{(memory_later - memory) / 1e6:.1f} MB more, {files_later - files} files more")
    assert memory_later - memory < 20e6
    assert files_later <= files
