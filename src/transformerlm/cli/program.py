"""The name of the running command, as the user typed it."""

from __future__ import annotations

import sys
from pathlib import Path


def program_name(own: str, is_process: bool) -> str:
    """Return how the user started the command: `transformerlm-train`, `python -m transformerlm.cli.train`.

    Args:
        own: the command's own name, for a call from Python and for `python -c`; "": unknown.
        is_process: True if the command is what this process was started for.
    """
    typed = sys.argv[0] if sys.argv else ""
    if own and (not is_process or typed in ("", "-c")):
        return own
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is None or typed != getattr(main, "__file__", None):
        return Path(typed).name
    return f"{Path(sys.orig_argv[0]).name} -m {spec.name.removesuffix('.__main__')}"
