"""Contestants of bench_own_text that are not nanoGPT: trainings of this package, and compressors.

Each returns what is kept of it, as values of JSON; all give "bits_per_byte" of the validation text.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarking.own_text_texts import Split, Text, split_of_run
from benchmarking.timing import timed_command
from transformerlm import __version__
from transformerlm.config import TrainConfig
from transformerlm.logging import names
from transformerlm.schema import from_toml

PPMD_ORDERS = (5, 6, 8, 10, 16, 24)
PPMD_BYTES = 2**30
"""Memory of PPMd; a text that needs more makes it start over."""
EXPECTATION = "expectation.json"
"""File in a run's folder: the bits per byte that it expected before it trained."""


def train(text: Text, time: str, overrides: Sequence[str], splits: Path, work: Path) -> dict[str, Any]:
    """Train in a process of its own, in an empty folder of its own, as a user does who has just these words.

    Args:
        time: [training].max_time.
        overrides: further words of the command.
        splits: folder in which the split of the text is kept.
        work: folder in which that of the command is made.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    command = [sys.executable, "-m", "transformerlm.cli.train", f"--data.corpus={text.path}"]
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        seconds, _ = timed_command([*command, f"--training.max_time={time}", *overrides], folder)
        run_dir = next(folder.rglob("metrics.jsonl")).parent
        config = from_toml(TrainConfig, run_dir / "config.toml")
        split = split_of_run(config, run_dir, folder)
        split.save(splits)
        return {
            "seconds": seconds,
            "split": split.key,
            "val_bytes": len(split.val),
            "version": __version__,
            **shape(config),
            **progress(run_dir, split_tokens(config, folder)),
            **expectation(run_dir),
            "overlapped": overlapped(run_dir, folder, "--runtime.ngram_memory=false"),
            **({"with_memory": overlapped(run_dir, folder)} if config.training.ngram_memory else {}),
        }


def overlapped(run_dir: Path, folder: Path, *options: str) -> float:
    """Return the bits per byte that transformerlm-eval finds: windows overlap by half.

    Each token has half a context before it at least, as when the model writes. In training windows do not
    overlap, for that takes half the time; their first tokens have next to no context.
    """
    command = [sys.executable, "-m", "transformerlm.cli.eval", f"--eval.checkpoint={run_dir}", *options]
    _, printed = timed_command(command, folder)
    return float(json.loads(printed.splitlines()[-1])[names.EVAL_BITS_PER_BYTE])


def shape(config: TrainConfig) -> dict[str, Any]:
    """Return the model of a resolved config."""
    from transformerlm.nn import num_parameters

    model = config.model
    return {
        "vocab_size": model.vocabulary_rows,
        "d_model": model.d_model,
        "num_layers": model.num_layers,
        "context_length": model.context_length,
        "batch_size": config.training.batch_size,
        "num_parameters": num_parameters(model),
    }


def split_tokens(config: TrainConfig, folder: Path) -> int:
    """Return the number of tokens of the training text."""
    from transformerlm.data import TokenFile, fill_placeholders

    token_dir = folder / fill_placeholders(config.data.token_dir, config.data)
    return TokenFile.open(token_dir / "train.memmap").num_tokens


def progress(run_dir: Path, train_tokens: int) -> dict[str, Any]:
    """Return the steps of a run, its passes over the text, and its best and last validation."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    validations = [record for record in records if names.VAL_BITS_PER_BYTE in record]
    tokens = max(record.get(names.TOKENS, 0) for record in records)
    best = min(validations, key=lambda record: float(record[names.VAL_BITS_PER_BYTE]))
    return {
        "steps": records[-1]["step"],
        "passes": tokens / train_tokens,
        "bits_per_byte": best[names.VAL_BITS_PER_BYTE],
        "best_step": best["step"],
        "last_bits_per_byte": validations[-1][names.VAL_BITS_PER_BYTE],
    }


def expectation(run_dir: Path) -> dict[str, float]:
    """Return what the run expected, and the interval of it; nothing if it did not say."""
    try:
        said = json.loads((run_dir / EXPECTATION).read_text())
    except FileNotFoundError:
        return {}
    return {"expected": said["bits_per_byte"], "low": said["low"], "high": said["high"]}


def ppmd(split: Split) -> dict[str, Any]:
    """Compress with PPMd, variant H, by the best order: train and validation text, minus train text alone."""
    import pyppmd

    def num_bytes(content: bytes, order: int) -> int:
        return len(pyppmd.compress(content, max_order=order, mem_size=PPMD_BYTES, variant="H"))

    added = {
        order: num_bytes(split.train + split.val, order) - num_bytes(split.train, order)
        for order in PPMD_ORDERS
    }
    best = min(added, key=lambda order: added[order])
    return {"bits_per_byte": 8 * added[best] / len(split.val), "order": best}


def xz(split: Split) -> dict[str, Any]:
    """Compress with xz -9e: train and validation text, minus train text alone."""
    from transformerlm.evaluation.xz import xz_bits_per_byte

    return {"bits_per_byte": xz_bits_per_byte(split.val, after=split.train)}
