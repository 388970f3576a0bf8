"""transformerlm-data inspect: what is in a text or in token files, what is there twice, what leaks."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from transformerlm.cli.command import Option, run_command
from transformerlm.cli.standard_streams import print_text
from transformerlm.cli.terminal import Terminal
from transformerlm.config import InspectConfig

DESCRIPTION = """Look at a text before training on it: files, documents, scripts, copies, near copies,
tokens, and how much of the validation text stands in the training text. CORPUS is a text as in
[data].corpus, or a token file, or a folder of token files. --json prints an object."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    if argv is None:
        sys.argv[1:] = with_keys(sys.argv[1:])
    return run_command(
        InspectConfig,
        inspect,
        description=DESCRIPTION,
        options=[Option("html", ("inspect.html",))],
        argv=None if argv is None else with_keys(argv),
        program="transformerlm-data inspect",
        positional=Option("CORPUS", ("data.corpus",)),
    )


def with_keys(argv: Sequence[str]) -> list[str]:
    """Return the command line with --json written as the key that it stands for."""
    return ["--inspect.output_format=json" if word == "--json" else word for word in argv]


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


if __name__ == "__main__":
    sys.exit(main())
