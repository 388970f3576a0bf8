"""[export] and [import_model]: models for and from other programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from transformerlm.errors import Key, Problem
from transformerlm.schema import FilePath, Section, Text


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSection(Section):
    """[export]: which model to write, and in which format."""

    checkpoint: FilePath = "runs/python-stdlib"
    """Folder of a run, which stands for its newest valid checkpoint or, if it has ended, for its best one; or
    of one checkpoint."""
    to: Literal["hf", "gguf"] = "hf"
    """"hf": a folder for Hugging Face's transformers. "gguf": a file for llama.cpp."""
    output: FilePath | None = None
    """Folder or file to make; it must not exist yet. None: beside the run, named after it."""
    dtype: Literal["float32", "bfloat16", "float16", "q8_0", "q4_0"] = "float32"
    """Precision of the weights; in a GGUF file, of the matrices. "q8_0" and "q4_0", for GGUF alone, are eight
    and four bits: the same values as with [runtime].weights = "int8" and "int4"."""
    license: Text | None = None
    """License of the model, for the head of its card (README.md in a folder), such as "mit" or "cc-by-4.0".
    None: the head has a comment in its place."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield a precision that only GGUF files have."""
        if self.to == "hf" and self.dtype in ("q8_0", "q4_0"):
            what = f'expected "float32", "bfloat16" or "float16" with to = "hf", got "{self.dtype}"'
            yield Problem(Key("dtype"), what)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportModelSection(Section):
    """[import_model]: which model to read, and the run to make of it. (`import` is a keyword of Python.)"""

    source: FilePath | None = None
    """A Hugging Face folder: config.json, one or several .safetensors files, tokenizer.json."""
    run_dir: FilePath | None = None
    """Folder of the run to make; it must not exist yet. None: runs/ and the name of the source."""
