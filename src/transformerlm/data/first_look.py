"""A first look at a corpus: what nobody can train on is refused before PyTorch is imported."""

from __future__ import annotations

from pathlib import Path

from transformerlm.config import STDLIB, CorpusConfig
from transformerlm.data.corpus import find_corpora
from transformerlm.data.mixture import corpora_of, naming_corpus

MAX_FILES = 5000
"""Files of a folder that are told at once; a larger one is looked into where its text is read."""


def check_corpora(config: CorpusConfig) -> None:
    """Check that there is text at the paths of [data], a mixture's included.

    Raises:
        MissingCorpusError: a path does not exist.
        DataError: nothing there can be read as text.
    """
    for name, own in corpora_of(config).items():
        if own.corpus == STDLIB or _is_large(own.corpus) or _is_large(own.validation_corpus):
            continue
        with naming_corpus(config, name):
            find_corpora(own)


def _is_large(corpus: str | None) -> bool:
    path = Path(corpus or "").expanduser()
    if not corpus or not path.is_dir():
        return False
    return any(number >= MAX_FILES for number, _ in enumerate(path.rglob("*")))
