"""transformerlm-serve: a trained model behind OpenAI's interface, and a page to write with it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from transformerlm.cli.command import Command, Option, run_command
from transformerlm.cli.terminal import Terminal
from transformerlm.config import ServeConfig
from transformerlm.errors import TransformerLMError

SWITCH_SECONDS = 0.0005
"""Time after which a thread has to give Python's lock to another one that waits."""
PACKAGES = ("starlette", "uvicorn")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(COMMAND, argv)


def serve(config: ServeConfig) -> None:
    """Serve the model until Ctrl-C."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        what = f"the server needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not"
        raise TransformerLMError(f'{what} installed: pip install "transformerlm[serve]"')
    # Imported only now: torch takes seconds.
    from transformerlm.runtime import set_up_process
    from transformerlm.serve.server import serve as serve_model

    set_up_process(config.runtime)
    # For this long the event loop may wait for Python's lock after each of its system calls, while the
    # model's thread has it: with Python's own 5 ms, the pieces for 64 clients could take it 0.3 s.
    sys.setswitchinterval(SWITCH_SECONDS)
    serve_model(config, Terminal().say)


COMMAND = Command(
    ServeConfig,
    serve,
    program="transformerlm-serve",
    description=(
        "Serve a trained model on this machine: OpenAI's interface for completions at /v1, and a page to\n"
        "write with it."
    ),
    options=(
        Option("checkpoint", ("serve.checkpoint",)),
        Option("host", ("serve.host",)),
        Option("port", ("serve.port",)),
    ),
    positional=Option("RUN", ("serve.checkpoint",)),
)


if __name__ == "__main__":
    sys.exit(main())
