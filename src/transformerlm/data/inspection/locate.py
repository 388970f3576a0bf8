"""Places in the files of a corpus of what was found in the token files that were made from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from transformerlm.config import DataConfig
from transformerlm.data.copies import find_copies
from transformerlm.data.corpus import Corpora, find_corpora
from transformerlm.data.division import Division
from transformerlm.data.documents import VAL
from transformerlm.data.inspection.facts import Place
from transformerlm.data.inspection.leak_facts import place_in_token_file
from transformerlm.data.inspection.places import Places
from transformerlm.data.inspection.token_view import TokenView
from transformerlm.data.origin import MERGED_KEY, Origin
from transformerlm.data.scan import Scan, character_cut, scan
from transformerlm.data.selection import Selection, selection_of
from transformerlm.data.token_file import TokenFile
from transformerlm.errors import DataError
from transformerlm.progress import Reporter, SilentReporter
from transformerlm.schema import SchemaError, from_dict

VAL_FILE = "val.memmap"


class Locator:
    """Places of documents of token files in the corpus that they were made from."""

    def __init__(self, places: Places, scan: Scan, selection: Selection) -> None:
        self.places = places
        is_validation = scan.is_validation.copy()
        is_there = np.ones(len(scan), np.bool_)
        for document, split in selection.splits.items():
            is_validation[document], is_there[document] = split == VAL, split is not None
        self.validation = np.flatnonzero(is_validation & is_there)
        self.training = np.flatnonzero(~is_validation & is_there)

    def place(self, view: TokenView, document: int, byte: int) -> Place:
        """Return the place of a byte of a document, which a token file counts from 0."""
        own: NDArray[np.int64] = self.validation if view.name == VAL_FILE else self.training
        if len(own) != len(view.ends):  # a separator within JSON, or none: documents cannot be told apart
            return place_in_token_file(view, document, byte)
        return self.places.of(int(own[document]), byte)


def names_of(corpora: Corpora) -> dict[str, str]:
    """Return path -> name of every file: relative to the corpus, or its path if there are two corpora."""
    return {
        source.path: source.path if corpora.validation else source.name
        for corpus in corpora.named.values()
        for source in corpus.sources
    }


def locator_of(file: TokenFile, reporter: Reporter) -> Locator | None:
    """Return the places of the documents of token files; None if their corpus is gone, or is not what it was.

    The corpus is read once.
    """
    if MERGED_KEY in file.made_from:
        return None
    settings = {key: value for key, value in file.made_from.items() if key.startswith("[data].")}
    own = {key.removeprefix("[data]."): value for key, value in settings.items()}
    try:
        config = from_dict(DataConfig, {"jsonl_special_tokens": True, **own})
        if Origin.now(config, file.made_from, file.path.parent, SilentReporter()).differs(file.made_from):
            return None
        return _located(config, find_corpora(config), reporter)
    except (SchemaError, DataError):  # settings of another version; a corpus that is not there any more
        return None


def _located(config: DataConfig, corpora: Corpora, reporter: Reporter) -> Locator:
    near = config.near_duplicates != "keep"
    with reporter.bar(corpora.num_bytes, "B", "reading documents") as bar:
        found = scan(Division(config, corpora, character_cut), with_signatures=near, bar=bar)
    selection = selection_of(found, find_copies(found, near=near))
    return Locator(Places(found, names_of(corpora)), found, selection)
