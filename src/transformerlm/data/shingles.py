"""Shingles of a text, the MinHash signatures of documents, and the exact Jaccard similarity of two.

A shingle is SHINGLE_CHARACTERS characters in a row, each run of white space counting as one space: a copy
that was indented or wrapped otherwise has the same shingles, and scripts without spaces have shingles too.
Two documents have the similarity |A & B| / |A | B| of their sets of shingles.

Everything is integer arithmetic with fixed constants: the same on every machine. Long documents are taken in
parts; what remains of a document is its signature.

Source: Broder, "On the Resemblance and Containment of Documents", 1997; Leskovec, Rajaraman & Ullman, "Mining
of Massive Datasets", chapter 3; Li & König, "b-Bit Minwise Hashing", 2010, for signatures of 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.tokenizer.pretokenize import text_of

SHINGLE_CHARACTERS = 9
"""Length of a shingle: unrelated texts of a language share few of this length."""
NUM_BANDS, ROWS_PER_BAND = 20, 6
"""Documents that agree in all rows of a band are compared. At a similarity s that is missed with probability
(1 - s^6)^20: 0.2 % at 0.8, 0.00003 % at 0.9."""
NUM_HASHES = NUM_BANDS * ROWS_PER_BAND
MAX_SET = 2**22
"""Shingles up to which a similarity is exact; of longer documents a part is compared, chosen by hash."""

Codes = NDArray[np.uint32]
Hashes = NDArray[np.uint64]
Signatures = NDArray[np.uint16]

_SPACE = 32
_BATCH = 2**17  # shingles that are hashed together: the arrays stay in the processor's cache
_BASE = 0x9E3779B97F4A7C15
_POWERS = {exponent: np.uint64(pow(_BASE, exponent, 2**64)) for exponent in (1, 2, 4)}
_EMPTY = np.array([], np.uint32)


def _coefficients() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return factors, which are odd, and summands of the permutations x -> a x + b of 32-bit numbers."""
    # Raw words of a counter-based generator, which numpy promises to keep the same in every version.
    words = np.random.Philox(key=np.array([0, 1], np.uint64)).random_raw(2 * NUM_HASHES) >> np.uint64(32)
    first, second = words.astype(np.uint32).reshape(2, NUM_HASHES)
    return first | np.uint32(1), second


_FACTORS, _SUMMANDS = _coefficients()


def characters(utf8: bytes) -> Codes:
    """Return the code points of a text; bytes that are not UTF-8 as surrogates."""
    return np.frombuffer(text_of(utf8).encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))


def joined_spaces(codes: Codes) -> Codes:
    """Return the code points with each run of ASCII white space as one space."""
    is_space = (codes == _SPACE) | ((codes >= 9) & (codes <= 13))
    codes = np.where(is_space, np.uint32(_SPACE), codes)
    keep = ~is_space
    keep[:1] = True
    keep[1:] |= ~is_space[:-1]
    found: Codes = codes[keep]
    return found


def shingle_hashes(codes: Codes) -> Hashes:
    """Return the hash of every shingle, in order: `[len(codes) - SHINGLE_CHARACTERS + 1]`."""
    one = codes.astype(np.uint64)
    if len(one) < SHINGLE_CHARACTERS:
        return one[:0]
    # Polynomials of 2, 4, 8 and 9 characters modulo 2^64, each from two shorter ones.
    two = one[:-1] * _POWERS[1] + one[1:]
    four = two[:-2] * _POWERS[2] + two[2:]
    eight = four[:-4] * _POWERS[4] + four[4:]
    return mixed(eight[:-1] * _POWERS[1] + one[8:])


def mixed(value: Hashes) -> Hashes:
    """Mix the bits: every bit of the result depends on every bit of the value; a bijection.

    Source: Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", 2014 (mix64variant13).
    """
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class Shingler:
    """Shingles of one document that comes in parts."""

    def __init__(self) -> None:
        self._rest: Codes = _EMPTY

    def add(self, codes: Codes) -> Hashes:
        """Return the hashes of the shingles that end in the next part, given as code points."""
        joined = joined_spaces(np.concatenate([self._rest, codes]))
        self._rest = joined[max(0, len(joined) - SHINGLE_CHARACTERS + 1) :]
        return shingle_hashes(joined)


class SignatureBuilder:
    """MinHash signatures of documents whose shingles come in order, computed for many at a time."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        """Shingles of each document, repeated ones too."""
        self._minima: list[NDArray[np.uint32]] = []
        self._waiting: list[tuple[int, Hashes]] = []
        self._size = 0

    def begin(self) -> None:
        """Begin the next document."""
        self.counts.append(0)
        self._minima.append(np.full(NUM_HASHES, 2**32 - 1, np.uint32))

    def add(self, hashes: Hashes) -> None:
        """Add shingles of the document that was begun last."""
        self.counts[-1] += len(hashes)
        for start in range(0, len(hashes), _BATCH):
            part = hashes[start : start + _BATCH]
            self._waiting.append((len(self.counts) - 1, part))
            self._size += len(part)
            if self._size >= _BATCH:
                self._flush()

    def signatures(self) -> Signatures:
        """Return the signatures, `[documents, NUM_HASHES]`."""
        self._flush()
        minima = np.array(self._minima, np.uint32).reshape(-1, NUM_HASHES)
        return (minima & np.uint32(0xFFFF)).astype(np.uint16)

    def _flush(self) -> None:
        if not self._waiting:
            return
        values = np.concatenate([(part >> np.uint64(32)).astype(np.uint32) for _, part in self._waiting])
        lengths = [len(part) for _, part in self._waiting]
        starts = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]).astype(np.intp)
        found, permuted = np.empty((NUM_HASHES, len(starts)), np.uint32), np.empty_like(values)
        for row, (factor, summand) in enumerate(zip(_FACTORS, _SUMMANDS, strict=True)):
            np.multiply(values, factor, out=permuted)
            np.add(permuted, summand, out=permuted)
            np.minimum.reduceat(permuted, starts, out=found[row])
        for (document, _), minima in zip(self._waiting, found.T, strict=True):
            np.minimum(self._minima[document], minima, out=self._minima[document])
        self._waiting, self._size = [], 0


def bands(signatures: Signatures) -> Iterator[Hashes]:
    """Yield for each band a number per document, equal where all rows of the band are."""
    factors = mixed(np.arange(1, ROWS_PER_BAND + 1, dtype=np.uint64)) | np.uint64(1)
    for first in range(0, NUM_HASHES, ROWS_PER_BAND):
        rows = signatures[:, first : first + ROWS_PER_BAND].astype(np.uint64)
        yield mixed((rows * factors).sum(axis=1, dtype=np.uint64))


def shingle_set(parts: Iterable[bytes], one_in: int = 1) -> Hashes:
    """Return the set of a document's shingles, sorted.

    Args:
        parts: the document as UTF-8, cut between characters.
        one_in: a power of two; of that many shingles one is taken, by its hash, the same in each document.
    """
    shingler, shift = Shingler(), np.uint64(64 - (one_in.bit_length() - 1))
    found = []
    for part in parts:
        hashes = shingler.add(characters(part))
        found.append(np.unique(hashes if one_in == 1 else hashes[hashes >> shift == 0]))
    return found[0] if len(found) == 1 else np.unique(np.concatenate([np.array([], np.uint64), *found]))


def sampling(num_shingles: Sequence[int] | NDArray[Any]) -> int:
    """Return `one_in` for documents that are compared: 1, unless one of them is very long."""
    return 1 << max(0, (max(map(int, num_shingles)) - 1) // MAX_SET).bit_length()


def jaccard(first: Hashes, second: Hashes) -> float:
    """Return the similarity of two sorted sets: shared members by members of either; 0 for two empty ones."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    either = len(first) + len(second) - shared
    return shared / either if either else 0.0
