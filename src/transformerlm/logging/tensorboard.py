"""Logger for TensorBoard. Only this module imports tensorboard, and only in a subprocess (tracker.py).

Events are written with tensorboard's own record writer: torch.utils.tensorboard writes the same files, but
would import all of PyTorch a second time.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformerlm.logging import names
from transformerlm.logging.base import Logger, Value
from transformerlm.logging.tracker import Kind, Tracker

if TYPE_CHECKING:
    from tensorboard.summary.writer.record_writer import RecordWriter

PREFIX = "events.out.tfevents."


class TensorBoardLogger(Tracker):
    """Logger that writes TensorBoard's event files: scalars, texts and the config.

    A key `metrics.loss` becomes the tag `metrics/loss`, so that TensorBoard groups what belongs together.
    Each process of a run writes a file of its own; the first event after a resume or a roll-back tells
    TensorBoard to drop the later steps of those before.

    Args:
        directory: folder of the event files.
        fallback: see `Tracker`.
    """

    def __init__(self, directory: Path, fallback: Logger | None = None) -> None:
        settings = {"directory": str(directory.absolute())}
        super().__init__(Kind("tensorboard", TensorBoardServer), settings, fallback)


class TensorBoardServer:
    """The Logger's methods, carried out with tensorboard."""

    writer: RecordWriter | None = None
    step = 0
    """Step of the newest record."""
    num_texts = 0
    """Number of texts of that step."""

    def start(self, settings: dict[str, Any]) -> dict[str, str]:
        """See `tracker.Server`."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        directory = Path(settings["directory"])
        directory.mkdir(parents=True, exist_ok=True)
        is_first = not any(directory.glob(f"{PREFIX}*"))
        # Unbuffered: a record is in the file when the call returns.
        self.writer = RecordWriter(new_file(directory).open("wb", buffering=0))
        self._write(file_version="brain.Event:2")
        if is_first:  # the first of these events marks a beginning: only later ones discard records
            self.rewind(0)
        return {"run": f"event files in {directory}"}

    def log(self, values: dict[str, Value], step: int | None) -> None:
        """See `tracker.Server`."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        step = self.step if step is None else step
        self.step, self.num_texts = step, self.num_texts if step == self.step else 0
        if names.PROMPT in values:
            self.num_texts += 1
            self._write_text(f"text/{self.num_texts}", f"{values[names.PROMPT]}{values[names.OUTPUT]}", step)
            return
        numbers = [(key, value) for key, value in values.items() if not isinstance(value, str)]
        scalars = [Summary.Value(tag=key.replace(".", "/", 1), simple_value=value) for key, value in numbers]
        self._write(summary=Summary(value=scalars), step=step)

    def log_config(self, config: dict[str, Any]) -> None:
        """See `tracker.Server`."""
        self._write_text("config", json.dumps(config, indent=2), self.step)

    def log_artifact(self, path: str, name: str, kind: str) -> None:
        """Do nothing: TensorBoard takes no files."""

    def rewind(self, step: int) -> None:
        """Write the event upon which TensorBoard drops all steps after `step`."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self.step = step
        self._write(session_log=SessionLog(status=SessionLog.START), step=step + 1)

    def close(self, exit_code: int = 0) -> None:
        """See `tracker.Server`."""
        writer, self.writer = self.writer, None
        if writer:
            writer.close()

    def _write_text(self, tag: str, text: str, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto

        # Indented by four, which is Markdown for text that is shown as it is.
        shown = "\n".join(f"    {line}" for line in text.split("\n")).encode()
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype="DT_STRING", string_val=[shown])
        value = Summary.Value(tag=tag, metadata=plugin, tensor=tensor)
        self._write(summary=Summary(value=[value]), step=step)

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        assert self.writer
        self.writer.write(Event(wall_time=time.time(), **event).SerializeToString())


def new_file(directory: Path) -> Path:
    """Return a path for another event file, whose name comes after all others.

    TensorBoard reads them in the order of their names, which begin with their seconds: two processes of one
    second, or a clock that was set back, must not change the order.
    """
    found = [path.name.removeprefix(PREFIX)[:10] for path in directory.glob(f"{PREFIX}*")]
    newest = max((int(seconds) for seconds in found if seconds.isdecimal()), default=0)
    seconds = max(int(time.time()), newest + 1)
    return directory / f"{PREFIX}{seconds:010d}.{socket.gethostname()}.{os.getpid()}.0"
