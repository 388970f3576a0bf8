"""The samples.jsonl of a run: texts that its model wrote, during training and at the end.

One object per line, with `step` (after which the model wrote it), `time` (seconds of the run until then, in
which stops do not count), `prompt` and `text` (the continuation alone), and then the keys of `names` that a
logger gets. The last lines are those of the run's result; no step is there twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from transformerlm.logging import names
from transformerlm.logging.base import NullLogger, Value
from transformerlm.logging.jsonl import to_line, whole_records
from transformerlm.logging.line_file import Backlog, LineFile


class Sample(NamedTuple):
    """A text in samples.jsonl."""

    step: int
    prompt: str
    text: str
    """The continuation alone."""
    time: float | None
    """Seconds of the run until `step`; None in a file of an earlier version."""


class SamplesFile(NullLogger):
    """The samples.jsonl of a run. As a logger it takes no metrics, and rewinds with the others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = LineFile(path)
        self._backlog = Backlog(path, self._file.append)

    def add(self, values: Mapping[str, Value], step: int, time: float) -> None:
        """Append a sample.

        Args:
            values: its values by their keys in `names`, with PROMPT and OUTPUT.
            step: after which the model wrote it.
            time: seconds of the run until then.
        """
        own = {"time": round(time, 3), "prompt": values[names.PROMPT], "text": values[names.OUTPUT]}
        self._backlog.add(to_line({**own, **values}, step).encode() + b"\n")

    def rewind(self, step: int) -> None:
        """Drop the samples of later steps, and an incomplete last line."""
        self._keep(lambda own: own <= step)

    def drop(self, step: int) -> None:
        """Drop the samples of this step."""
        self._keep(lambda own: own != step)

    def _keep(self, is_kept: Callable[[int], bool]) -> None:
        def kept(old: BinaryIO) -> Iterator[bytes]:
            return (line for line, record in whole_records(old) if is_kept(_sample(record).step))

        self.close()
        self._file.rewrite(kept)

    def close(self) -> None:
        """Close the file; `add` opens it again."""
        self._backlog.flush()
        self._file.close()


def read_samples(path: Path) -> list[Sample]:
    """Return the samples of a run in the order in which they were written; none if there is no file."""
    if not path.exists():
        return []
    with path.open("rb") as lines:
        return [_sample(record) for _, record in whole_records(lines)]


def _sample(record: Mapping[str, Any]) -> Sample:
    # Earlier versions wrote only the keys of `names`.
    prompt = record.get("prompt", record.get(names.PROMPT, ""))
    text = record.get("text", record.get(names.OUTPUT, ""))
    step = record.get("step")
    return Sample(step if type(step) is int else 0, str(prompt), str(text), record.get("time"))
