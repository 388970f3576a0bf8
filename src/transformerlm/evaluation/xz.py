"""Bits per byte of the compressor xz on a run's validation text: a baseline without a language model.

It depends on the text alone and takes about a second per megabyte, so it is computed once, when the text is
prepared, and kept beside the token files in `.xz.json`. Importing this module needs no torch.
"""

from __future__ import annotations

import contextlib
import lzma
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from transformerlm.data.build import TokenData
from transformerlm.data.token_file import TokenFile
from transformerlm.data.token_group import files_of
from transformerlm.errors import OutputError
from transformerlm.progress import Reporter
from transformerlm.storage.checksummed_json import RecordFormat, dump, load
from transformerlm.storage.files import committed_file
from transformerlm.tokenizer import Tokenizer

LIMIT_BYTES = 16_000_000
"""Size limit of texts that are compressed for comparison: xz takes about a second per megabyte."""
MIN_BYTES = 10_000
"""Size of a validation text from which the comparison means something: xz adds 60 bytes of its own."""
RECORD_FILE = ".xz.json"
FORMAT = RecordFormat(version=1, checksum_since=1, members={"text": list, "bits_per_byte": list})


@dataclass(frozen=True)
class XzBaseline:
    """Bits per byte of `xz -9e` on a validation text."""

    alone: float
    after_training_text: float | None = None
    """When it has read the training text; None if that is too long."""

    def __str__(self) -> str:
        line = f"xz -9e on the same text: {self.alone:.3f} bits per byte"
        if self.after_training_text is None:
            return line
        return f"{line}; {self.after_training_text:.3f} when it has read the training text"

    @classmethod
    def read(cls, path: Path, text: list[str]) -> Self | None:
        """Return what is kept in a file, if it is of this text; None if there is no such file."""
        try:
            record = load(path.read_bytes(), FORMAT)
            return cls(*map(float, record["bits_per_byte"])) if record["text"] == text else None
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path, text: list[str]) -> None:
        """Keep it in a file; where that cannot be written, do nothing."""
        numbers = [number for number in (self.alone, self.after_training_text) if number is not None]
        record = {"format_version": FORMAT.version, "text": text, "bits_per_byte": numbers}
        with contextlib.suppress(OSError, OutputError), committed_file(path) as file:
            file.write(dump(record))


def xz_baseline(
    data: TokenData, tokenizer: Tokenizer, separator: str, reporter: Reporter
) -> XzBaseline | None:
    """Return the baseline of token files, computed if it is not kept beside them.

    None without validation text, or where that is so short or so long that there is no comparison. Before the
    shares of a mixture are known, there is none either, but those of its corpora are kept.

    Args:
        separator: the token between documents, which is no text.
        reporter: receives progress.
    """
    if data.val is None:
        return None
    pairs = zip(files_of(data.train).values(), files_of(data.val).items(), strict=True)
    found = {name: _of_files(train, val, tokenizer, separator, reporter) for train, (name, val) in pairs}
    known = {name: baseline for name, baseline in found.items() if baseline is not None}
    if len(known) < len(found):
        return None
    return _of_mixture(known, data) if data.shares else known.get("")


def _of_files(
    train: TokenFile, val: TokenFile, tokenizer: Tokenizer, separator: str, reporter: Reporter
) -> XzBaseline | None:
    """Return the baseline of one corpus; see `xz_baseline`."""
    if not MIN_BYTES <= val.num_bytes <= LIMIT_BYTES:
        return None
    path, text = val.path.with_name(RECORD_FILE), [train.sha256, val.sha256]
    found = XzBaseline.read(path, text)
    if found is None:
        found = _compress(train, val, tokenizer, separator, reporter)
        found.write(path, text)
    return found


def _of_mixture(found: Mapping[str, XzBaseline], data: TokenData) -> XzBaseline:
    """Return the baseline of a mixture: each corpus counts as in the model's bits per byte, with its bytes in
    text that is drawn as in training."""
    assert data.val is not None
    files = files_of(data.val)
    sizes = {
        name: share * files[name].num_bytes / files[name].num_tokens for name, share in data.shares.items()
    }
    total = sum(sizes.values())
    alone = sum(size * found[name].alone for name, size in sizes.items()) / total
    after = [size * (found[name].after_training_text or math.nan) for name, size in sizes.items()]
    mean = sum(after) / total
    return XzBaseline(alone, mean if math.isfinite(mean) else None)


def _compress(
    train: TokenFile, val: TokenFile, tokenizer: Tokenizer, separator: str, reporter: Reporter
) -> XzBaseline:
    separator_id = tokenizer.special_token_ids.get(separator, -1)

    def text(file: TokenFile) -> bytes:
        return tokenizer.decode_bytes(file.tokens[file.tokens != separator_id])

    reads_train = train.num_bytes + val.num_bytes <= LIMIT_BYTES
    total = 2 * (train.num_bytes + val.num_bytes) if reads_train else val.num_bytes
    with reporter.bar(total, "B", "comparing with xz") as bar:
        alone = xz_bits_per_byte(text(val), progress=bar.update)
        if not reads_train:
            return XzBaseline(alone)
        return XzBaseline(alone, xz_bits_per_byte(text(val), after=text(train), progress=bar.update))


def xz_bits_per_byte(
    text: bytes, after: bytes = b"", progress: Callable[[int], object] = lambda num_bytes: None
) -> float:
    """Return the bits per byte of `xz -9e` on a text: a baseline without a language model.

    Some 60 bytes of the format itself are counted: of a short text the number says little.

    Args:
        text: the text.
        after: a text (up to 64 MiB of it) that the compressor has read before: the result is the additional
            size if both are compressed.
        progress: called with the number of bytes after each megabyte of both.
    """

    def num_bytes(data: bytes) -> int:
        compressor, size = lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME), 0
        for start in range(0, len(data), 2**20):
            block = data[start : start + 2**20]
            size += len(compressor.compress(block))
            progress(len(block))
        return size + len(compressor.flush())

    if not after:
        return 8 * num_bytes(text) / len(text)
    with ThreadPoolExecutor(2) as pool:  # compression releases the interpreter lock
        alone, both = pool.map(num_bytes, (after, after + text))
    return 8 * (both - alone) / len(text)
