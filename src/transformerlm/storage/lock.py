"""Advisory locks on folders: one process of this package at a time.

The system releases a lock (flock) when its holder ends, however it ends: a killed holder never blocks. The
lock file stays behind in a folder that is not empty. Some network file systems (Lustre, some mounts of NFS)
refuse locks: a warning says so, and the work goes on. Windows has no such locks; nothing is locked there.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from transformerlm.errors import LockedError

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".lock"
"""Name of the lock file inside the folder; it names the process that holds it or held it last."""

MAX_ATTEMPTS = 1000
"""Attempts to make a folder that others may be removing; in some places, such as /proc, none can be made."""

PROBE_SECONDS = 0.1
"""Longest time that a probe (`is_locked`) of a busy machine is taken to hold a lock."""

_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # some network file systems


@contextlib.contextmanager
def locked(directory: Path, warn: Callable[[str], object] = lambda line: None) -> Iterator[None]:
    """Hold a folder's lock until the block ends or the process does; a missing folder is made.

    A folder with nothing in it but the lock file is removed again at the end.

    Args:
        warn: called with a line where the file system has no locks: the folder is not protected then.

    Raises:
        LockedError: another process holds it. Raised at once, and names that process and its machine.
    """
    descriptor = _open_locked(directory, warn)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        _remove_if_empty(directory)
        unlock(descriptor)
        os.close(descriptor)


def is_locked(directory: Path) -> bool | None:
    """Return True if a process holds the folder's lock, False if none does; None if the system does not tell.

    For a moment the lock is shared, which neither another probe nor `locked` takes for a holder.
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return None
    try:
        is_free = try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)
    return None if is_free is None else not is_free


def _open_locked(directory: Path, warn: Callable[[str], object]) -> int:
    path = directory / LOCK_FILE
    for attempt in itertools.count(1):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # CLOEXEC: programs that this one starts may outlive it and must not keep the lock.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, FileExistsError):  # its last holder has just removed the folder
            if attempt == MAX_ATTEMPTS or (directory.exists() and not directory.is_dir()):
                raise
            continue
        try:
            _acquire(descriptor, directory, warn)
            # The last holder may have removed the file between open and lock: nobody else would see this one.
            if _is_same_file(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise AssertionError("counted without end")


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):  # tidying up only, and not possible on Windows
        if [path.name for path in directory.iterdir()] == [LOCK_FILE]:
            (directory / LOCK_FILE).unlink()
            directory.rmdir()


def try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock an open file or folder without waiting.

    Args:
        shared: with others that also share it.

    Returns:
        True: locked. False: another open descriptor has the lock. None: the file system has no locks.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return None
    return True


def unlock(descriptor: int) -> None:
    """Release the lock, also for processes forked from this one that still have the descriptor open."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _acquire(descriptor: int, directory: Path, warn: Callable[[str], object]) -> None:
    got = _lock_despite_probes(descriptor)
    if got is None:
        warn(
            f"warning: {directory}: cannot be locked on this file system; a second process that writes there "
            "would not be noticed, and could spoil the files of both"
        )
    if got is not False:
        return
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        who = f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):  # it has not written its id yet
        who = "another process"
    raise LockedError(directory, who, directory / LOCK_FILE)


def _lock_despite_probes(descriptor: int) -> bool | None:
    """Return `try_lock(descriptor)`, repeated while it may be a probe that has the lock."""
    end = time.monotonic() + PROBE_SECONDS
    while (got := try_lock(descriptor)) is False and time.monotonic() < end:
        time.sleep(PROBE_SECONDS / 20)
    return got
