"""nanoGPT's recipe for characters on a CPU, on any text, stopped at a given time.

Its train.py ends after a number of iterations, and its learning rate is a function of that number. So a short
run measures an iteration, and the number is what fits into the time, from the command to the end of its
process; on a busy machine this takes more than one attempt. The checkpoint with its best validation loss is
scored here, on all of the validation text.

The vocabulary is made as in its prepare.py: the characters of the whole text. So a character that only the
validation text has is an id that is never trained, and costs what the model gives it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import pickle
import re
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarking.own_text_texts import Split
from benchmarking.timing import LeftOutError, timed_command
from benchmarking.train_race import RECIPE
from transformerlm.evaluation.windows import windows

DATASET = "own_text"
MAX_RUNS = 3
"""Runs, each of a length that follows from the one before, until one takes the time that it should."""
TOLERANCE = 0.05
"""Deviation from that time, as a fraction of it, with which a run counts."""
TIMING_ITERATIONS = 100
"""Iterations of the run that measures."""
EVAL_INTERVAL = 250
"""Iterations between validations in its config; here about so many, and the last one at the end."""
WARMUP_ITERATIONS = 100
"""Iterations of warm-up in its config; here at most a tenth of all."""
ITERATION = re.compile(r"^iter (\d+): loss .*, time ([\d.]+)ms", re.MULTILINE)
"""A line that it prints after each iteration."""


@dataclass(frozen=True)
class Timing:
    """Seconds of the parts of a run."""

    fixed: float
    """From the command to the first iteration, with a validation, and from the last to the end."""
    iteration: float
    validation: float


@dataclass(frozen=True)
class Length:
    """Length of a run, in iterations."""

    iterations: int
    eval_interval: int
    """Divides `iterations`, so that the end is validated."""

    @property
    def arguments(self) -> list[str]:
        """Arguments of train.py."""
        return [
            f"--max_iters={self.iterations}",
            f"--lr_decay_iters={self.iterations}",
            f"--eval_interval={self.eval_interval}",
            f"--warmup_iters={min(WARMUP_ITERATIONS, self.iterations // 10)}",
        ]


def train_nanogpt(
    split: Split, seconds: float, checkout: Path, num_threads: str | None, work: Path
) -> dict[str, Any]:
    """Train for `seconds`, the measuring run not counted; return what is kept of it.

    Args:
        checkout: folder of nanoGPT.
        num_threads: threads of torch. None: as it chooses itself.
        work: folder in which that of the command is made.

    Raises:
        subprocess.CalledProcessError: it fails.
        LeftOutError: it has no checkpoint at its end.
    """
    variables = {"OMP_NUM_THREADS": num_threads} if num_threads else {}
    train = [sys.executable, "train.py", *RECIPE, f"--dataset={DATASET}"]
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name) / "nanogpt"
        shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns(".git", "assets"))
        vocabulary = write_data(split, folder / "data" / DATASET)
        length = Length(TIMING_ITERATIONS, EVAL_INTERVAL)
        taken, printed = timed_command([*train, *length.arguments], folder, variables)
        for _ in range(MAX_RUNS):
            length = longest(seconds, timing_of(taken, printed))
            taken, printed = timed_command([*train, *length.arguments], folder, variables)
            if abs(taken - seconds) <= TOLERANCE * seconds:
                break
        val = encode(split.val.decode(), vocabulary)
        model, block_size = load_checkpoint(folder)
        strides = {"bits_per_byte": block_size, "overlapped": block_size // 2}
        nats = {name: text_loss(model, val, block_size, stride) for name, stride in strides.items()}
    return {
        **{name: loss / math.log(2) * len(val) / len(split.val) for name, loss in nats.items()},
        "steps": length.iterations,
        "seconds": taken,
        "vocab_size": len(vocabulary),
    }


def write_data(split: Split, folder: Path) -> dict[str, int]:
    """Write train.bin, val.bin and meta.pkl as nanoGPT's prepare.py does; return the id of each character."""
    train, val = split.train.decode(), split.val.decode()
    vocabulary = {character: number for number, character in enumerate(sorted(set(train + val)))}
    folder.mkdir(parents=True)
    encode(train, vocabulary).tofile(folder / "train.bin")
    encode(val, vocabulary).tofile(folder / "val.bin")
    characters = {number: character for character, number in vocabulary.items()}
    meta = {"vocab_size": len(vocabulary), "itos": characters, "stoi": vocabulary}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return vocabulary


def encode(text: str, vocabulary: dict[str, int]) -> NDArray[np.uint16]:
    """Return the ids of a text's characters."""
    return np.array([vocabulary[character] for character in text], dtype=np.uint16)


def timing_of(seconds: float, printed: str) -> Timing:
    """Return the seconds of the parts of a run from those of its process and what it printed."""
    times = [float(found[2]) / 1000 for found in ITERATION.finditer(printed)]
    first, *others = times  # the first one has a validation before it
    iteration = statistics.median(others)
    return Timing(seconds - sum(others), iteration, max(first - iteration, 0.0))


def longest(seconds: float, timing: Timing) -> Length:
    """Return the longest run that ends within `seconds`; at least one iteration."""
    each = timing.iteration + timing.validation / EVAL_INTERVAL
    iterations = max(int((seconds - timing.fixed) / each), 1)
    num_validations = max(round(iterations / EVAL_INTERVAL), 1)
    interval = max(iterations // num_validations, 1)
    return Length(interval * num_validations, interval)


def load_checkpoint(folder: Path) -> tuple[Any, int]:
    """Return the model of a run's checkpoint, and the length of its context.

    Raises:
        LeftOutError: there is no checkpoint.
    """
    import torch

    paths = sorted(folder.glob("out*/ckpt.pt"))
    if not paths:
        raise LeftOutError("has no checkpoint at its end")
    checkpoint = torch.load(paths[0], map_location="cpu", weights_only=True)
    with contextlib.redirect_stdout(sys.stderr):  # it prints its size
        module = load_model_py(folder / "model.py")
        model = module.GPT(module.GPTConfig(**checkpoint["model_args"]))
    model.load_state_dict(checkpoint["model"])
    return model.eval(), checkpoint["model_args"]["block_size"]


def load_model_py(path: Path) -> Any:
    """Import nanoGPT's model.py under a name of its own."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses are looked up there
    spec.loader.exec_module(module)
    return module


def text_loss(
    model: Any, ids: NDArray[np.integer[Any]], block_size: int, stride: int, batch_size: int = 64
) -> float:
    """Return the mean loss of a model of nanoGPT over a text, in nats per character.

    As for our own models, the text is divided into windows of the model's context, and all its characters but
    the first count once. A window starts `stride` characters after the one before.
    """
    import torch

    total = 0.0
    # Windows of one shape follow each other: only the first and the last may differ from the others.
    found = windows(0, [ids.astype(np.uint32)], block_size, stride)
    for (_, counted), alike in itertools.groupby(found, key=lambda one: (len(one.ids), one.num_targets)):
        while batch := list(itertools.islice(alike, batch_size)):
            rows = torch.from_numpy(np.stack([window.ids for window in batch]).astype(np.int64))
            with torch.no_grad():
                logits, _ = model(rows[:, :-1], rows[:, 1:])
            logits, targets = logits[:, -counted:].flatten(0, 1), rows[:, -counted:].flatten()
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
    return total / (len(ids) - 1)
