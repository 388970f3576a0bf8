"""transformerlm-export: from a run to the formats of other programs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from transformerlm.cli.command import Command, Option, run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.config import ExportConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def export(config: ExportConfig) -> None:
    """Load the model, write it under a temporary name, check it, and move it into place."""
    # Imported only now: torch takes seconds.
    from transformerlm.checkpoint.run_directory import RunDirectory
    from transformerlm.conversion.convert import EXACT, export_folder, export_gguf
    from transformerlm.language_model import LanguageModel
    from transformerlm.report.card_source import card_of

    terminal, section = Terminal(), config.export
    lm = LanguageModel.load(section.checkpoint, EXACT, terminal.say)
    output = output_path(config, RunDirectory.of(lm.checkpoint).path)
    if RunDirectory.of(lm.checkpoint).ngrams.is_dir():
        terminal.say("the network alone is written: the run's memory of n-grams has no place in such files")
    if section.to == "gguf":
        export_gguf(lm, output, section.dtype, terminal, release=True)
    else:
        card = functools.partial(card_of, lm, output.absolute().name, section)
        export_folder(lm, output, section.dtype, terminal, card, release=True)


def output_path(config: ExportConfig, run_dir: Path) -> Path:
    """Return [export].output; if it is None, `runs/NAME-hf` or `runs/NAME.gguf` for the run `runs/NAME`."""
    section = config.export
    if section.output is not None:
        return Path(section.output).expanduser()
    return run_dir.with_name(run_dir.name + {"hf": "-hf", "gguf": ".gguf"}[section.to])


COMMAND = Command(
    ExportConfig,
    export,
    program="transformerlm-export",
    description="Write a trained model for other programs: `--to hf FOLDER` or `--to gguf FILE`.",
    options=(
        Option("to", ("export.to", "export.output")),
        Option("checkpoint", ("export.checkpoint",)),
    ),
)


if __name__ == "__main__":
    sys.exit(main())
