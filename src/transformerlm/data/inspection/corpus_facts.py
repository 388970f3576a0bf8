"""Facts about the files and documents of a corpus, summed up from a scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from transformerlm.data.corpus import Corpora
from transformerlm.data.inspection.facts import CorpusFacts, Example, FileKind, SplitSize
from transformerlm.data.inspection.observer import MAX_INVALID, NUM_CODES, Seen
from transformerlm.data.inspection.places import Places
from transformerlm.data.scan import Scan

NEAR_EMPTY = 20
"""Visible characters below which a document is near-empty."""
SCRIPTS = (
    *("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Bengali", "Tamil", "Telugu", "Thai"),
    *("Han", "Hiragana", "Katakana", "Hangul", "Georgian", "Armenian", "Ethiopic", "Khmer", "Lao", "Myanmar"),
    *("Tibetan", "Sinhala", "Gujarati", "Gurmukhi", "Kannada", "Malayalam", "Oriya", "Mongolian", "Syriac"),
)
QUANTILES = {"10 %": 0.1, "half": 0.5, "90 %": 0.9, "99 %": 0.99}
_OTHERS = {
    "digits": r"\p{N}",
    "white space": r"\s",
    "marks": r"\p{M}",
    "punctuation and symbols": r"[\p{P}\p{S}]",
    "control and format characters": r"[\p{Cc}\p{Cf}]",
}


class Observation:
    """What the observers have seen of the whole corpus."""

    def __init__(self) -> None:
        self._visible: list[NDArray[np.int64]] = []
        self._longest: list[NDArray[np.int64]] = []
        self._starts: list[NDArray[np.int64]] = []
        self.histogram = np.zeros(NUM_CODES, np.int64)
        self.invalid: list[tuple[int, int, int]] = []
        self.num_invalid = 0

    def add(self, first: int, seen: Seen) -> None:
        """Add what was seen of an item whose first document has this number."""
        self._visible.append(seen.visible)
        self._longest.append(seen.longest_line)
        self._starts.append(seen.longest_line_start)
        self.histogram[seen.codes] += seen.counts
        self.num_invalid += seen.num_invalid
        room = MAX_INVALID - len(self.invalid)
        self.invalid += [(first + document, *rest) for document, *rest in seen.invalid[:room]]  # type: ignore[misc]

    @property
    def visible(self) -> NDArray[np.int64]:
        """Visible characters of each document."""
        return _joined(self._visible)

    @property
    def longest_line(self) -> NDArray[np.int64]:
        """Bytes of each document's longest line."""
        return _joined(self._longest)

    @property
    def longest_line_start(self) -> NDArray[np.int64]:
        """First byte of each document's longest line."""
        return _joined(self._starts)


def _joined(columns: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *columns])


def corpus_facts(
    corpora: Corpora, scan: Scan, seen: Observation, places: Places, max_examples: int
) -> CorpusFacts:
    """Return the facts about a corpus."""
    quotes = _Quotes.of(scan, seen, places, max_examples)
    characters = Characters.of(seen.histogram)
    return CorpusFacts(
        files=file_kinds(corpora),
        left_out={kind: len(names) for one in corpora.named.values() for kind, names in one.left_out.items()},
        splits=_split_sizes(scan),
        documents=len(scan) - scan.division.divides_document,
        num_bytes=int(scan.num_bytes.sum()),
        characters=int(seen.histogram.sum()) - seen.num_invalid,
        lengths=_lengths(scan.num_bytes),
        length_histogram=_length_histogram(scan.num_bytes),
        scripts=characters.scripts,
        other_characters=characters.others,
        invalid_bytes=seen.num_invalid,
        invalid=quotes.invalid,
        longest_lines=quotes.longest_lines,
        near_empty_documents=int(np.count_nonzero(seen.visible < NEAR_EMPTY)),
        near_empty=quotes.near_empty,
        files_without_documents=places.files_without_documents(),
    )


class _Quotes(NamedTuple):
    """Examples with their text."""

    invalid: Sequence[Example]
    longest_lines: Sequence[Example]
    near_empty: Sequence[Example]

    @classmethod
    def of(cls, scan: Scan, seen: Observation, places: Places, max_examples: int) -> _Quotes:
        invalid = seen.invalid[:max_examples]
        lengths, starts = seen.longest_line, seen.longest_line_start
        longest = np.argsort(-lengths, kind="stable")[:max_examples].tolist()
        near_empty = np.flatnonzero(seen.visible < NEAR_EMPTY)[:max_examples].tolist()
        with places.at_hand({*(document for document, _, _ in invalid), *longest, *near_empty}):
            return cls(
                [Example(places.of(number, byte), f"0x{value:02x}", 1) for number, byte, value in invalid],
                [places.example(number, int(starts[number]), int(lengths[number])) for number in longest],
                [places.example(number, 0, int(scan.num_bytes[number])) for number in near_empty],
            )


def file_kinds(corpora: Corpora) -> list[FileKind]:
    """Return the files that are read by suffix and kind, the largest sum of bytes first."""
    numbers, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for corpus in corpora.named.values():
        for source in corpus.sources:
            key = PurePosixPath(source.name).suffix.lower(), source.kind
            numbers[key] += 1
            sizes[key] += source.num_bytes
    return [FileKind(*key, numbers[key], size) for key, size in sizes.most_common()]


def _split_sizes(scan: Scan) -> list[SplitSize]:
    sides = {"train": ~scan.is_validation, "val": scan.is_validation}
    return [
        SplitSize(name, int(np.count_nonzero(mask)), int(scan.num_bytes[mask].sum()))
        for name, mask in sides.items()
    ]


def _lengths(num_bytes: NDArray[np.int64]) -> dict[str, int]:
    if not len(num_bytes):
        return {}
    ordered = np.sort(num_bytes)
    middle = {
        name: int(ordered[min(len(ordered) - 1, int(part * len(ordered)))])
        for name, part in QUANTILES.items()
    }
    return {"least": int(ordered[0]), **middle, "largest": int(ordered[-1])}


def _length_histogram(num_bytes: NDArray[np.int64]) -> list[tuple[int, int]]:
    if not len(num_bytes):
        return []
    exponents = np.frexp(num_bytes.astype(np.float64))[1] - 1
    counts = np.bincount(exponents)
    least = int(exponents.min())
    return [(2**exponent, int(count)) for exponent, count in enumerate(counts.tolist()) if exponent >= least]


class Characters:
    """Counts of characters by script and kind."""

    def __init__(self, scripts: Mapping[str, int], others: Mapping[str, int]) -> None:
        self.scripts, self.others = scripts, others

    @classmethod
    def of(cls, histogram: NDArray[np.int64]) -> Characters:
        """Sort the code points of a histogram; each is asked about once."""
        codes = [code for code in np.flatnonzero(histogram).tolist() if not 0xD800 <= code < 0xE000]
        rest = "".join(map(chr, codes))
        scripts, others = Counter[str](), Counter[str]()
        for name, pattern in _OTHERS.items():
            rest, others[name] = _taken(rest, pattern, histogram)
        for name in SCRIPTS:
            rest, scripts[name] = _taken(rest, rf"\p{{Script={name}}}", histogram)
        rest, scripts["other scripts"] = _taken(rest, r"\p{L}", histogram)
        others["others"] = _count(rest, histogram)
        return cls(_present(scripts), _present(others))


def _taken(text: str, pattern: str, histogram: NDArray[np.int64]) -> tuple[str, int]:
    """Return the characters that do not match, and how often the others occur."""
    found = "".join(regex.findall(pattern, text))
    return regex.sub(pattern, "", text), _count(found, histogram)


def _count(text: str, histogram: NDArray[np.int64]) -> int:
    return int(histogram[[ord(character) for character in text]].sum()) if text else 0


def _present(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in counts.most_common() if count}
