"""A small text, a small config, and one run that was trained with them, for all tests of the commands."""

import contextlib
import os
from pathlib import Path

import pytest

from transformerlm.cli import train

CONFIG = """
[data]
corpus = "fables"

[tokenizer]
vocab_size = 320

[model]
context_length = 32
d_model = 32
num_layers = 1
num_heads = 2
d_ff = 32

[optimizer]
lr = 1e-2

[schedule]
warmup_steps = 2

[training]
max_steps = 6
batch_size = 4
validate_every = 3
checkpoint_every = 3
log_every = 1

[generation]
prompts = ["The ", "A fox"]
max_new_tokens = 8

[runtime]
device = "cpu"
dtype = "float32"
"""

ANIMALS = ["fox", "crow", "lion", "mouse", "tortoise", "hare", "wolf", "lamb", "ant", "dove"]


def write_fables(folder: Path) -> None:
    folder.mkdir()
    for first in ANIMALS:
        for second in ANIMALS:
            text = (
                f"A {first} met a {second} by the river. “Good day”, said the {second} to the {first}.\n" * 3
            )
            (folder / f"{first}-{second}.txt").write_text(text, encoding="utf-8")


@contextlib.contextmanager
def working_in(folder: Path):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to work in, with a corpus `fables` and a `config.toml`."""
    write_fables(tmp_path / "fables")
    (tmp_path / "config.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A workplace in which `config.toml` has been trained, for tests that only read it."""
    folder = tmp_path_factory.mktemp("trained")
    write_fables(folder / "fables")
    (folder / "config.toml").write_text(CONFIG)
    with working_in(folder):
        assert train.main(["--config", "config.toml"]) == 0
    return folder
