"""The one way in which this package writes files: whole or not at all.

A file is written under a temporary name beside its target, flushed to the disk, and only then
renamed: a reader sees the old file or the new one, never a part of either. A folder of several
files is committed the same way, by one rename of the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def temporary_beside(path: Path) -> Path:
    """A fresh hidden name in the folder of `path`: `.<name>.tmp.<process id>.<random>`."""
    return path.with_name(f".{path.name}.tmp.{os.getpid()}.{secrets.token_hex(4)}")


def sync_directory(directory: Path) -> None:
    """Make renames inside `directory` survive a power failure (where the system can; not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def committed_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file for writing that replaces `path` when the block ends without an error.

    Parent folders are made. On an error the temporary is removed and `path` is as it was before.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


@contextlib.contextmanager
def committed_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `path` when the block ends without an error.

    `path` must not exist yet (FileExistsError): a folder cannot be replaced in one step.
    """
    target = Path(path)
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    temporary.mkdir()
    try:
        yield temporary
        for member in temporary.iterdir():
            _sync_file(member)
        sync_directory(temporary)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(target.parent)


def write_files(directory: str | os.PathLike[str], members: dict[str, bytes]) -> None:
    """Write several small files into `directory`, in the order given, each whole or not at all.

    Where the folder does not exist yet they appear together, in one step. Where it does, they are
    replaced one by one: put the member that vouches for the others (a manifest) last.
    """
    target = Path(directory)
    if target.exists():
        for name, content in members.items():
            with committed_file(target / name) as file:
                file.write(content)
        return
    with committed_directory(target) as temporary:
        for name, content in members.items():
            (temporary / name).write_bytes(content)


def remove_directory(path: Path) -> None:
    """Remove a folder so that no reader ever takes it for a whole one: rename it away first."""
    grave = temporary_beside(path)
    path.rename(grave)
    shutil.rmtree(grave)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
