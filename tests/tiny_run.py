"""A small corpus, a small config and a run trained with them; fixtures in conftest.py share one such run."""

import contextlib
import dataclasses
from pathlib import Path

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
num_threads = 1
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


def write_workplace(folder: Path) -> None:
    """Write a corpus `fables` and a `config.toml` to train on it."""
    write_fables(folder / "fables")
    (folder / "config.toml").write_text(CONFIG)


def train_in(folder: Path) -> None:
    """Train `config.toml`, in this process; the run is `runs/fables`."""
    from transformerlm.cli import train

    with contextlib.chdir(folder):
        assert train.main(["--config", "config.toml"]) == 0


def shorten_measurements(patch) -> None:
    """Let what is measured to choose a config for a text and a time take little time itself.

    Args:
        patch: pytest's MonkeyPatch.
    """
    from transformerlm.recipe import pilot, speed

    sizes = {"context_length": 32, "d_model": 32, "num_layers": 1, "num_heads": 1, "d_ff": 64}
    patch.setattr(pilot, "SHAPE", dataclasses.replace(pilot.SHAPE, **sizes))
    patch.setattr(speed, "WIDTHS", (64,))
    patch.setattr(speed, "TOKENS", {**speed.TOKENS, "cpu": 256})
