"""transformerlm-data inspect: what is in a text or in token files, what is there twice, what leaks."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from transformerlm.cli.command import Command, Option, run_command
from transformerlm.cli.standard_streams import print_text
from transformerlm.cli.terminal import Terminal
from transformerlm.config import InspectConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def inspect(config: InspectConfig) -> None:
    """Inspect, and print or write what was found."""
    # Imported only now: numpy takes a moment.
    from transformerlm.cli.inspect_report import lines
    from transformerlm.data.inspection.run import inspect

    section, terminal = config.inspect, Terminal()
    found = inspect(config, terminal)
    if section.output_format == "json":
        print_text(json.dumps(dataclasses.asdict(found)) + "\n")
    if section.html is not None:
        from transformerlm.report.inspection import write_inspection

        path = Path(section.html).expanduser()
        size = write_inspection(found, path)
        terminal.say(f"{path}: written ({size / 1000:,.0f} kB); open it in a browser")
    elif section.output_format == "text":
        print_text("".join(f"{line}\n" for line in lines(found, section.max_examples)))


COMMAND = Command(
    InspectConfig,
    inspect,
    program="transformerlm-data inspect",
    description=(
        "Look at a text before training on it: files, documents, scripts, copies, near copies,\n"
        "tokens, and how much of the validation text stands in the training text. CORPUS is a text as in\n"
        "[data].corpus, or a token file, or a folder of token files. --json prints an object."
    ),
    options=(
        Option("html", ("inspect.html",)),
        Option("json", ("inspect.output_format",), value="json"),
    ),
    positional=Option("CORPUS", ("data.corpus",)),
)


if __name__ == "__main__":
    sys.exit(main())
