"""transformerlm-import: from a Hugging Face folder with a Llama, Qwen, Mistral or SmolLM to a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from transformerlm.cli.command import Command, Option, run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.config import ImportConfig
from transformerlm.errors import ConfigError, Key


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def import_model(config: ImportConfig) -> None:
    """Read the folder, write the run under a temporary name, check it, and move it into place."""
    section, terminal = config.import_model, Terminal()
    if section.source is None:
        raise ConfigError("expected a Hugging Face folder, got none", key=Key("import_model", "source"))
    source = Path(section.source).expanduser()
    run_dir = Path(section.run_dir or f"runs/{source.absolute().name}").expanduser()

    from transformerlm.conversion.convert import import_folder

    import_folder(source, run_dir, terminal)
    config_path = run_dir / "config.toml"
    terminal.say(f'text: transformerlm-infer --infer.checkpoint="{run_dir}" --prompt "The"')
    terminal.say(f'training on: transformerlm-train --config "{config_path}" --data.corpus=YOUR_TEXT')


COMMAND = Command(
    ImportConfig,
    import_model,
    program="transformerlm-import",
    description="Make a run's folder of a Hugging Face folder: `--from FOLDER RUN_DIR`.",
    options=(Option("from", ("import_model.source", "import_model.run_dir")),),
)


if __name__ == "__main__":
    sys.exit(main())
