"""transformerlm-sweep: from a config and a search space to the best config."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformerlm.cli.arguments import CONFIG
from transformerlm.cli.command import Command, Mode, Option, run_command
from transformerlm.cli.sweep_report import printer
from transformerlm.cli.terminal import Terminal
from transformerlm.config import SweepConfig
from transformerlm.config.automatic import with_automatic

if TYPE_CHECKING:
    from transformerlm.sweep.result import SweepResult


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def search(config: SweepConfig) -> int:
    """Run the sweep, or go on with it."""
    # Imported only now: numpy takes a moment.
    from transformerlm.sweep.run import sweep

    terminal, show = Terminal(), printer(config)
    result = sweep(config, terminal, show.trial)
    if result.stop_signal:
        terminal.say(f"stopped: {result.sweep.paths.sweep_dir}; the same command goes on")
        return result.exit_status
    _report(result, terminal)
    show.result(result)
    return result.exit_status


def plan(config: SweepConfig) -> None:
    """Estimate how long the sweep takes, or what is left of it, and do nothing else."""
    from transformerlm.sweep.plan import plan_lines

    for line in plan_lines(config, Terminal()):
        print(line)


def _report(result: SweepResult, terminal: Terminal) -> None:
    from transformerlm.sweep.table import lines

    for line in lines(result):
        terminal.say(line)
    paths = result.sweep.paths
    terminal.say(f"{paths.report}: written; open it in a browser")
    if result.best is None:
        terminal.say(f"no trial is complete: {paths.sweep_dir}/trials/*.log say why")
    else:
        terminal.say(f"done: {paths.best}; train with it: transformerlm-train --config {paths.best}")


COMMAND = Command(
    SweepConfig,
    search,
    program="transformerlm-sweep",
    description=(
        "Search over keys of a training's config: FILE.toml is one of transformerlm-train with [sweep] and\n"
        "[sweep.space]. Each trial is a run of its own. The same command goes on after a stop or a kill."
    ),
    modes=(Mode("plan", plan),),
    automatic=with_automatic,
    positional=Option("FILE.toml", (CONFIG,)),
)


if __name__ == "__main__":
    sys.exit(main())
