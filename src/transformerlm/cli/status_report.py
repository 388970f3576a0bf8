"""The state of runs as text: a block of lines for one run, a table for several, a screen that is redrawn."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence

from transformerlm.cli.standard_streams import print_text
from transformerlm.control import RunStatus
from transformerlm.errors import one_line
from transformerlm.logging.screen import cells
from transformerlm.progress import duration, readable

COLUMNS = ("run", "state", "step", "loss", "bits/byte", "tokens/s", "ends", "checkpoint")


def lines(statuses: Sequence[RunStatus], now: float) -> list[str]:
    """Return a block for one run, and a table for several."""
    return table(statuses, now) if len(statuses) > 1 else block(statuses[0], now)


def block(status: RunStatus, now: float) -> list[str]:
    """Return all that is known of a run, a topic per line."""
    found = [one_line(str(status.run_dir))]
    return found + [f"  {topic:<12}{one_line(text)}" for topic, text in _topics(status, now) if text]


def table(statuses: Sequence[RunStatus], now: float) -> list[str]:
    """Return a line per run below a line with the names of the columns."""
    rows = [COLUMNS, *(_row(status, now) for status in statuses)]
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text + " " * (width - cells(text)) for text, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def changed_lines(before: Sequence[RunStatus], statuses: Sequence[RunStatus], now: float) -> list[str]:
    """Return a line, with the time, for each run whose state or step is another than before."""
    known = {status.run_dir: (status.state, status.phase, status.step) for status in before}
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    changed = [s for s in statuses if known.get(s.run_dir) != (s.state, s.phase, s.step)]
    return [f"{clock}  {one_line(str(status.run_dir))}  {_summary(status, now)}" for status in changed]


class Screen:
    """Lines on a terminal that are replaced by the next ones, cut to the width of the window."""

    def __init__(self) -> None:
        self._num_lines = 0

    def show(self, lines: Sequence[str]) -> None:
        """Show these lines in place of those before."""
        width, height = shutil.get_terminal_size()
        # The last column stays empty: some terminals wrap a line that fills it. What does not fit into the
        # window could not be replaced.
        cut = [line[: max(1, width - 1)] for line in lines[: max(1, height - 1)]]
        back = f"\x1b[{self._num_lines}A\r\x1b[J" if self._num_lines else ""
        print_text(back + "".join(f"{line}\n" for line in cut))
        self._num_lines = len(cut)
        sys.stdout.flush()


def _topics(status: RunStatus, now: float) -> Iterator[tuple[str, str]]:
    yield "state", _state(status, now)
    yield "host", f"{status.host}, process {status.pid}" if status.pid else status.host
    yield "step", _step(status) + (f" ({status.done})" if status.done else "")
    loss = [] if status.loss is None else [f"{status.loss:.3f}"]
    if status.bits_per_byte is not None:
        of_step = "" if status.validated_step is None else f" at step {status.validated_step:,}"
        loss.append(f"validation {status.bits_per_byte:.3f} bits per byte{of_step}")
    yield "loss", ", ".join(loss)
    rate = status.tokens_per_second
    yield "rate", "" if rate is None else f"{rate:,.0f} tokens per second"
    yield "ends", _end(status, now, with_clock=True)
    yield "checkpoint", _checkpoint(status, now)
    free = "" if status.free_bytes is None else f", {readable(status.free_bytes)} free"
    yield "disk", f"{readable(status.run_bytes)} used{free}"
    gpu = "" if status.device_memory_bytes is None else f", {readable(status.device_memory_bytes)} of the GPU"
    yield "memory", "" if status.memory_bytes is None else f"{readable(status.memory_bytes)}{gpu}"


def _state(status: RunStatus, now: float) -> str:
    ago = "" if status.since is None else duration(max(0.0, now - status.since))
    reason = f": {status.reason}" if status.reason else ""
    if status.state == "preparing":
        return f"preparing, or in use by another command, for {ago}"
    if status.state == "running":
        return f"running for {ago}, {status.phase}"
    if status.state == "hanging":
        return f"hanging since {_clock(status.since, now)}, for {ago}, while {status.phase}"
    if status.state == "killed":
        return f"killed{f'; its last sign was {ago} ago, at {_clock(status.since, now)}' if ago else ''}"
    return f"{status.state}{f', {ago} ago' if ago else ''}{reason}"


def _step(status: RunStatus) -> str:
    if status.step is None:
        return ""
    is_open = status.end_step is not None and status.end_step > status.step
    about = "about " if status.done else ""  # of a time only the pace tells how many steps it has
    return f"{status.step:,}" + (f" of {about}{status.end_step:,}" if is_open and status.is_alive else "")


def _end(status: RunStatus, now: float, *, with_clock: bool = False) -> str:
    if status.ends_at is None:
        return ""
    left = f"in {duration(status.ends_at - now)}"
    return f"{left}, at {_clock(status.ends_at, now)}" if with_clock else left


def _checkpoint(status: RunStatus, now: float) -> str:
    if status.checkpoint_at is None:
        return "none"
    step = int(status.checkpoint.removeprefix("step_"))
    about = f"step {step:,}, {duration(max(0.0, now - status.checkpoint_at))} ago"
    return f"{about}, {readable(status.checkpoint_bytes or 0)}; {status.num_checkpoints} kept"


def _row(status: RunStatus, now: float) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    age = "" if status.checkpoint_at is None else duration(max(0.0, now - status.checkpoint_at)) + " ago"
    return (
        one_line(str(status.run_dir)),
        status.phase if status.state == "running" else status.state,
        _step(status).replace(" of ", "/").replace("about ", ""),
        number(status.loss, ".3f"),
        number(status.bits_per_byte, ".3f"),
        number(status.tokens_per_second if status.is_alive else None, ",.0f"),
        _end(status, now),
        age,
    )


def _summary(status: RunStatus, now: float) -> str:
    loss = "" if status.loss is None else f", loss {status.loss:.3f}"
    end = _end(status, now)
    return one_line(status.sentence) + (f"{loss}{f', ends {end}' if end else ''}" if status.is_alive else "")


def _clock(moment: float | None, now: float) -> str:
    """Return the local time, with the date if it is another day."""
    there, here = time.localtime(moment), time.localtime(now)
    is_today = there[:3] == here[:3]
    return time.strftime("%H:%M" if is_today else "%Y-%m-%d %H:%M", there)
