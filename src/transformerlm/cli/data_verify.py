"""transformerlm-data verify: token files against their checksums."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformerlm.cli.command import Command, Option, run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.config import VerifyConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def verify(config: VerifyConfig) -> None:
    """Verify the files, and say so."""
    # Imported only now: numpy takes a moment.
    from transformerlm.data.verify import token_files_of, verify_files

    verify_files(token_files_of(config.verify.paths), Terminal())


COMMAND = Command(
    VerifyConfig,
    verify,
    program="transformerlm-data verify",
    description="Read token files and compare every byte with the checksums that were written with them.",
    positional=Option("PATH", ("verify.paths",), repeated=True),
)


if __name__ == "__main__":
    sys.exit(main())
