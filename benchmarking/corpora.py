"""Texts that benchmarks run on, written to files so that every contestant reads the same bytes.

Nothing is downloaded: a corpus is a file, a folder, or the Python source that is on the machine anyway.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import string
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PYTHON_MACHINE = "python-machine"
"""Stands for the Python source of this machine: see `python_sources`."""
TEST_DATA = "TRANSFORMERLM_TEST_DATA"
"""Environment variable that names the folder of data outside the repository."""


def outside_path(path: str) -> str:
    """Return `path` with that folder in place of `{test_data}`; unchanged where the variable is not set."""
    return path.replace("{test_data}", os.environ.get(TEST_DATA) or "{test_data}")


@dataclass(frozen=True)
class Corpus:
    """A text in a UTF-8 file of its own."""

    name: str
    path: Path
    num_bytes: int


def gather(name: str, max_bytes: int, directory: Path, extra_source_dirs: Sequence[str] = ()) -> Corpus:
    """Write the first `max_bytes` of a corpus into `directory`; a missing one has no bytes.

    Args:
        name: a file, a folder (`{test_data}` as in `outside_path`), or PYTHON_MACHINE.
        extra_source_dirs: where PYTHON_MACHINE looks last.
    """
    if name == PYTHON_MACHINE:
        return write(name, python_sources(extra_source_dirs), max_bytes, directory)
    root = Path(outside_path(name))
    paths = sorted(root.rglob("*")) if root.is_dir() else [root]
    return write(name, (path.read_bytes() for path in paths if path.is_file()), max_bytes, directory)


def write(name: str, contents: Iterable[bytes], max_bytes: int, directory: Path) -> Corpus:
    """Write `contents` one after the other until there are `max_bytes`, less what would cut a character."""
    path = directory / f"{hashlib.sha256(name.encode()).hexdigest()[:8]}.txt"
    left = max_bytes
    with path.open("wb") as file:
        for content in contents:
            part = content[:left]
            file.write(part.decode(errors="ignore").encode())
            left -= len(part)
            if not left:
                break
    return Corpus(name, path, path.stat().st_size)


def python_sources(extra_source_dirs: Sequence[str] = ()) -> Iterator[bytes]:
    """Every .py file of the standard library, then of this environment's packages, then of other folders.

    Each folder in sorted order; a file that is not UTF-8 or whose content came before is passed over.
    """
    paths = sysconfig.get_paths()
    roots = [paths["stdlib"], paths["purelib"], paths["platlib"], *extra_source_dirs]
    seen: set[bytes] = set()
    for path in itertools.chain.from_iterable(python_files(Path(root).expanduser()) for root in roots):
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        if digest not in seen and is_utf8(content):
            seen.add(digest)
            yield content


def python_files(root: Path) -> Iterator[Path]:
    """The .py files below `root`; packages of another environment that lies within it are not its own."""
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.relative_to(root).parts and path.is_file():
            yield path


def is_utf8(content: bytes) -> bool:
    """Return True if `content` is UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def identical_letters(num_bytes: int) -> bytes:
    """Return a word of one repeated letter."""
    return b"a" * num_bytes


def random_letters(num_bytes: int) -> bytes:
    """Return a word of random letters, always the same."""
    return "".join(random.Random(0).choices(string.ascii_lowercase, k=num_bytes)).encode()
