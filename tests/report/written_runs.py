"""Folders of runs that were written and not trained: any length, and anything in them."""

import json
import math
from pathlib import Path

from transformerlm.logging import RunHistory, names
from transformerlm.logging.jsonl import to_line

TOKENS_PER_STEP = 512
FACTS = {
    "parameters": 1_234_567,
    "device": "cpu, float32, 1 thread",
    "environment": {"torch": "2.15.0", "num_ranks": 1},
    "data": {
        "train": {"documents": 3, "bytes": 1_000_000, "tokens": 400_000},
        "val": {"documents": 1, "bytes": 50_000, "tokens": 20_000},
    },
    "xz": [3.1, 2.2],
}


BITS_PER_NAT = 0.4 / math.log(2)
"""Of the texts: tokens per byte / ln 2."""


def loss_at(step: int) -> float:
    return 2 + 6 / (1 + step / 300) + 0.1 * math.sin(step * 12.9898)


def training_record(step: int, **changes) -> dict:
    loss = changes.get(names.LOSS, loss_at(step))
    values = {
        names.LOSS: loss,
        names.BITS_PER_BYTE: loss * BITS_PER_NAT,
        names.LR: 1e-3 / (1 + step / 1000),
        names.GRAD_L2_NORM: 0.5 + 0.2 * math.sin(step * 78.233),
        names.TOKENS: step * TOKENS_PER_STEP,
        names.TOKENS_PER_SECOND: 10_000 + 900 * math.sin(step),
        names.MFU: 0.3 + 0.02 * math.sin(step),
        names.SPIKES: 0,
        names.SKIPPED_STEPS: 0,
    }
    return values | changes


def write_run(folder: Path, num_records: int = 200, every: int = 10, changes=None, facts=FACTS) -> Path:
    """Write a run with `num_records` training records; `changes`: step -> metrics of its record, or None to
    leave it out."""
    folder.mkdir(parents=True)
    changes, last = changes or {}, num_records * every
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(every, last + 1, every):
            if (changed := changes.get(step, {})) is not None:
                file.write(to_line(training_record(step, **changed), step) + "\n")
            if step % (last // 8 or 1) == 0:
                loss = loss_at(step) + 0.2
                bits = loss * BITS_PER_NAT
                file.write(to_line({names.VAL_LOSS: loss, names.VAL_BITS_PER_BYTE: bits}, step) + "\n")
    RunHistory(folder).add("start", 0, **facts)
    write_samples(folder, [(last, "Once", " upon a time")])
    (folder / "config.toml").write_text('[data]\ncorpus = "texts/tales.txt"\n[optimizer]\nlr = 0.001\n')
    return folder


def write_samples(folder: Path, samples) -> None:
    lines = [json.dumps({"step": step, "prompt": prompt, "text": text}) for step, prompt, text in samples]
    (folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))


def records(folder: Path, name: str) -> dict[int, float]:
    """Return step -> value of a metric, as the file has them."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: float(record[name]) for record in found if name in record}
