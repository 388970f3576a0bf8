"""[data] and [tokenizer]: the text, the token files and the tokenizer made from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformerlm.errors import Key, Problem
from transformerlm.schema import (
    AutoFilePath,
    AutoPositiveInt,
    FilePath,
    Fraction,
    NumThreads,
    PositiveFloat,
    PositiveInt,
    Section,
    Text,
    are_known,
)

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's pre-tokenisation pattern (Radford et al. 2019, in the form of tiktoken)."""


STDLIB = "python-stdlib"
"""Value of [data].corpus for the source of this Python's standard library."""
MIN_WEIGHT, MAX_WEIGHT = 1e-6, 1e6
"""Weights that give shares which can be told apart."""
RESERVED_NAME = "tokenizer"
"""Folder beside those of a mixture's corpora."""
MAX_NAME_LENGTH = 80
"""Characters of the name of a mixture."""


def as_folder(text: str) -> str:
    """Return a text in a form that a folder can have, and that needs no quotes."""
    return re.sub(r"[^\w-]+", "-", text).strip("-")


def name_of_path(path: str) -> str:
    """Return the name of the corpus at a path: `My-Books` for `texts/My Books/*.txt`."""
    parts = [part for part in Path(path).absolute().parts if not set(part) & set("*?[")]
    name = re.sub(r"(?<=.)\.(?:gz|bz2|xz|zst)$", "", parts[-1])
    return as_folder(Path(name).stem) or "corpus"


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig(Section):
    """[[data.mixture]]: one of several corpora, and how much of it is trained on."""

    path: FilePath = ""
    """A file, a folder, a glob, or "python-stdlib", as [data].corpus."""
    name: Text | None = None
    """Name of the corpus in metrics and on the report, and of its folder of token files. None: the last part
    of `path`."""
    weight: PositiveFloat | None = None
    """Share of the training sequences that come from it, relative to the other weights. Corpora with `passes`
    have theirs first."""
    passes: PositiveFloat | None = None
    """In place of a weight: how often its text is read in the whole run."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield a weight beside passes, or neither, and a name that no folder can have."""
        if (self.weight is None) == (self.passes is None):
            got = "neither" if self.weight is None else "both"
            yield Problem(Key("weight"), f"expected a weight or passes for {self.path}, got {got}")
        if self.weight is not None and not MIN_WEIGHT <= self.weight <= MAX_WEIGHT:
            what = f"expected a number from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}, got {self.weight:g}"
            yield Problem(Key("weight"), what)
        if self.name is not None and self.name != as_folder(self.name):
            what = f'expected a name such as "{as_folder(self.name) or "books"}", got "{self.name}"'
            yield Problem(Key("name"), what)

    @property
    def own_name(self) -> str:
        """The name, or that of the path in a form that a folder can have."""
        return self.name or name_of_path(self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusConfig(Section):
    """[data], the part about text: its files, its documents, and the part held out for validation."""

    corpus: FilePath = STDLIB
    """A file, a folder, a glob, or "python-stdlib": the source of this Python's standard library. Text, JSON
    lines, CSV and HTML, each also compressed (.gz, .bz2, .xz, .zst) or in an archive (.zip, .tar), EPUB,
    Parquet and Arrow are read. What is not text (binary files, UTF-16, ...) is not read, and named."""
    include: tuple[Text, ...] = ("*",)
    """Which files of a folder, glob or archive, or of "python-stdlib", to read: shell patterns for names.
    Hidden files of a folder are never read."""
    file_format: Literal["auto", "text", "jsonl", "csv", "html"] = "auto"
    """How files are read. "text": as they are; "jsonl": one document per line, in JSON; "csv": one document
    per row; "html": the text of a page; "auto": by the name (.jsonl, .ndjson; .csv, .tsv; .html, .htm,
    .xhtml), as JSON lines if the first line is an object with text in `text_field`, else as text. Compressed
    files, EPUB, Parquet and Arrow are told by their content in any case."""
    document_separator: str = "<|endoftext|>"
    """The string between the documents of a text file, and the special token that ends each document in
    the token file. "": each file is one document, and nothing marks its end."""
    text_field: Text = "text"
    """What holds the document: the field of a line of JSON, or the column of a CSV file or table."""
    jsonl_field: Text | None = None
    """An older name of `text_field`. None: that holds."""
    jsonl_special_tokens: bool = False
    """Recognise special tokens, such as <|endoftext|>, in the documents of JSON lines, tables, pages and
    books. false: a document's text is text, whatever is in it."""
    encoding_errors: Literal["strict", "replace", "keep"] = "strict"
    """Bytes that are not UTF-8: "strict" stops and names file and byte offset, "replace" reads U+FFFD,
    "keep" puts them into the token file unchanged (in JSON lines, those within strings)."""
    require_all: bool = False
    """Stop where a file is found that is not read, instead of naming it (hidden files, files of this package
    and further names of a file aside)."""
    max_unpacked_bytes: PositiveInt = 2**40
    """Largest text that a compressed file may hold: a few bytes can stand for any amount."""
    validation_corpus: FilePath | None = None
    """A file, folder or glob to validate on. None: hold out a part of `corpus`."""
    validation_fraction: Fraction = 0.05
    """Fraction of `corpus` held out for validation (0: none); not used with `validation_corpus`."""
    validation_split: Literal["auto", "document", "tail"] = "auto"
    """How to hold it out. "document": by a hash of each document, so that copies of one stay together.
    "tail": the end of the corpus; a text, page or book may be divided, and of lines of JSON or rows at least
    one is taken. "auto": "document" where there are 20 or more and both sides get one."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Documents with the same bytes. "keep": all; "drop": the first of them."""
    near_duplicates: Literal["keep", "together", "drop"] = "keep"
    """Clusters of documents that share at least 0.8 of their shingles of 9 characters. "keep": each document
    by itself; "together": a cluster is for training or for validation, not for both; "drop": the first of a
    cluster alone, of exact copies too. Validation text that is given (`validation_corpus`, "tail") stays."""
    num_workers: NumThreads | None = None
    """Threads (processes where the kernels are not used) that read the corpus; the result does not depend on
    it. None: one per core, or as many as a quota of processor time keeps busy."""
    mixture: tuple[MixtureConfig, ...] | None = None
    """Several corpora in place of `corpus`: [[data.mixture]] tables with a path and a weight or passes. All
    else of [data] holds for each of them. None: one corpus."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield two names for the field of documents, what does not go with a mixture, and names twice."""
        if self.jsonl_field not in (None, "text", self.field_name):
            expected = f'expected text_field = "{self.text_field}" alone, for this is its older name'
            yield Problem(Key("jsonl_field"), f'{expected}, got "{self.jsonl_field}"')
        if self.mixture:
            yield from self._mixture_conflicts(self.mixture)

    def _mixture_conflicts(self, mixture: tuple[MixtureConfig, ...]) -> Iterator[Problem]:
        if self.corpus != STDLIB:
            what = f"expected it without [[data.mixture]], got {self.corpus}"
            yield Problem(Key("corpus"), f"{what}; --data.mixture=None leaves the mixture out")
        if self.validation_corpus is not None:
            what = "expected None with [[data.mixture]], where each corpus holds out a part of its own"
            yield Problem(Key("validation_corpus"), f"{what}, got {self.validation_corpus}")
        taken = {RESERVED_NAME}
        for number, part in enumerate(mixture):
            name = part.own_name.casefold()  # there are file systems that do not tell such names apart
            if name in taken:
                what = f'expected another name than "{part.own_name}" for {part.path}'
                yield Problem(Key("mixture", str(number), "name"), f"{what}, which is taken")
            taken.add(name)

    @property
    def field_name(self) -> str:
        """The field or column that holds the document."""
        return self.jsonl_field or "text" if self.text_field == "text" else self.text_field

    @property
    def corpus_name(self) -> str:
        """The corpus' name in a form that a folder can have: `My-Books` for `texts/My Books/*.txt`.

        Of a mixture the names of its corpora, joined.
        """
        if not self.mixture:
            return name_of_path(self.corpus)
        first, *others = (part.own_name for part in self.mixture)
        joined = "+".join([first, *others])
        return joined if len(joined) <= MAX_NAME_LENGTH else f"{first}+{len(others)}-others"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(CorpusConfig):
    """[data]: the corpus, and the token files made from it."""

    token_dir: AutoFilePath = "data/{corpus}"
    """Folder of train.memmap and val.memmap; {corpus} stands for the name of the corpus. "auto": another
    folder for each vocabulary that is chosen."""
    on_change: Literal["stop", "remake"] = "stop"
    """What to do if the token files there were made of other text, with other settings or with another
    tokenizer. "stop": say what differs; "remake": make them anew, and replace them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig(Section):
    """[tokenizer]: where the tokenizer is, and how to train it if it is missing."""

    tokenizer_dir: AutoFilePath = "data/{corpus}/tokenizer"
    """Folder of the tokenizer, of this package or with a tokenizer.json; {corpus} stands for the name of the
    corpus. "auto": this folder if there is one, else one for the vocabulary that is chosen."""
    vocab_size: AutoPositiveInt | None = None
    """Number of ids: 256 bytes, the merges and the special tokens. None: 8192 for a new tokenizer, any for
    one that exists. "auto", in transformerlm-train: chosen for the text, the machine and max_time."""
    special_tokens: tuple[Text, ...] = ("<|endoftext|>",)
    """Strings that are one id each and never merge with the text around them."""
    pattern: Text = GPT2_PATTERN
    """Regular expression of pre-tokenisation (syntax of the `regex` package)."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield what is wrong if the bytes and the special tokens do not fit into the vocabulary."""
        least = 256 + len(set(self.special_tokens))
        if are_known(self.vocab_size) and self.new_vocab_size < least:
            parts = f"256 bytes and {least - 256} special tokens"
            what = f"expected at least {least} ({parts}), got {self.new_vocab_size}"
            yield Problem(Key("vocab_size"), what)
        if len(set(self.special_tokens)) < len(self.special_tokens):
            yield Problem(Key("special_tokens"), f"expected no token twice, got {list(self.special_tokens)}")

    @property
    def new_vocab_size(self) -> int:
        """Number of ids of a tokenizer that has to be trained."""
        return self.vocab_size or 8192
