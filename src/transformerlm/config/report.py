"""[report]: the page of one or several runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from transformerlm.errors import Key, Problem
from transformerlm.schema import FilePath, NonNegativeInt, Section

MAX_PORT = 65535


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSection(Section):
    """[report]: which runs to show, and where."""

    runs: tuple[FilePath, ...] = ("runs/python-stdlib",)
    """Folders of runs. One: its page. Several: one page on which their curves lie over each other."""
    output: FilePath | None = None
    """The HTML file to write. None: report.html in the folder of the run, if it is one."""
    png_dir: FilePath | None = None
    """Folder for the curves as PNG files, for papers, in place of the page (needs transformerlm[report])."""
    port: NonNegativeInt = 8321
    """Port on this machine at which --serve shows the page. 0: one that is free."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield no run at all, and several runs without a place for their page."""
        if not self.runs:
            yield Problem(Key("runs"), "expected the folder of at least one run, got none")
        if self.port > MAX_PORT:
            yield Problem(Key("port"), f"expected at most {MAX_PORT}, got {self.port}")
        if len(self.runs) > 1 and self.output is None and self.png_dir is None:
            what = f"expected a file for the page of {len(self.runs)} runs, got None"
            yield Problem(Key("output"), f"{what}; take --report.output=report.html")
