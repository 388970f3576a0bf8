"""The one way in which this package writes files: whole or not at all.

A file is written under a temporary name beside its target, flushed to the disk, and only then
renamed: a reader sees the old file or the new one, never a part of either. A folder of several
files is committed the same way, by one rename of the folder.

Whoever writes holds a lock on the temporary, which ends with the process: what a killed one has left is
known by that nobody holds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from transformerlm.lock import try_lock


def temporary_beside(path: Path) -> Path:
    """A fresh hidden name in the folder of `path`: `.<name>.tmp.<process id>.<random>`."""
    return path.with_name(f".{path.name}.tmp.{os.getpid()}.{secrets.token_hex(4)}")


_TEMPORARY = re.compile(r"\..+\.tmp\.(\d+)\.[0-9a-f]{8}")


def remove_dead_temporaries(directory: Path) -> list[Path]:
    """Remove what killed processes have left half-written in a folder, and nothing else; returns that."""
    dead = [path for path in directory.glob(".*.tmp.*") if _is_dead_temporary(path)]
    for path in dead:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return dead


def _is_dead_temporary(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found is None or path.is_symlink() or _is_running(int(found[1])):
        return False
    with contextlib.suppress(OSError), _opened(path) as descriptor:
        return try_lock(descriptor)
    return False


def _is_running(process: int) -> bool:
    """Whether this machine has such a process: it may have made its temporary and not locked it yet."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make renames inside `directory` survive a power failure (where the system can; not on Windows)."""
    if os.name == "nt":
        return
    with _opened(directory) as descriptor:
        os.fsync(descriptor)


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
            try_lock(file.fileno())
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
        with _held(temporary):
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
    with _opened(path) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    if os.name == "nt":
        yield
        return
    with _opened(directory) as descriptor:
        try_lock(descriptor)
        yield
