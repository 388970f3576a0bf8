"""Environment variables that choose the kernels and their folder; a command checks them before it begins."""

from __future__ import annotations

import os
from pathlib import Path

from transformerlm.errors import ConfigError
from transformerlm.kernels.target import check_cpu_choice, cpu_choice

CHOICE_VARIABLE = "TRANSFORMERLM_KERNELS"
"""Environment variable for the use of the tokenizer's kernels: "auto" (where they save time), "always" or
"never"."""
CACHE_VARIABLE = "TRANSFORMERLM_CACHE_DIR"
"""Environment variable: folder of the machine code and of what was measured. Default: `transformerlm` in the
user's cache folder."""


def tokenizer_choice() -> str:
    """Return the value of `TRANSFORMERLM_KERNELS`.

    Raises:
        ConfigError: an unknown value.
    """
    choice = os.environ.get(CHOICE_VARIABLE) or "auto"
    if choice not in ("auto", "always", "never"):
        raise ConfigError(f'{CHOICE_VARIABLE}: expected "auto", "always" or "never", got {choice!r}')
    return choice


def check_environment() -> None:
    """Refuse unknown values.

    Raises:
        ConfigError: for the first of them.
    """
    tokenizer_choice()
    check_cpu_choice(cpu_choice())


def cache_dir() -> Path:
    """Return the folder of the machine code and of what was measured."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    except RuntimeError:  # a user without a home, as in containers: there is no cache
        base = os.devnull
    return Path(base) / "transformerlm"
