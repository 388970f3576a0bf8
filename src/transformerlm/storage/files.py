"""The one way in which this package writes files: whole or not at all.

A file is written under a temporary name beside its target, flushed to the disk, and only then
renamed: a reader sees the old file or the new one, never a part of either. A folder of several
files is committed the same way, by one rename of the folder.

Whoever writes holds a lock on the temporary, which ends with the process: what a killed one has left is
known by that nobody holds it. A disk that is full is said in one line, with what was needed and what is free.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from transformerlm.errors import OutputError
from transformerlm.storage.lock import try_lock

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What systems say of a disk, a quota or a file that takes no more."""
_YOUNG_SECONDS = 60.0


def temporary_beside(path: Path) -> Path:
    """A fresh hidden name in the folder of `path`: `.<name>.tmp.<process id>.<random>`."""
    return path.with_name(f".{path.name}.tmp.{os.getpid()}.{secrets.token_hex(4)}")


_TEMPORARY = re.compile(r"\.(.+)\.tmp\.(\d+)\.[0-9a-f]{8}")


def system_error(error: OSError) -> str:
    """`PATH: Read-only file system`: the path that was to be read or written, never a temporary one."""
    path = error.filename if error.filename2 is None else error.filename2
    what = error.strerror or str(error)
    if not isinstance(path, str | bytes | os.PathLike):
        return f"error: {what}"
    parts = [_TEMPORARY.sub(r"\1", part) for part in Path(os.fsdecode(path)).parts]
    return f"{Path(*parts)}: {what}"


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
    if found is None or path.is_symlink():
        return False
    with contextlib.suppress(OSError), _opened(path) as descriptor:
        # Between being made and being locked it is nobody's for a moment: of a process that runs, not yet
        # dead. Numbers of processes come again, in a container soon, so that a minute later it is.
        is_young = time.time() - path.stat().st_mtime < _YOUNG_SECONDS
        may_be_locked_yet = is_young and int(found[2]) != os.getpid() and _is_running(int(found[2]))
        return not may_be_locked_yet and try_lock(descriptor)
    return False


def _is_running(process: int) -> bool:
    """Whether this machine has such a process."""
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


def make_directory(path: Path) -> None:
    """Make a folder and the folders that it is in, where they are missing, to last."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


@contextlib.contextmanager
def committed_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file for writing that replaces `path` when the block ends without an error.

    Parent folders are made. On an error the temporary is removed and `path` is as it was before.

    Raises:
        OutputError: the disk is full.
    """
    target = Path(path)
    with full_disk_said(target):
        make_directory(target.parent)
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
def committed_directory(path: str | os.PathLike[str], num_bytes: int | None = None) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `path` when the block ends without an error.

    `path` must be an empty folder or none (FileExistsError): a full one cannot be replaced in one step.
    `num_bytes` is what will be written, where that is known.

    Raises:
        OutputError: the disk is full.
    """
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    with full_disk_said(target, num_bytes):
        make_directory(target.parent)
        temporary = temporary_beside(target)
        try:
            temporary.mkdir()
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


@contextlib.contextmanager
def full_disk_said(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """An error that says that the disk is full becomes one line about `path`.

    Raises:
        OutputError: with the bytes that were needed, where `num_bytes` knows them, and those that are free.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        needed = "" if num_bytes is None else f" of the {num_bytes:,} that it needs"
        free = f"{free_bytes(path):,} bytes{needed} are free"
        what = f"cannot be written: {error.strerror}: {free}; what was there before is as it was"
        raise OutputError(f"{path}: {what}") from error


def free_bytes(path: Path) -> int:
    """What a file at `path`, whose folder need not be there yet, can take."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def require_free_bytes(path: Path, num_bytes: int, what: str) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        OutputError: fewer than `num_bytes` are free at `path`; `what` says what they are for.
    """
    free = free_bytes(path)
    if free < num_bytes:
        advice = "make room, or choose a folder on another disk"
        raise OutputError(f"{path}: expected {num_bytes:,} free bytes for {what}, got {free:,}; {advice}")


def write_files(directory: str | os.PathLike[str], members: dict[str, bytes]) -> None:
    """Write several small files into `directory`, in the order given, each whole or not at all.

    Where the folder does not exist yet, or is empty, they appear together, in one step. Where it does, they
    are replaced one by one: put the one by which a reader knows that there is something last.
    """
    target = Path(directory)
    if target.exists() and any(target.iterdir()):
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
