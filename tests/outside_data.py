"""Data outside the repository for the tests that need it; docs/promises.md describes it."""

import os
from pathlib import Path

import pytest

VARIABLE = "TRANSFORMERLM_TEST_DATA"


def outside_data(*names: str) -> Path:
    """Return the folder that TRANSFORMERLM_TEST_DATA names; skip the test if it lacks one of the files."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"needs {', '.join(names)}: {VARIABLE} is not set")
    for name in names:
        if not (Path(folder) / name).is_file():
            pytest.skip(f"needs {name}, which {VARIABLE} ({folder}) does not hold")
    return Path(folder).absolute()
