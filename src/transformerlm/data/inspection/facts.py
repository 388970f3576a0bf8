"""The result of an inspection: plain values, which become lines, a page or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A place in a text."""

    file: str
    """The file, relative to the corpus."""
    document: int
    """Number of the document in the file, from 1; in a token file, of the document in that."""
    line: int | None
    """Line of the document, from 1; None: not known, as in token files without their text."""
    byte: int
    """Byte of the document, from 0."""
    is_only: bool = False
    """True if the file is one document, so that its lines are those of the file."""

    def __str__(self) -> str:
        if self.is_only and self.line is not None:
            return f"{self.file}:{self.line}"
        where = f"byte {self.byte:,}" if self.line is None else f"line {self.line:,}"
        return f"{self.file}, document {self.document:,}, {where}"

    @property
    def document_name(self) -> str:
        """The document, without the place in it."""
        return self.file if self.is_only else f"{self.file}, document {self.document:,}"


@dataclass(frozen=True)
class Example:
    """A place and what stands there."""

    place: Place
    text: str
    size: int
    """Bytes, or whatever the example is an example of."""


@dataclass(frozen=True)
class FileKind:
    """Files of one suffix and kind."""

    suffix: str
    kind: str
    number: int
    num_bytes: int


@dataclass(frozen=True)
class SplitSize:
    """Documents on one side of the split."""

    split: str
    documents: int
    num_bytes: int


@dataclass(frozen=True)
class CorpusFacts:
    """What is in the files of a corpus."""

    files: Sequence[FileKind]
    left_out: Mapping[str, int]
    """Kind of files that are not read -> number."""
    splits: Sequence[SplitSize]
    documents: int
    num_bytes: int
    characters: int
    lengths: Mapping[str, int]
    """Least, quantiles and largest of the documents' bytes."""
    length_histogram: Sequence[tuple[int, int]]
    """Power of two and number of documents that are at least so long and shorter than the next."""
    scripts: Mapping[str, int]
    """Script -> letters."""
    other_characters: Mapping[str, int]
    """Kind of characters that are no letters -> number."""
    invalid_bytes: int
    """Bytes that are not UTF-8."""
    invalid: Sequence[Example]
    longest_lines: Sequence[Example]
    """The longest line of each document, the longest first; `size` is its bytes."""
    near_empty_documents: int
    """Documents with fewer than NEAR_EMPTY visible characters."""
    near_empty: Sequence[Example]
    files_without_documents: Sequence[str]


@dataclass(frozen=True)
class CopyPair:
    """Two documents, and how near they are."""

    document: Place
    partner: Place
    similarity: float


@dataclass(frozen=True)
class Cluster:
    """Documents that are copies of each other."""

    documents: Sequence[Place]
    """The first ones, if there are very many."""
    size: int
    """Number of all."""
    num_bytes: int
    """Of all but the first."""
    is_across: bool
    """True if some are for training and some for validation."""
    pairs: Sequence[CopyPair] = ()
    """For near copies: pairs that connect the cluster, each compared text by text."""


@dataclass(frozen=True)
class CopyFacts:
    """Exact and near copies among the documents."""

    exact_clusters: int
    exact_copies: int
    """Documents that are copies of another: those of all clusters, less one for each."""
    exact_bytes: int
    exact: Sequence[Cluster]
    has_near: bool
    """False if near copies were not looked for."""
    near_clusters: int
    near_copies: int
    near_bytes: int
    near: Sequence[Cluster]
    """Those with the most bytes first, as in `exact`."""
    threshold: float
    near_clusters_across: int
    """Clusters that are on both sides of the split."""
    too_short: int
    """Documents with fewer characters than a shingle, which are compared exactly only."""


@dataclass(frozen=True)
class TokenDocument:
    """The beginning of a document as tokens: ids and texts."""

    file: str
    document: int
    tokens: Sequence[tuple[int, str]]
    num_tokens: int


@dataclass(frozen=True)
class TokenFacts:
    """What is in the token files."""

    source: str
    """Where the tokens are from."""
    vocab_size: int
    files: Mapping[str, Mapping[str, int]]
    """Name of a token file -> its tokens, documents and bytes of text."""
    bytes_per_token: float
    unused_ids: int
    unused: Sequence[tuple[int, str]]
    longest: Sequence[tuple[int, str, int]]
    """Longest tokens that occur: id, text, number."""
    most_frequent: Sequence[tuple[int, str, int]]
    documents: Sequence[TokenDocument]


@dataclass(frozen=True)
class Leak:
    """A run of validation tokens that stands in the training text too."""

    num_tokens: int
    num_bytes: int
    validation: Place
    training: Place
    matched_tokens: int
    """Tokens of the run from `validation` on that stand at `training`; others may be from elsewhere."""
    text: str


@dataclass(frozen=True)
class LeakFacts:
    """Validation text that stands in the training text, in runs of at least `min_tokens` tokens."""

    min_tokens: int
    validation_bytes: int
    leaked_bytes: int
    validation_tokens: int
    leaked_tokens: int
    runs: int
    documents: int
    """Validation documents with a leak."""
    validation_documents: int
    are_within_documents: bool
    """False if nothing marks the ends of documents, so that runs may reach over them."""
    longest: Sequence[Leak]

    @property
    def share(self) -> float:
        """Leaked share of the validation bytes."""
        return self.leaked_bytes / self.validation_bytes if self.validation_bytes else 0.0


@dataclass(frozen=True)
class Inspection:
    """Everything that was found."""

    path: str
    corpus: CorpusFacts | None
    """None if token files were inspected."""
    copies: CopyFacts | None
    tokens: TokenFacts | None
    """None if there is no text."""
    leaks: LeakFacts | None
    """None if there is no validation text."""
    notes: Sequence[str] = ()
