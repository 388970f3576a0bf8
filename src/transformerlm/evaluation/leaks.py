"""Tokens of a text that stand in the text that a model was trained on, to be left out of its score."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.checkpoint.own_settings import own_table
from transformerlm.config import DataConfig
from transformerlm.data.matches import find_leaks
from transformerlm.data.mixture import corpora_of
from transformerlm.data.prepare import fill_placeholders
from transformerlm.data.token_file import TokenFile
from transformerlm.errors import DataError, Key
from transformerlm.evaluation.text import Text
from transformerlm.language_model import LanguageModel
from transformerlm.progress import Reporter
from transformerlm.schema import from_dict

TRAIN_FILE = "train.memmap"
Mask = NDArray[np.bool_]

_END = 2**32 - 1  # no id: stands between documents


@dataclass(frozen=True)
class LeakedTokens:
    """The tokens of a text that are in runs of at least 50 which stand in a training text."""

    masks: Sequence[Mask]
    """For each part of the text: whether each of its tokens is leaked."""
    num_bytes: Sequence[int]
    """Bytes of the leaked tokens of each document."""


def training_tokens(lm: LanguageModel) -> list[TokenFile]:
    """Open the token files that a model was trained on: one, or one for each corpus of a mixture.

    Raises:
        DataError: they are not where the run's config says, or others were made there since.
    """
    own = own_table(lm.checkpoint.about, "data")
    known: dict[str, Any] = {key: own[key] for key in ("corpus", "mixture", "token_dir") if key in own}
    corpora = corpora_of(from_dict(DataConfig, known, str(lm.checkpoint.path)))
    paths = {name: Path(fill_placeholders(one.token_dir, one)) / TRAIN_FILE for name, one in corpora.items()}
    key, advice = Key("eval", "without_leaks"), "make it again as the run's config.toml says"
    try:
        files = {name: TokenFile.open(path) for name, path in paths.items()}
    except DataError as error:
        what = f"expected the token file that {lm.checkpoint.path} was trained on: {error}; {advice}"
        raise DataError(what, key=key) from None
    for name, file in files.items():
        if file.sha256 != _trained_on(lm, name):
            what = f"expected the token file that {lm.checkpoint.path} was trained on"
            raise DataError(f"{what}, got another in {paths[name]}; {advice}", key=key)
    return list(files.values())


def _trained_on(lm: LanguageModel, corpus: str) -> str | None:
    """Return the checksum of the tokens of a corpus of a mixture, or of the only one, ""."""
    identity = lm.checkpoint.about.get("identity")
    key = f"train data of {corpus}" if corpus else "train data"
    return identity.get(key) if isinstance(identity, dict) else None


def find_leaked_tokens(
    lm: LanguageModel, text: Text, max_documents: int | None, reporter: Reporter
) -> LeakedTokens:
    """Encode a text and look for its tokens in the text that the model was trained on.

    Raises:
        DataError: as `training_tokens`, or the text cannot be read.
    """
    train = training_tokens(lm)
    sizes = np.zeros(lm.tokenizer.vocab_size, np.int64)
    for token_id, token in lm.tokenizer.vocab.items():
        sizes[token_id] = len(token)
    documents, arrays = array("q"), list[NDArray[Any]]()
    parts = text.parts(lm.tokenizer.safe_cut)
    for part in itertools.takewhile(lambda part: part.document < (max_documents or 2**63), parts):
        documents.append(part.document)
        arrays.append(lm.tokenizer.encode_bytes(part.utf8, allowed_special=part.allowed_special))
    joined = _joined(documents, arrays)
    is_leaked = np.zeros(len(joined), np.bool_)
    with reporter.bar(sum(file.num_tokens for file in train), "token", "looking for leaks") as bar:
        for file in train:
            is_leaked |= find_leaks(file.tokens, joined, end_id=_END, progress=bar.update).is_leaked
    masks = list(_divided(is_leaked, documents, arrays))
    num_bytes = [0] * (documents[-1] + 1 if documents else 0)
    for document, ids, mask in zip(documents, arrays, masks, strict=True):
        num_bytes[document] += int(sizes[ids[mask]].sum())
    return LeakedTokens(masks, num_bytes)


def _joined(documents: Sequence[int], arrays: Sequence[NDArray[Any]]) -> NDArray[np.uint32]:
    """Return all tokens, with _END before each document."""
    found = [np.empty(0, np.uint32)]
    for place, ids in enumerate(arrays):
        if not place or documents[place] != documents[place - 1]:
            found.append(np.array([_END], np.uint32))
        found.append(ids.astype(np.uint32))
    return np.concatenate(found)


def _divided(mask: Mask, documents: Sequence[int], arrays: Sequence[NDArray[Any]]) -> Iterator[Mask]:
    """Yield the part of a mask that belongs to each array: the inverse of `_joined`."""
    position = 0
    for place, ids in enumerate(arrays):
        position += not place or documents[place] != documents[place - 1]
        yield mask[position : position + len(ids)]
        position += len(ids)
