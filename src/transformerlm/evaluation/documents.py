"""What a model needs for each document of a text: windows of its tokens, in batches, through the model.

A document is scored as training saw it: behind the token that ended the document before it, and with the one
that ends itself, but with no text of other documents in sight. What becomes of the numbers is estimates.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transformerlm.config import EvalSection, RuntimeConfig
from transformerlm.errors import CheckpointError, ConfigError, DataError, Key, NumericalError
from transformerlm.evaluation.statistics import DocumentScores, Floats
from transformerlm.evaluation.text import Part, Text
from transformerlm.language_model import LanguageModel
from transformerlm.nn import TransformerLM, cross_entropy
from transformerlm.nn.fused import with_kernels
from transformerlm.nn.loss import CHUNK_BYTES, DEFAULT_CHUNK_BYTES
from transformerlm.progress import Reporter
from transformerlm.runtime import Runtime, memory_for

Ids = NDArray[np.unsignedinteger[Any]]

BLOCK_BATCHES = 64
"""Batches' worth of windows that are sorted by length together, so that little of a batch is padding."""


class Window(NamedTuple):
    """A stretch of a document that the model sees at once."""

    document: int
    ids: Ids
    """Its tokens, and one more, the target of the last: [2 to context_length + 1]."""
    num_targets: int
    """Of the last targets, how many count here; those before are context only."""


def load_for_scoring(
    path: str | Path, config: RuntimeConfig, warn: Callable[[str], object] = lambda line: None
) -> LanguageModel:
    """`LanguageModel.load` with weights in float32: [runtime].dtype is that of products, as in training."""
    lm = LanguageModel.load(path, dataclasses.replace(config, dtype="float32"), warn)
    return dataclasses.replace(lm, runtime=Runtime.from_config(config))


def score(
    lm: LanguageModel, text: Text, settings: EvalSection, config: RuntimeConfig, reporter: Reporter
) -> DocumentScores:
    """Score every document of a text, or the first [eval].max_documents of them.

    The result does not depend on [eval].batch_size, but for rounding.

    Args:
        lm: from `load_for_scoring`; its products are in the precision of its runtime.

    Raises:
        ConfigError: a stride longer than the model's context, or an end token that the tokenizer lacks.
        DataError: text that cannot be read, or in which there is nothing to predict.
        NumericalError: where the model's logits are not numbers.
        TransformerLMError: where there is not enough memory for a batch.
    """
    runtime, context_length = lm.runtime, lm.model.config.context_length
    stride, eos_id = stride_of(settings, context_length), end_of_text_id(lm, settings)
    ends = np.array([] if eos_id is None else [eos_id], lm.tokenizer.dtype)
    max_tokens = settings.batch_size * context_length
    model = with_kernels(lm.model) if runtime.kernels else lm.model
    tally = _Tally()
    with (
        memory_for("scoring", f"take a smaller [eval].batch_size than {settings.batch_size}"),
        reporter.bar(text.num_bytes, "B", "scoring") as bar,
    ):
        parts = text.parts(lm.tokenizer.pretokenizer.safe_cut, bar)
        parts = itertools.takewhile(lambda part: part.document < (settings.max_documents or math.inf), parts)
        all_windows = document_windows(
            tally.noted(parts), lm.tokenizer.encode_bytes, ends, context_length, stride
        )
        for batch in batches(all_windows, max_tokens):
            tally.add(batch, window_nats(model, batch, runtime))
    return tally.scores(str(text))


def stride_of(settings: EvalSection, context_length: int) -> int:
    """How far apart the windows of a long document begin; ConfigError where that leaves gaps."""
    stride = settings.stride or max(1, context_length // 2)
    if stride > context_length:
        what = f"expected at most the model's context_length = {context_length}, got {stride}"
        raise ConfigError(what, key=Key("eval", "stride"))
    return stride


def end_of_text_id(lm: LanguageModel, settings: EvalSection) -> int | None:
    """The id that stands before and after each document; None where the model has learned no such token.

    Raises:
        ConfigError: [eval].eos_token is none of the tokenizer's special tokens.
    """
    token, known = settings.eos_token, lm.tokenizer.special_token_ids
    if token is None:
        try:
            return known.get(str(lm.checkpoint.require("config", "data", "document_separator")))
        except CheckpointError:  # of a model from elsewhere, which does not say how its data were made
            return None
    if token and token not in known:
        what = f"expected one of the special tokens of {lm.checkpoint.path}, {sorted(known)}"
        raise ConfigError(f"{what}, got {token!r}", key=Key("eval", "eos_token"))
    return known.get(token)


def document_windows(
    parts: Iterable[Part], encode: Callable[[bytes], Ids], ends: Ids, context_length: int, stride: int
) -> Iterator[Window]:
    """The windows of all documents in order, each document with `ends` ([0] or [1] ids) before and after."""
    for document, own_parts in itertools.groupby(parts, key=lambda part: part.document):
        ids = (encode(part.utf8) for part in own_parts)
        yield from windows(document, itertools.chain([ends], ids, [ends]), context_length, stride)


def windows(document: int, parts: Iterable[Ids], context_length: int, stride: int) -> Iterator[Window]:
    """Cut one document so that every token but its first is a target that counts exactly once.

    A window begins `stride` tokens after the one before, and only what that one has not predicted counts:
    before each target are at least context_length - stride + 1 tokens, or all that there are. With a
    context_length of 4 and a stride of 2, what counts in brackets:

        a [b c d e]
            c d e [f g]
    """
    seen, num_counted = np.array([], np.uint32), 0
    for part in parts:
        seen = np.concatenate([seen, part])
        while len(seen) > context_length:
            yield Window(document, seen[: context_length + 1], context_length - num_counted)
            seen, num_counted = seen[stride:], context_length - stride
    if len(seen) - 1 > num_counted:
        yield Window(document, seen, len(seen) - 1 - num_counted)


def batches(all_windows: Iterable[Window], max_tokens: int) -> Iterator[list[Window]]:
    """Windows of about the same length together, as many as come to `max_tokens` when they are padded."""
    for block in _blocks(all_windows, BLOCK_BATCHES * max_tokens):
        block.sort(key=lambda window: len(window.ids), reverse=True)
        first = 0
        while first < len(block):
            size = max(1, max_tokens // (len(block[first].ids) - 1))
            yield block[first : first + size]
            first += size


def _blocks(all_windows: Iterable[Window], num_tokens: int) -> Iterator[list[Window]]:
    block: list[Window] = []
    size = 0
    for window in all_windows:
        block.append(window)
        size += len(window.ids)
        if size >= num_tokens:
            yield block
            block, size = [], 0
    if block:
        yield block


@torch.no_grad()
def window_nats(model: TransformerLM, batch: Sequence[Window], runtime: Runtime) -> Floats:
    """Nats of the targets that count in each window: [windows], added up in float64.

    Raises:
        NumericalError: where the model's logits are not numbers.
    """
    ids, counts = _padded(batch)
    inputs, targets, counts = ids[:, :-1], ids[:, 1:], counts[:, 1:]
    places = counts.nonzero()  # on the host: the device is not waited for
    with runtime.autocast():
        hidden = model.hidden_states(inputs.to(runtime.device))
        rows = hidden[tuple(place.to(runtime.device) for place in places.T)]
        nats = token_nats(model, rows, targets[counts].to(runtime.device))
    # The host waits for the device here, once a batch.
    values = nats.cpu().double().numpy()
    if not np.isfinite(values).all():
        raise NumericalError("the model's logits are not numbers (NaN): nothing can be scored with them")
    sums: Floats = np.bincount(places[:, 0].numpy(), weights=values, minlength=len(batch)).astype(np.float64)
    return sums


def token_nats(model: TransformerLM, hidden: Tensor, targets: Tensor) -> Tensor:
    """Nats of each target, [targets], from hidden states [targets, d_model], a chunk of logits at a time."""
    chunk_bytes = CHUNK_BYTES.get(hidden.device.type, DEFAULT_CHUNK_BYTES)
    chunk = max(1, chunk_bytes // (4 * model.config.vocabulary_rows))
    slices = [slice(first, first + chunk) for first in range(0, len(targets), chunk)]
    return torch.cat([cross_entropy(model.logits(hidden[part]), targets[part], "none") for part in slices])


def _padded(batch: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """The windows' ids, `[windows, longest]`, filled up with zeros on the right; and which of them count.

    Attention looks to the left: what comes behind a token changes nothing for it.
    """
    ids = torch.zeros(len(batch), max(len(window.ids) for window in batch), dtype=torch.long)
    counts = torch.zeros_like(ids, dtype=torch.bool)
    for row, window in enumerate(batch):
        length = len(window.ids)
        ids[row, :length] = torch.from_numpy(window.ids.astype(np.int64))
        counts[row, length - window.num_targets : length] = True
    return ids, counts


class _Tally:
    """Some numbers a document, which is all that is kept of a text of any size."""

    def __init__(self) -> None:
        self.nats, self.num_tokens, self.num_bytes = array("d"), array("q"), array("q")
        self.paths: list[str] = []

    def noted(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The same parts, once their documents have a place here."""
        for part in parts:
            if part.document == len(self.paths):
                for column in (self.nats, self.num_tokens, self.num_bytes):
                    column.append(0)
                self.paths.append(part.path)
            self.num_bytes[part.document] += len(part.utf8)
            yield part

    def add(self, batch: Sequence[Window], nats: Floats) -> None:
        """Add what the windows of a batch came to."""
        for window, value in zip(batch, nats.tolist(), strict=True):
            self.nats[window.document] += value
            self.num_tokens[window.document] += window.num_targets

    def scores(self, name: str) -> DocumentScores:
        """What was found; DataError where nothing was predicted."""
        if not any(self.num_tokens):
            found = "no text" if not self.paths else "no document with a token to predict"
            raise DataError(f"expected text in {name}, got {found}")
        num_tokens, num_bytes = np.array(self.num_tokens, np.int64), np.array(self.num_bytes, np.int64)
        return DocumentScores(np.array(self.nats), num_tokens, num_bytes, self.paths)
