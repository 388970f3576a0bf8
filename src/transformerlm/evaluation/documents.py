"""Scoring of documents: the loss of each document of a text under a model, in nats.

Documents are cut into windows, and windows computed in batches. As in training, a document stands between two
end-of-text tokens (or behind the token that begins the model's texts), but its context has no text of other
documents. The statistics of the scores are in
statistics.py.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from transformerlm.checkpoint.own_settings import own_generation, own_table
from transformerlm.config import EvalSection, RuntimeConfig
from transformerlm.errors import ConfigError, DataError, Key, NumericalError
from transformerlm.evaluation.leaks import LeakedTokens
from transformerlm.evaluation.statistics import DocumentScores, Floats
from transformerlm.evaluation.text import Part, Text
from transformerlm.evaluation.windows import Window, batches, blocks, document_windows, marked_windows
from transformerlm.language_model import LanguageModel, load_memory
from transformerlm.ngrams import Trust
from transformerlm.nn import TransformerLM, cross_entropy
from transformerlm.nn.fused import with_kernels
from transformerlm.nn.loss import CHUNK_BYTES, DEFAULT_CHUNK_BYTES
from transformerlm.progress import Reporter
from transformerlm.runtime import Runtime, choose_precision, memory_for
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.vocabulary import Ids


def load_for_scoring(
    path: str | Path, config: RuntimeConfig, warn: Callable[[str], object] = lambda line: None
) -> LanguageModel:
    """`LanguageModel.load` with float32 weights and the memory of n-grams, unless [runtime] says otherwise;
    [runtime].dtype is the dtype of products, as in training.

    With [runtime].weights the weights are rounded to that.
    """
    lm = LanguageModel.load(path, _in_float32(config), warn)
    if config.weights == "bfloat16":
        lm.model.to(torch.bfloat16).to(torch.float32)
    precision = choose_precision(config, lm.model.config)
    if precision.warning:
        warn(precision.warning)
    weights = "" if config.weights == "auto" else config.weights
    runtime = dataclasses.replace(Runtime.of(config, precision), weights=weights)
    ngrams = load_memory(lm.checkpoint, config, to_score=True)
    return dataclasses.replace(lm, runtime=runtime, ngrams=ngrams)


def _in_float32(config: RuntimeConfig) -> RuntimeConfig:
    weights = "float32" if config.weights == "bfloat16" else config.weights
    return dataclasses.replace(config, dtype="float32", weights=weights, ngram_memory=False)


def score(
    lm: LanguageModel,
    text: Text,
    settings: EvalSection,
    reporter: Reporter,
    leaked: LeakedTokens | None = None,
) -> DocumentScores:
    """Score every document of a text, or the first [eval].max_documents of them.

    The result does not depend on [eval].batch_size, except for rounding.

    Args:
        lm: from `load_for_scoring`; its runtime has the dtype of products and the use of kernels.
        leaked: tokens that are left out of `DocumentScores.without_leaks`.

    Raises:
        ConfigError: for a stride longer than the model's context, or an end token that the tokenizer lacks.
        DataError: for text that cannot be read, or has nothing to predict.
        NumericalError: if the model's logits are NaN.
        TransformerLMError: if there is not enough memory for a batch.
    """
    runtime, context_length = lm.runtime, lm.model.config.context_length
    stride = stride_of(settings, context_length)
    start_id, end_id = start_of_text_id(lm, settings), end_of_text_id(lm, settings)
    starts, ends = (
        np.array([] if token_id is None else [token_id], lm.tokenizer.dtype)
        for token_id in (start_id, end_id)
    )
    max_tokens = settings.batch_size * context_length
    model = with_kernels(lm.model) if runtime.kernels else lm.model
    sums, leaked_sums = _DocumentSums(), _DocumentSums()
    with (
        memory_for("scoring", f"take a smaller [eval].batch_size than {settings.batch_size}"),
        reporter.bar(text.num_bytes, "B", "scoring") as bar,
    ):
        parts = text.parts(lm.tokenizer.safe_cut, bar)
        parts = itertools.takewhile(lambda part: part.document < (settings.max_documents or math.inf), parts)
        encode = functools.partial(_encode, lm.tokenizer)
        has_start = functools.partial(_begins_with, _bos_token(lm.tokenizer, start_id, end_id))
        cut = functools.partial(
            document_windows, context_length=context_length, stride=stride, has_start=has_start
        )
        counted = sums.count_bytes(parts)
        if leaked:
            all_windows = marked_windows(cut, counted, encode, starts, ends, leaked, lm.ngrams)
        else:
            all_windows = cut(counted, encode, starts, ends, ngrams=lm.ngrams)
        mixture = Mixture()
        for block in blocks(all_windows, max_tokens):
            own = block_nats(model, block, max_tokens, runtime)
            for window, nats in zip(block, map(mixture.nats, block, own), strict=True):
                sums.add(window.document, nats)
                leaked_sums.add_leaked(window, nats)
    return sums.scores(str(text), leaked_sums, leaked)


def stride_of(settings: EvalSection, context_length: int) -> int:
    """Return the distance between the starts of a long document's windows, in tokens.

    Raises:
        ConfigError: for a stride that leaves gaps.
    """
    stride = settings.stride or max(1, context_length // 2)
    if stride > context_length:
        what = f"expected at most the model's context_length = {context_length}, got {stride}"
        raise ConfigError(what, key=Key("eval", "stride"))
    return stride


def end_of_text_id(lm: LanguageModel, settings: EvalSection) -> int | None:
    """Return the id of the token at the end of each document; None if there is none.

    Raises:
        ConfigError: if [eval].eos_token is not among the tokenizer's special tokens.
    """
    if settings.eos_token is None:
        separator = own_table(lm.checkpoint.about, "data").get("document_separator")
        return lm.tokenizer.special_token_ids.get(str(separator))
    return _special_id(lm, "eos_token", settings.eos_token)


def start_of_text_id(lm: LanguageModel, settings: EvalSection) -> int | None:
    """Return the id of the token before each document; None if there is none.

    Raises:
        ConfigError: if [eval].bos_token is not among the tokenizer's special tokens.
    """
    if settings.bos_token is None:
        own = own_generation(lm.checkpoint.about).get("bos_token")
        return lm.tokenizer.special_token_ids.get(str(own), end_of_text_id(lm, settings))
    return _special_id(lm, "bos_token", settings.bos_token)


def _special_id(lm: LanguageModel, key: str, token: str) -> int | None:
    known = lm.tokenizer.special_token_ids
    if token and token not in known:
        what = f"expected one of the special tokens of {lm.checkpoint.path}, {sorted(known)}"
        raise ConfigError(f"{what}, got {token!r}", key=Key("eval", key))
    return known.get(token)


def _bos_token(tokenizer: Tokenizer, start_id: int | None, end_id: int | None) -> str | None:
    """Return the token that begins texts; None where it is the one that ended the text before, as with this
    package's own models: no document begins with that."""
    tokens = {token_id: token for token, token_id in tokenizer.special_token_ids.items()}
    return None if start_id is None or start_id == end_id else tokens[start_id]


def _begins_with(token: str | None, part: Part) -> bool:
    """Return True if a part begins with a special token, and that is recognised in it."""
    if token is None or not part.utf8.startswith(token.encode()):
        return False
    allowed = part.allowed_special
    return allowed == "all" or (allowed != "none" and token in allowed)


def _encode(tokenizer: Tokenizer, part: Part) -> Ids:
    return tokenizer.encode_bytes(part.utf8, allowed_special=part.allowed_special)


def block_nats(
    model: TransformerLM, block: Sequence[Window], max_tokens: int, runtime: Runtime
) -> list[Floats]:
    """Return the nats of each window's counted targets under the network, in batches of `max_tokens`.

    Raises:
        NumericalError: if the model's logits are NaN.
    """
    found: dict[int, Floats] = {}
    for places in batches(block, max_tokens):
        found.update(
            zip(places, target_nats(model, [block[place] for place in places], runtime), strict=True)
        )
    return [found[place] for place in range(len(block))]


@torch.no_grad()
def target_nats(model: TransformerLM, batch: Sequence[Window], runtime: Runtime) -> list[Floats]:
    """Return the nats of each window's counted targets under the network, of one batch.

    Raises:
        NumericalError: if the model's logits are NaN.
    """
    ids, counts = _padded(batch)
    places = counts[:, 1:].nonzero()  # on the host: no device sync
    nats = nats_at(model, ids[:, :-1], places, ids[:, 1:][counts[:, 1:]], runtime)
    values = nats.cpu().double().numpy()  # host sync, once per batch
    if not np.isfinite(values).all():
        raise NumericalError("the model's logits are not numbers (NaN): nothing can be scored with them")
    ends = list(itertools.accumulate(window.num_targets for window in batch))
    return np.split(values, ends[:-1])


def nats_at(
    model: TransformerLM, inputs: Tensor, places: Tensor, targets: Tensor, runtime: Runtime
) -> Tensor:
    """Return the nats of targets [targets] behind places [targets, 2] of inputs [batch, time]."""
    with runtime.autocast():
        hidden = model.hidden_states(inputs.to(runtime.device))
        rows = hidden[tuple(place.to(runtime.device) for place in places.T)]
        return token_nats(model, rows, targets.to(runtime.device))


def token_nats(model: TransformerLM, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the nats of each target [targets], from hidden states [targets, d_model], in chunks."""
    chunk_bytes = CHUNK_BYTES.get(hidden.device.type, DEFAULT_CHUNK_BYTES)
    chunk = max(1, chunk_bytes // (4 * model.config.vocabulary_rows))
    slices = [slice(first, first + chunk) for first in range(0, len(targets), chunk)]
    return torch.cat([cross_entropy(model.logits(hidden[part]), targets[part], "none") for part in slices])


def _padded(batch: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """Return the windows' ids, zero-padded on the right, and a mask of counted ids: both [windows, longest].

    Attention is causal: padding on the right changes nothing.
    """
    shape = len(batch), max(len(window.ids) for window in batch)
    ids = torch.zeros(shape, dtype=torch.long, device="cpu")
    counts = torch.zeros_like(ids, dtype=torch.bool)
    for row, window in enumerate(batch):
        length = len(window.ids)
        ids[row, :length] = torch.from_numpy(window.ids.astype(np.int64))
        counts[row, length - window.num_targets : length] = True
    return ids, counts


class Mixture:
    """The mixture with the memory of n-grams, for windows in order."""

    def __init__(self) -> None:
        self._document, self._trust = -1, Trust()

    def nats(self, window: Window, nats: Floats) -> Floats:
        """Return the nats of a window's counted targets with the memory, from those under the network."""
        if window.remembered is None:
            return nats
        if window.document != self._document:
            self._document, self._trust = window.document, Trust()
        weights, totals = window.remembered[:, -window.num_targets :]
        return self._trust.mixed_nats(nats, weights, totals)


class _DocumentSums:
    """Sums per document: all that is kept in memory for a text of any size."""

    def __init__(self) -> None:
        self.nats, self.num_tokens, self.num_bytes = array("d"), array("q"), array("q")
        self.paths: list[str] = []

    def count_bytes(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Yield the parts unchanged, and count the bytes of their documents."""
        for part in parts:
            if part.document == len(self.paths):
                self._reach(part.document)
                self.paths.append(part.path)
            self.num_bytes[part.document] += len(part.utf8)
            yield part

    def add(self, document: int, nats: Floats) -> None:
        """Add targets of a document, by their nats."""
        self._reach(document)
        self.nats[document] += float(nats.sum())
        self.num_tokens[document] += len(nats)

    def add_leaked(self, window: Window, nats: Floats) -> None:
        """Add those targets of a window that are marked as leaked."""
        if window.is_leaked is not None:
            self.add(window.document, nats[window.is_leaked[-window.num_targets :]])

    def _reach(self, document: int) -> None:
        while len(self.nats) <= document:
            for column in (self.nats, self.num_tokens, self.num_bytes):
                column.append(0)

    def scores(
        self, name: str, leaked_sums: _DocumentSums, leaked: LeakedTokens | None = None
    ) -> DocumentScores:
        """Return the scores; `name` is that of the text.

        Args:
            leaked_sums: what is left out of those without leaks, if `leaked` is given.

        Raises:
            DataError: if no token was predicted.
        """
        if not any(self.num_tokens):
            found = "no text" if not self.paths else "no document with a token to predict"
            raise DataError(f"expected text in {name}, got {found}")
        num_tokens, num_bytes = np.array(self.num_tokens, np.int64), np.array(self.num_bytes, np.int64)
        nats, without = np.array(self.nats), None
        if leaked:
            leaked_sums._reach(len(self.paths) - 1)
            tokens = num_tokens - np.array(leaked_sums.num_tokens, np.int64)
            others = num_bytes - np.array(leaked.num_bytes, np.int64)
            without = DocumentScores(nats - np.array(leaked_sums.nats), tokens, others, self.paths)
        return DocumentScores(nats, num_tokens, num_bytes, self.paths, without)
