"""transformerlm-status: how far runs are, and requests to a running one."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from transformerlm.cli.command import Command, Mode, Option, run_command
from transformerlm.cli.standard_streams import print_text
from transformerlm.cli.status_report import Screen, changed_lines, lines
from transformerlm.config import StatusConfig
from transformerlm.control import Kind, RunStatus, ask, find_runs, read_status
from transformerlm.errors import ConfigError, Key, TransformerLMError
from transformerlm.logging.jsonl import to_line
from transformerlm.logging.terminal import say


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def show(config: StatusConfig) -> None:
    """Print the state of the runs once."""
    statuses = [read_status(path) for path in runs(config)]
    if config.status.output_format == "json":
        print_text("".join(f"{to_line(status.to_json())}\n" for status in statuses))
    else:
        print_text("".join(f"{line}\n" for line in lines(statuses, time.time())))


def follow(config: StatusConfig) -> None:
    """Print the state again and again, until no run is alive or Ctrl-C."""
    screen = Screen() if sys.stdout.isatty() and config.status.output_format == "text" else None
    shown: list[RunStatus] = []
    while True:
        statuses = [read_status(path) for path in runs(config)]
        if screen:
            screen.show(lines(statuses, time.time()))
        elif config.status.output_format == "json":
            print_text("".join(f"{to_line(status.to_json())}\n" for status in statuses))
        else:
            print_text("".join(f"{line}\n" for line in changed_lines(shown, statuses, time.time())))
        if not any(status.is_alive for status in statuses):
            return
        shown = statuses
        time.sleep(config.status.follow_seconds)


def asking(kind: Kind, doc: str) -> Callable[[StatusConfig], int]:
    """Return a function that asks the run for `kind`, with `doc` as its docstring, for --help."""
    function = functools.partial(request, kind=kind)
    function.__doc__ = doc
    return function


def request(config: StatusConfig, kind: Kind) -> int:
    """Ask the run and print its answer; return 0 if it has done what was asked, else 1."""
    answer = ask(run_to_ask(config), kind, config.status.answer_seconds, say)
    if config.status.output_format == "json":
        print_text(to_line({name: value for name, value in vars(answer).items() if name != "id"}) + "\n")
    else:
        print_text(answer.text + "\n")
    return 0 if answer.is_done else TransformerLMError.exit_status


def run_to_ask(config: StatusConfig) -> Path:
    """Return the run that is meant: the one of [status].run, or of several the only one that is alive.

    Raises:
        ConfigError: none is alive, or more than one.
    """
    found = runs(config)
    if len(found) == 1:  # one that is not running is refused with its state
        return found[0]
    alive = [path for path in found if read_status(path).is_alive]
    if len(alive) != 1:
        running = f"{len(alive)} are running: {', '.join(map(str, alive))}" if alive else "none is running"
        what = f"expected a run to ask, got {config.status.run} with {len(found)} runs, of which {running}"
        raise ConfigError(what, key=Key("status", "run"))
    return alive[0]


def runs(config: StatusConfig) -> list[Path]:
    """Return the runs that [status].run stands for.

    Raises:
        ConfigError: there is none.
    """
    folder = Path(config.status.run).expanduser()
    found = find_runs(folder)
    if not found:
        what = f"expected the folder of a run, or one with runs below it, got {folder}"
        where = "" if folder.is_dir() else ", which is no folder"
        raise ConfigError(f"{what}{where}", key=Key("status", "run"))
    return found


COMMAND = Command(
    StatusConfig,
    show,
    program="transformerlm-status",
    description=(
        "Show how far a run is, or all runs below runs/; --json prints objects, one a line.\n"
        "With --save, --validate, --stop or --anneal ask a running job to do that, and wait for its answer."
    ),
    options=(Option("json", ("status.output_format",), value="json"),),
    modes=(
        Mode("follow", follow),
        Mode("save", asking("save", "Ask the run to save a checkpoint now.")),
        Mode("validate", asking("validate", "Ask the run to validate now.")),
        Mode("stop", asking("stop", "Ask the run to save and end, as SIGTERM does; it can be resumed.")),
        Mode("anneal", asking("anneal", "Ask the run to let the learning rate fall from now on, and end.")),
    ),
    positional=Option("RUN", ("status.run",)),
)


if __name__ == "__main__":
    sys.exit(main())
