"""Jobs of the tokenizer benchmark: texts, and the vocabulary that all contestants use."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from benchmarking.pattern_families import FAMILIES
from benchmarking.timing import Run

SPECIAL_TOKENS = ["<|endoftext|>"]


@dataclass(frozen=True)
class Job:
    """Job of a contestant: text, sizes, vocabulary."""

    path: Path
    """The text."""
    num_bytes: int
    """Bytes of the text to use, from its beginning (training uses all)."""
    document_bytes: int
    """Approximate size of a document, which ends at a line end."""
    vocabulary_dir: Path
    """vocab.json and merges.txt of the tokenizer."""
    vocab_size: int
    """Ids that training learns."""
    num_threads: int
    """Number of threads or processes in works that may use all cores."""
    scratch_dir: Path
    """Folder for files."""
    family: str = "gpt2"
    """Whose pre-tokenizer divides the text: a key of `FAMILIES`."""

    def text(self) -> str:
        """Return the whole text."""
        with self.path.open("rb") as file:
            return file.read(self.num_bytes).decode(errors="ignore")

    def documents(self) -> list[str]:
        """Return the text in documents."""
        return list(documents(io.BytesIO(self.text().encode()), self.document_bytes))

    def stored_documents(self) -> Iterator[str]:
        """Return the documents, read while they are consumed."""
        with self.path.open("rb") as file:
            yield from documents(file, self.document_bytes)


def documents(stream: BinaryIO, num_bytes: int) -> Iterator[str]:
    """Yield a text in documents of about `num_bytes`, cut at line ends."""
    while lines := stream.readlines(num_bytes):
        yield b"".join(lines).decode()


def make_vocabulary(job: Job, vocab_path: str | None, merges_path: str | None) -> Run:
    """Copy a vocabulary's files to `job.vocabulary_dir`; if there are none, train one on the text."""
    from transformerlm.tokenizer import Tokenizer, kernel_library, train_bpe_from_texts

    # Measure the kernels even for a text that is too small to make compiling them worthwhile.
    if kernel_library.should_use(math.inf):
        kernel_library.kernels()
    if vocab_path and merges_path:
        tokenizer = Tokenizer.from_files(vocab_path, merges_path, SPECIAL_TOKENS)
    else:
        pattern = FAMILIES[job.family]
        learned = train_bpe_from_texts(job.documents(), job.vocab_size, SPECIAL_TOKENS, pattern=pattern)
        tokenizer = Tokenizer(*learned, SPECIAL_TOKENS)
    return lambda: tokenizer.save(job.vocabulary_dir)


def empty_directory(path: Path) -> Path:
    """Return `path`, made an empty folder."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def run_module(module: str, arguments: list[str], output: Path) -> Path:
    """Run a module in a fresh interpreter, and return the file that it has written."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module}: {done.stderr}")
    return output
