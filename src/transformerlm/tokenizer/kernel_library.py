"""Library of the tokenizer's kernels, and the decision when to load or compile it."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import numpy as np
import regex

from transformerlm.kernels.bpe_layout import LETTER, NUMBER, OTHER, SPACE
from transformerlm.kernels.environment import CHOICE_VARIABLE, tokenizer_choice
from transformerlm.kernels.library import Arguments, Array, Kernels, Library

__all__ = ["CHOICE_VARIABLE", "Arguments", "Array", "classes", "kernels", "should_use"]

_LOADING_SECONDS = 0.1
_COMPILING_SECONDS = 25.0


def should_use(python_seconds: float) -> bool:
    """Return True if kernels save time, loading or compiling them included.

    Args:
        python_seconds: estimated duration of the work in plain Python.

    Raises:
        ConfigError: an unknown value of `TRANSFORMERLM_KERNELS`.
    """
    choice = tokenizer_choice()
    if choice != "auto":
        return choice == "always"
    if LIBRARY.is_loaded:
        return True
    if python_seconds <= _LOADING_SECONDS:
        return False
    # os.path.exists returns False for a folder without permission, where Path.exists may raise.
    return python_seconds > _COMPILING_SECONDS or os.path.exists(LIBRARY.cache_path())  # noqa: PTH110


def kernels() -> Kernels:
    """Return the kernels, loaded from the cache or compiled now (with a line on standard error)."""
    return LIBRARY.kernels()


@functools.cache
def classes() -> Array:
    """Return the character class of each code that four bytes of UTF-8 can spell; u8 `[1 << 21]`."""
    starts, kinds = np.array(kernels().metadata).T
    return np.repeat(kinds.astype(np.uint8), np.diff(starts, append=1 << 21))


def class_runs() -> list[tuple[int, int]]:
    """Return the runs of code points of one class, according to the `regex` package: (first, class)."""
    # Surrogates do not occur in text; NUL, which is OTHER too, takes their place.
    surrogates = range(0xD800, 0xE000)
    every = "".join("\0" if code in surrogates else chr(code) for code in range(sys.maxunicode + 1))
    runs = [(0, OTHER)]
    for match in regex.finditer(r"(\p{L}+)|(\p{N}+)|(\s+)|([^\s\p{L}\p{N}]+)", every):
        runs.append((match.start(), (OTHER, LETTER, NUMBER, SPACE, OTHER)[match.lastindex or 0]))
    return runs


LIBRARY = Library(
    "tokenizer's",
    "transformerlm.kernels.bpe",
    [Path(__file__)],  # class_runs
    20,
    ["regex"],
    class_runs,
)
