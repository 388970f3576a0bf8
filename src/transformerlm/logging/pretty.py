"""The console logger for people: an aligned line per record, no wider than the window.

    step    500  loss 3.8967   2.056 bits/byte    73,426 tokens/s   1m05s left
    validation   loss 3.9124   2.064 bits/byte  perplexity 50.02

The window is asked for its width at each record. In a wide one more numbers follow, in a narrow one labels
are shorter and then left out. Texts are set apart below a line that says which they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TextIO

from transformerlm.logging import names
from transformerlm.logging.base import Value
from transformerlm.logging.console import ConsoleLogger
from transformerlm.logging.screen import BOLD, DIM, can_style, cells, printable, width, wrap
from transformerlm.progress import duration

INDENT = "  "


class PrettyConsole(ConsoleLogger):
    """Logger that writes records as lines for people to `stream` (None: stdout)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._style = styled if can_style(self._stream) else plain

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Print a record."""
        columns = width(self._stream) - 1  # a line that fills the last column may wrap
        lines = "\n".join(record_lines(values, step, columns, self._encoding, self._style))
        self.print(lines + "\n")


Style = Callable[[str, str], str]
"""Function from a text and one of the styles of `screen` to the text in that style."""


def plain(text: str, style: str) -> str:
    """Return the text."""
    return text


def styled(text: str, style: str) -> str:
    """Return the text between the terminal's sequences for a style."""
    return f"\x1b[{style}m{text}\x1b[0m"


def record_lines(
    values: Mapping[str, Value], step: int | None, columns: int, encoding: str = "utf-8", style: Style = plain
) -> Iterable[str]:
    """Return a record as lines of at most `columns` columns."""
    if names.PROMPT in values:
        return _sample_lines(values, step, columns, encoding, style)
    if names.LOSS in values:
        return [fitted(values, step, columns)]
    if names.VAL_LOSS in values:
        corpora = _corpus_lines(values, columns, encoding)
        return [style(line, BOLD) for line in (fitted(values, step, columns), *corpora)]
    numbers = [f"{key.rpartition('.')[2]} {_number(value)}" for key, value in values.items()]
    first = [] if step is None else [f"step {step:>6}"]
    return [style(line, DIM) for line in wrap(printable("  ".join([*first, *numbers]), encoding), columns)]


def _corpus_lines(values: Mapping[str, Value], columns: int, encoding: str) -> Iterable[str]:
    """Yield the bits per byte on single corpora of a mixture."""
    prefix = names.of_corpus(names.VAL_BITS_PER_BYTE, "")
    found = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
    parts = [printable(f"{name} {value:.3f}", encoding) for name, value in found.items()]
    for line in wrap("  ".join(parts), max(1, columns - len(INDENT))) if parts else ():
        yield f"{INDENT}{line}".rstrip()


def _sample_lines(
    values: Mapping[str, Value], step: int | None, columns: int, encoding: str, style: Style
) -> Iterable[str]:
    prompt, text = (printable(str(values[key]), encoding) for key in (names.PROMPT, names.OUTPUT))
    where = "" if step is None else f" at step {step}"
    begun = prompt.replace("\n", "\\n")
    heading = f"sample{where}" + (f', begun with "{begun}"' if prompt else "")
    yield style(next(wrap(heading, columns)), BOLD)
    for line in wrap((prompt + text).rstrip("\n"), max(1, columns - len(INDENT))):
        yield f"{INDENT}{line}".rstrip()


class Field(NamedTuple):
    """One number of a line."""

    key: str
    format: Callable[[Any], str]
    """Always of the same width, unless the number is very large."""


class Layout(NamedTuple):
    """A way to write a line."""

    columns: int
    """Width of the window that it needs."""
    separator: str
    step: str
    """Format of the step."""
    validation: str
    """Text in its place in the line of a validation."""
    fields: tuple[Field, ...]
    """In the order in which they are left out, the last one first."""


def _rate(value: float) -> str:
    """Return a number of at most five characters: `73.4k`."""
    units = ["", "k", "M", "G"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{units[0]}"


def _left(value: float) -> str:
    return duration(value) if math.isfinite(value) else "?"


WIDE = Layout(
    columns=76,
    separator="  ",
    step="step {:>6}",
    validation="validation ",
    fields=(
        Field(names.LOSS, "loss {:>6.4f}".format),
        Field(names.BITS_PER_BYTE, "{:>6.3f} bits/byte".format),
        Field(names.TOKENS_PER_SECOND, "{:>9,.0f} tokens/s".format),
        Field(names.SECONDS_REMAINING, lambda value: f"{_left(value):>7} left"),
        Field(names.LR, "lr {:.2e}".format),
        Field(names.GRAD_L2_NORM, "gradient {:>6.3f}".format),
        Field(names.MFU, "utilisation {:>4.0%}".format),
        Field(names.VAL_PERPLEXITY, "perplexity {:.4g}".format),
    ),
)
MEDIUM = Layout(
    columns=52,
    separator="  ",
    step="{:>6}",
    validation=" valid",
    fields=(
        Field(names.LOSS, "loss {:>6.4f}".format),
        Field(names.BITS_PER_BYTE, "{:>6.3f} bits/B".format),
        Field(names.TOKENS_PER_SECOND, lambda value: f"{_rate(value):>5}/s"),
        Field(names.SECONDS_REMAINING, lambda value: f"{_left(value):>7}"),
    ),
)
NARROW = Layout(
    columns=0,
    separator=" ",
    step="{:>5}",
    validation="valid",
    fields=(
        Field(names.LOSS, "{:>6.4f}".format),
        Field(names.BITS_PER_BYTE, "{:>5.3f} b/B".format),
        Field(names.TOKENS_PER_SECOND, lambda value: f"{_rate(value):>5}/s"),
        Field(names.SECONDS_REMAINING, lambda value: f"{_left(value):>6}"),
    ),
)
LAYOUTS = WIDE, MEDIUM, NARROW
VALIDATED = {names.VAL_LOSS: names.LOSS, names.VAL_BITS_PER_BYTE: names.BITS_PER_BYTE}
"""Numbers of a validation, and those of training that they stand below."""


def fitted(values: Mapping[str, Value], step: int | None, columns: int) -> str:
    """Return the line of a step or a validation; what does not fit is left out."""
    layout = next(one for one in LAYOUTS if one.columns <= columns)
    first = layout.validation if names.VAL_LOSS in values else layout.step.format(step or 0)
    shown = {VALIDATED.get(key, key): value for key, value in values.items()}
    parts = [first, *(field.format(shown[field.key]) for field in layout.fields if field.key in shown)]
    while len(parts) > 1 and cells(layout.separator.join(parts)) > columns:
        parts.pop()
    return layout.separator.join(parts)


def _number(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
