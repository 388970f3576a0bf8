"""[status]: which runs to look at, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformerlm.schema import FilePath, PositiveFloat, Section


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusSection(Section):
    """[status]: which runs to look at, and how to print them."""

    run: FilePath = "runs"
    """Folder of a run; or a folder with runs below it, which stands for all of them."""
    output_format: Literal["text", "json"] = "text"
    """"text": for people. "json": one object per run and line."""
    follow_seconds: PositiveFloat = 2.0
    """Time between two looks of --follow."""
    answer_seconds: PositiveFloat = 600.0
    """Longest time that --save, --validate, --stop and --anneal wait for the answer of the run."""
