"""[eval]: which models to score on which text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from transformerlm.errors import Key, Problem
from transformerlm.schema import FilePath, PositiveInt, Section


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSection(Section):
    """[eval]: which model or pair of models, on which text."""

    checkpoint: FilePath = "runs/python-stdlib"
    """Folder of a run, which stands for its newest valid checkpoint or, if it has ended, for its best one; or
    of one checkpoint."""
    compare: FilePath | None = None
    """A second model, for the difference on the same documents. None: no comparison."""
    compare_weights: Literal["float32", "bfloat16", "int8", "int4"] | None = None
    """[runtime].weights of the second model, which is the first one again where `compare` is None: what a
    precision costs. None: as the first model's."""
    text: FilePath | None = None
    """A file, a folder or a glob, scored completely and read as [data] says. None: the validation part of
    [data], of which what is not set is as in the config of the run."""
    max_documents: PositiveInt | None = None
    """Score only this many documents, from the first on. None: all."""
    bos_token: str | None = None
    """Special token that precedes each document. "": none. None: the one that begins the model's texts
    ([generation].bos_token of the run), or else the eos_token."""
    eos_token: str | None = None
    """Special token that is predicted at the end of each document. "": none. None: the one that ended
    documents when the model was trained ([data].document_separator of the run)."""
    stride: PositiveInt | None = None
    """For documents longer than the context: tokens from the start of one window to the start of the next,
    at most context_length (fastest). Each token counts in the first window that holds it. None: half of
    context_length, so that each token has at least that much context."""
    batch_size: PositiveInt = 16
    """Sequences of context_length per forward pass, or as many tokens in shorter sequences."""
    without_leaks: bool = False
    """Score once more without the tokens in runs of at least 50 that stand in the text that the model was
    trained on. Needs the run's token files; some 30 bytes of memory per token of the text."""
    documents_file: FilePath | None = None
    """A .jsonl file to write, with the loss of each document. None: write none."""

    @property
    def has_second(self) -> bool:
        """True if two models are compared."""
        return self.compare is not None or self.compare_weights is not None

    def conflicts(self) -> Iterator[Problem]:
        """Yield a comparison without leaks: two models may have been trained on different texts."""
        if self.without_leaks and self.has_second:
            what = "expected false with [eval].compare, got true: score the models one after the other"
            yield Problem(Key("without_leaks"), what)
