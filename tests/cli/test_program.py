"""The command's name in messages, for every way to start it: real processes."""

import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
WAYS = [
    ([BIN / "transformerlm-make-data"], "transformerlm-make-data"),
    ([BIN / "transformerlm", "data"], "transformerlm data"),
    (
        [sys.executable, "-m", "transformerlm", "make-data"],
        f"{Path(sys.executable).name} -m transformerlm make-data",
    ),
    (
        [sys.executable, "-m", "transformerlm.cli.make_data"],
        f"{Path(sys.executable).name} -m transformerlm.cli.make_data",
    ),
    (
        [sys.executable, "-c", "from transformerlm.cli.make_data import main; raise SystemExit(main())"],
        "transformerlm-make-data",
    ),
]


@pytest.mark.parametrize(("words", "name"), WAYS, ids=[name for _, name in WAYS[:-1]] + ["python -c"])
def test_a_command_is_named_as_it_was_typed(words, name):
    done = subprocess.run([*words, "my.toml"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith(f"did you mean: {name} --config=my.toml\n")
