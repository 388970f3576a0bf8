"""Atomic writes of files and folders: all files of this package are written whole or not at all.

A file is written under a temporary name beside its target, flushed to the disk (fsync), and only then
renamed: a reader sees the old file or the new one, never a part of either. A folder of several files is
committed in the same way, by one rename of the folder.

The writer holds a lock on the temporary, which the system releases when the process ends. A temporary that
nobody has locked was left by a killed process, and the next start removes it. A full disk is reported in one
line with the bytes that were needed and those that are free.
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

DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers for a disk, a quota or a file that cannot grow any more."""
_YOUNG_SECONDS = 60.0
"""Age up to which a temporary whose process runs may not be locked yet."""
_OLD_SECONDS = 24 * 3600.0
"""Age from which a temporary is dead where the file system has no locks."""
_TEMPORARY = re.compile(r"\.(.+)\.tmp\.(\d+)\.[0-9a-f]{8}")


def temporary_beside(path: Path) -> Path:
    """Return a fresh hidden name in the folder of `path`: `.<name>.tmp.<process id>.<random>`."""
    return path.with_name(f".{path.name}.tmp.{os.getpid()}.{secrets.token_hex(4)}")


def system_error(error: OSError) -> str:
    """Return `PATH: Read-only file system`, where temporary names are replaced by those of their targets."""
    path = error.filename if error.filename2 is None else error.filename2
    what = error.strerror or str(error)
    if not isinstance(path, str | bytes | os.PathLike):
        return f"error: {what}"
    parts = [_TEMPORARY.sub(r"\1", part) for part in Path(os.fsdecode(path)).parts]
    return f"{Path(*parts)}: {what}"


def remove_dead_temporaries(directory: Path) -> list[Path]:
    """Remove the temporaries of killed processes from a folder, and nothing else; return their paths."""
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
        # A temporary is made and then locked. In between it is not dead if its process runs. Process ids are
        # reused, in a container soon, so that this is believed for a minute only.
        age = time.time() - path.stat().st_mtime
        if age < _YOUNG_SECONDS and int(found[2]) != os.getpid() and _is_running(int(found[2])):
            return False
        is_free = try_lock(descriptor)
        # Without locks nothing tells whether its process, perhaps on another machine, still writes.
        return age > _OLD_SECONDS if is_free is None else is_free
    return False


def _is_running(process: int) -> bool:
    """Return True if this machine has a process of that id."""
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
    """Flush a folder, so that renames inside it survive a power failure (not on Windows)."""
    if os.name == "nt":
        return
    with _opened(directory) as descriptor:
        os.fsync(descriptor)


def make_directory(path: Path) -> None:
    """Make a folder and its missing parents, and flush each to the disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


@contextlib.contextmanager
def committed_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file for writing that replaces `path` when the block ends without an error.

    Missing parent folders are made. On an error the temporary is removed and `path` stays as it was.

    Raises:
        OutputError: the disk is full.
    """
    target = Path(path)
    with full_disk_as_output_error(target):
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

    Args:
        path: must not exist or be an empty folder: a full one cannot be replaced in one step.
        num_bytes: what will be written, if known, for the message about a full disk.

    Raises:
        FileExistsError: something is at `path`.
        OutputError: the disk is full.
    """
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    with full_disk_as_output_error(target, num_bytes):
        make_directory(target.parent)
        temporary = temporary_beside(target)
        try:
            temporary.mkdir()
            with _locked_temporary(temporary):
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
def full_disk_as_output_error(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Context manager that turns the system's error about a full disk into an OutputError about `path`.

    Raises:
        OutputError: with the free bytes and, if `num_bytes` is given, those that were needed.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        needed = "" if num_bytes is None else f" of the {num_bytes:,} that it needs"
        free = f"{free_bytes(path):,} bytes{needed} are free"
        what = f"cannot be written: {error.strerror}: {free}; what was there before is as it was"
        raise OutputError(f"{path}: {what}") from error


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk on which `path` will be; its folder need not exist yet."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def require_free_bytes(path: Path, num_bytes: int, what: str) -> None:
    """Refuse to start work that would fill the disk; `what` says in the message what the bytes are for.

    Raises:
        OutputError: fewer than `num_bytes` are free at `path`.
    """
    free = free_bytes(path)
    if free < num_bytes:
        advice = "make room, or choose a folder on another disk"
        raise OutputError(f"{path}: expected {num_bytes:,} free bytes for {what}, got {free:,}; {advice}")


def write_files(directory: str | os.PathLike[str], members: dict[str, bytes]) -> None:
    """Write several small files (name -> content) into `directory`, each whole or not at all.

    If the folder is missing or empty, all appear together, in one step. Otherwise they are replaced one by
    one in the order given: put the file last by which a reader recognises the whole.
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
    """Remove a folder after renaming it to a temporary name, so that no reader sees a part of it."""
    temporary = temporary_beside(path)
    path.rename(temporary)
    shutil.rmtree(temporary)


def _sync_file(path: Path) -> None:
    with _opened(path) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def _locked_temporary(directory: Path) -> Iterator[None]:
    if os.name == "nt":
        yield
        return
    with _opened(directory) as descriptor:
        try_lock(descriptor)
        yield
