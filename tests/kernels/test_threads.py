"""That threads of the commands, which wait for each other, sleep soon."""

import os
import subprocess
import sys

import pytest

from transformerlm.kernels.threads import SPINS

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
COMMAND = """
from transformerlm.cli.command import run_command
from transformerlm.config import InferConfig

def use_torch(config):
    import torch

run_command(InferConfig, use_torch, description="", argv=[])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's OpenMP is another one")
@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, f"GOMP_SPINCOUNT = '{SPINS}'"),
        ({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"),
        ({"OMP_WAIT_POLICY": "passive"}, "GOMP_SPINCOUNT = '0'"),
    ],
)
def test_openmp_itself_says_how_it_waits(chosen, expected):
    environment = ENVIRONMENT | chosen | {"OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True)
    assert expected in done.stderr
