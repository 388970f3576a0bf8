"""transformerlm-report: from the folders of runs to one HTML page, or to curves for papers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from transformerlm.cli.command import Command, Mode, Option, run_command
from transformerlm.config import ReportConfig
from transformerlm.logging import say


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def report(config: ReportConfig) -> None:
    """Write the page, or the pictures, and say where."""
    # Imported only now: numpy takes a moment.
    from transformerlm.report.page import write_report
    from transformerlm.report.run import read_run

    section = config.report
    runs = [Path(path).expanduser() for path in section.runs]
    if section.png_dir is not None:
        from transformerlm.report.png import write_pictures

        for path in write_pictures([read_run(run) for run in runs], Path(section.png_dir).expanduser()):
            say(f"{path}: written")
    if section.png_dir is None or section.output is not None:
        output = runs[0] / "report.html" if section.output is None else Path(section.output).expanduser()
        size = write_report(runs, output)
        say(f"{output}: written ({size / 1000:,.0f} kB); open it in a browser")


def serve(config: ReportConfig) -> None:
    """Show the page of one run in a browser while it trains, at [report].port of this machine."""
    from transformerlm.report.serve import serve_run

    serve_run(Path(config.report.runs[0]).expanduser(), config.report.port, say)


COMMAND = Command(
    ReportConfig,
    report,
    program="transformerlm-report",
    description=(
        "A page about one or several runs, in one file that needs no network; with --png DIR its curves as\n"
        "pictures; with --serve the page of a run that is going on."
    ),
    options=(Option("png", ("report.png_dir",)),),
    modes=(Mode("serve", serve),),
    positional=Option("RUN", ("report.runs",), repeated=True),
)


if __name__ == "__main__":
    sys.exit(main())
