"""The tokenizer's kernels as a library, and when they are worth loading or compiling."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import numpy as np
import regex

from transformerlm.errors import ConfigError
from transformerlm.kernels.bpe_layout import LETTER, NUMBER, OTHER, SPACE
from transformerlm.kernels.library import Arguments, Array, Kernels, Library

__all__ = ["Arguments", "Array", "are_worth", "classes", "kernels"]

CHOICE_VARIABLE = "TRANSFORMERLM_KERNELS"
"""When to use the kernels: "auto" (where they save time), "always" or "never"."""

_LOADING_SECONDS = 0.1
_COMPILING_SECONDS = 25.0


def are_worth(plain_seconds: float) -> bool:
    """Whether work that takes so long without the kernels takes less with them, getting them included.

    Raises:
        ConfigError: for an unknown choice in the environment.
    """
    choice = os.environ.get(CHOICE_VARIABLE, "auto")
    if choice not in ("auto", "always", "never"):
        raise ConfigError(f'{CHOICE_VARIABLE}: expected "auto", "always" or "never", got {choice!r}')
    if choice != "auto":
        return choice == "always"
    if LIBRARY.is_loaded:
        return True
    if plain_seconds <= _LOADING_SECONDS:
        return False
    # os.path, because a folder that may not be looked into holds nothing for us, and is no error.
    return plain_seconds > _COMPILING_SECONDS or os.path.exists(LIBRARY.cache_path())  # noqa: PTH110


def kernels() -> Kernels:
    """The kernels: loaded where they have been compiled before, else compiled now, which is said."""
    return LIBRARY.kernels()


@functools.cache
def classes() -> Array:
    """Class by code, for all codes that four bytes can spell, though the last half are no characters."""
    starts, kinds = np.array(kernels().about).T
    return np.repeat(kinds.astype(np.uint8), np.diff(starts, append=1 << 21))


def class_runs() -> list[tuple[int, int]]:
    """Where in Unicode the class of characters changes, as the `regex` package has them: (first, class)."""
    # Half a surrogate pair is in no text; NUL, which is OTHER as well, stands for it.
    surrogates = range(0xD800, 0xE000)
    every = "".join("\0" if code in surrogates else chr(code) for code in range(sys.maxunicode + 1))
    runs = [(0, OTHER)]
    for match in regex.finditer(r"(\p{L}+)|(\p{N}+)|(\s+)|([^\s\p{L}\p{N}]+)", every):
        runs.append((match.start(), (OTHER, LETTER, NUMBER, SPACE, OTHER)[match.lastindex or 0]))
    return runs


_KERNELS = Path(__file__).parents[1] / "kernels"

LIBRARY = Library(
    "tokenizer's",
    "transformerlm.kernels.bpe",
    [*(_KERNELS / name for name in ("bpe.py", "bpe_layout.py")), Path(__file__)],
    20,
    ["regex"],
    class_runs,
)
