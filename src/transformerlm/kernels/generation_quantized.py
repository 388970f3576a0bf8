"""`generation.decode` for weights in eight and four bits: a library of its own, compiled where it is used.

Importing this file imports numba, which is needed only to compile: see library.py.
"""

from __future__ import annotations

from collections.abc import Callable

from transformerlm.kernels.generation import OPTIONS, decode, parameters

__all__ = ["ENTRIES", "OPTIONS", "parameters"]

ENTRIES: dict[str, Callable[..., int]] = {f"decode_{storage}": decode for storage in ("int8", "int4")}
"""Kernels by name. Each returns 0."""
