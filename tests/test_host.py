"""A program that uses this package: nothing of it is changed, and none of its settings changes a result."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.host_program import ENTRY_POINTS, HOST_SETTINGS, TRAINING, prepare, process_state
from transformerlm.runtime import runtime

ALL = ENTRY_POINTS | TRAINING


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("host"))


@pytest.mark.parametrize("name", ALL)
def test_an_entry_point_leaves_the_process_as_it_was(folder, name, monkeypatch):
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: pytest.fail("the allocator was changed"))
    before = process_state()
    ALL[name](folder)
    after = process_state()
    assert [key for key in before if before[key] != after[key]] == []


@pytest.fixture(scope="module")
def digests(folder):
    """Digest of each entry point's result by host setting, from one process, since raw memory is at stake."""
    command = [sys.executable, "-m", "tests.host_program", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-2000:]
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for line in done.stdout.splitlines():
        setting, name, value = json.loads(line)
        found[setting][name] = value
    return found


@pytest.mark.slow
@pytest.mark.parametrize("setting", HOST_SETTINGS)
def test_results_have_the_same_bits_under_every_setting_of_the_host(digests, setting):
    plain, found = digests["plain"], digests[setting]
    assert found.keys() == (ENTRY_POINTS if setting == "inference mode" else ALL).keys()
    assert {name: value for name, value in found.items() if value != plain[name]} == {}
    assert all(len(value) == 64 for value in found.values()), found  # digests, no errors
