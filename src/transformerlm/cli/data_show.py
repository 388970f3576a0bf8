"""transformerlm-data show: some tokens of a token file, told apart."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from transformerlm.cli.command import Command, Option, run_command
from transformerlm.cli.standard_streams import print_text
from transformerlm.config import ShowConfig
from transformerlm.errors import ConfigError, Key


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def show(config: ShowConfig) -> None:
    """Print the tokens.

    Raises:
        ConfigError: the position is behind the end.
    """
    # Imported only now: numpy takes a moment.
    from transformerlm.cli.inspect_report import apart
    from transformerlm.data.inspection.token_view import open_view

    section = config.show
    view = open_view(Path(section.file).expanduser(), Path(config.tokenizer.tokenizer_dir).expanduser())
    if section.at >= view.file.num_tokens:
        what = f"expected a position below the {view.file.num_tokens:,} tokens of {view.file.path}"
        raise ConfigError(f"{what}, got {section.at}", key=Key("show", "at"))
    stop = min(section.at + section.num_tokens, view.file.num_tokens)
    tokens = view.texts(section.at, stop)
    document, start = view.document_at(section.at)
    if section.output_format == "json":
        own = [{"position": section.at + n, "id": one, "text": text} for n, (one, text) in enumerate(tokens)]
        values = {"file": str(view.file.path), "document": document + 1, "begins_at": start, "tokens": own}
        print_text(json.dumps(values) + "\n")
        return
    where = f"tokens {section.at:,} to {stop - 1:,} of {view.file.num_tokens:,}"
    print_text(f"{view.file.path}: {where}; document {document + 1:,}, which begins at {start:,}\n")
    print_text(f"{apart(tokens)}\n")


COMMAND = Command(
    ShowConfig,
    show,
    program="transformerlm-data show",
    description="Show tokens of a token file, told apart, from a position on; --json prints an object.",
    options=(Option("at", ("show.at",)), Option("json", ("show.output_format",), value="json")),
    positional=Option("TOKENFILE", ("show.file",)),
)


if __name__ == "__main__":
    sys.exit(main())
