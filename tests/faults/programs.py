"""Starts the programs beside this file in processes of their own: they fork, which pytest's may not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run(*words: str) -> Any:
    """Return the JSON that `python -m words...` prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    return json.loads(done.stdout)
