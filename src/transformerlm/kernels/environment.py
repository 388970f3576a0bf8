"""Environment variables that choose the kernels; a command checks them before it begins."""

from __future__ import annotations

import os

from transformerlm.errors import ConfigError
from transformerlm.kernels.target import check_cpu_choice, cpu_choice

CHOICE_VARIABLE = "TRANSFORMERLM_KERNELS"
"""Environment variable for the use of the tokenizer's kernels: "auto" (where they save time), "always" or
"never"."""


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
