"""A whole inspection: of a corpus, or of token files."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformerlm.config import STDLIB, InspectConfig
from transformerlm.data.build import TokenData, make_data
from transformerlm.data.copies import find_copies
from transformerlm.data.corpus import find_corpora
from transformerlm.data.division import Division
from transformerlm.data.inspection.copy_facts import copy_facts
from transformerlm.data.inspection.corpus_facts import Observation, corpus_facts
from transformerlm.data.inspection.facts import (
    CopyFacts,
    CorpusFacts,
    Inspection,
    LeakFacts,
    TokenFacts,
)
from transformerlm.data.inspection.leak_facts import Locate, leak_facts, place_in_token_file
from transformerlm.data.inspection.locate import Locator, locator_of, names_of
from transformerlm.data.inspection.observer import TextObserver
from transformerlm.data.inspection.places import Places
from transformerlm.data.inspection.token_facts import token_facts
from transformerlm.data.inspection.token_view import TokenView, find_tokenizer
from transformerlm.data.origin import Origin
from transformerlm.data.prepare import fill_placeholders, learn_tokenizer, load_tokenizer
from transformerlm.data.scan import Scan, character_cut, scan
from transformerlm.data.selection import Selection, selection_of
from transformerlm.data.token_file import TokenFile
from transformerlm.data.token_group import files_of
from transformerlm.errors import DataError
from transformerlm.progress import Reporter, SilentReporter
from transformerlm.tokenizer import Tokenizer

TRAIN_FILE, VAL_FILE = "train.memmap", "val.memmap"


def inspect(config: InspectConfig, reporter: Reporter | None = None) -> Inspection:
    """Inspect [data].corpus: text, a token file, or a folder of token files. Writes nothing that stays.

    Raises:
        DataError: the text cannot be read, token files are damaged or of an unknown tokenizer.
    """
    reporter = reporter or SilentReporter()
    path = Path(config.data.corpus).expanduser()
    holds_tokens = path.suffix == ".memmap" or (path / TRAIN_FILE).is_file()
    if holds_tokens and config.data.corpus != STDLIB:
        return _of_token_files(path, config, reporter)
    return _CorpusInspection(config, reporter).run()


def _of_token_files(path: Path, config: InspectConfig, reporter: Reporter) -> Inspection:
    paths = [path] if path.suffix == ".memmap" else [path / name for name in (TRAIN_FILE, VAL_FILE)]
    files = [TokenFile.open(one) for one in paths if len(paths) == 1 or one.exists()]
    configured = Path(fill_placeholders(config.tokenizer.tokenizer_dir, config.data))
    tokenizer = find_tokenizer(files[0].path.parent, configured, files[0].fingerprint)
    views = [TokenView(file, tokenizer) for file in files]
    locator = locator_of(files[0], reporter)
    locate = locator.place if locator else place_in_token_file
    tokens, leaks = _token_facts(views, f"token files {path}", config, locate, reporter)
    return Inspection(str(path), None, None, tokens, leaks)


def _token_facts(
    views: list[TokenView], source: str, config: InspectConfig, locate: Locate, reporter: Reporter
) -> tuple[TokenFacts, LeakFacts | None]:
    number = config.inspect.max_examples
    with reporter.bar(sum(view.file.num_tokens for view in views), "token", "counting tokens") as bar:
        tokens = token_facts(views, source, number, bar)
    if len(views) < 2:
        return tokens, None
    train, val = views
    with reporter.bar(train.file.num_tokens, "token", "looking for leaks") as bar:
        return tokens, leak_facts(train, val, config.inspect.min_leak_tokens, number, locate, bar)


class _CorpusInspection:
    """The inspection of a corpus."""

    def __init__(self, config: InspectConfig, reporter: Reporter) -> None:
        self.reporter = reporter
        # Bytes that are not UTF-8 are counted, and stop nothing.
        kept = dataclasses.replace(config.data, encoding_errors="keep")
        self.original, self.config = config, dataclasses.replace(config, data=kept)
        self.corpora = find_corpora(kept)

    def run(self) -> Inspection:
        """Read the corpus, then encode it where there are no token files of it."""
        found, corpus, copies, places, selection = self._look_at_documents()
        notes = [*self.corpora.notes(self.config.data), *self._advice(corpus)]
        tokens, leaks = None, None
        if len(found):
            saved = load_tokenizer(self.config.data, self.config.tokenizer, self.reporter)
            locate = Locator(places, found, selection).place
            try:
                tokens, leaks = self._look_at_tokens(saved, locate)
            except DataError as error:  # such as a text that is too short to be divided
                notes.append(f"not encoded: {error}")
        return Inspection(self.config.data.corpus, corpus, copies, tokens, leaks, notes)

    def _advice(self, corpus: CorpusFacts) -> Iterator[str]:
        if corpus.invalid_bytes and self.original.data.encoding_errors == "strict":
            advice = '[data].encoding_errors = "replace" or "keep" reads on'
            yield f"training stops at bytes that are not UTF-8; {advice}"

    def _look_at_documents(self) -> tuple[Scan, CorpusFacts, CopyFacts, Places, Selection]:
        data, section, seen = self.config.data, self.config.inspect, Observation()
        near = section.near_copies or data.near_duplicates != "keep"
        with self.reporter.bar(self.corpora.num_bytes, "B", "reading documents") as bar:
            found = scan(
                Division(data, self.corpora, character_cut),
                with_signatures=near,
                observer=TextObserver,
                see=seen.add,
                bar=bar,
            )
        with self.reporter.bar(None, "document", "comparing documents") as bar:
            copies = find_copies(found, near=near, bar=bar)
        places = Places(found, names_of(self.corpora))
        facts = corpus_facts(self.corpora, found, seen, places, section.max_examples)
        selection = selection_of(found, copies)
        return found, facts, copy_facts(found, copies, places, has_near=near), places, selection

    def _look_at_tokens(self, saved: Tokenizer | None, locate: Locate) -> tuple[TokenFacts, LeakFacts | None]:
        """Look at the token files; without a saved tokenizer with one that is learned now and not kept."""
        data, config = self.config.data, self.config.tokenizer
        tokenizer = saved or learn_tokenizer(data, config, self.reporter)
        source = f"a tokenizer of {tokenizer.vocab_size:,} ids, learned for this and not kept"
        if saved:
            source = f"the tokenizer {fill_placeholders(config.tokenizer_dir, data)}"
        with self._token_files(tokenizer) as (files, is_temporary):
            found = [file for split in (files.train, files.val) if split for file in files_of(split).values()]
            views = [TokenView(file, tokenizer) for file in found]
            if not is_temporary:
                source += f"; token files in {found[0].path.parent}"
            return _token_facts(views, source, self.config, locate, self.reporter)

    @contextmanager
    def _token_files(self, tokenizer: Tokenizer) -> Iterator[tuple[TokenData, bool]]:
        """Yield the token files of the config if they are there and up to date, else temporary ones."""
        directory = Path(fill_placeholders(self.config.data.token_dir, self.config.data))
        existing = self._existing(directory, tokenizer)
        if existing:
            yield existing, False
            return
        with tempfile.TemporaryDirectory(prefix="transformerlm-inspect-") as folder:
            yield make_data(self.config.data, tokenizer, Path(folder), self.reporter), True

    def _existing(self, directory: Path, tokenizer: Tokenizer) -> TokenData | None:
        data = self.original.data
        try:
            found = TokenData.open(data, directory)
        except DataError:
            return None
        origin = Origin.now(data, found.train.made_from, directory, SilentReporter())
        is_same = (
            not origin.differs(found.train.made_from) and found.train.fingerprint == tokenizer.fingerprint
        )
        return found if is_same else None
