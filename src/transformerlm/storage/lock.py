"""One process at a time in a folder: a lock that the system lets go of when its holder ends, however it does.

It keeps this package's own commands apart, and nobody else. The file stays behind where the folder does.
Windows has no such locks; there nothing is locked.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from transformerlm.errors import LockedError

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".lock"
"""In the folder: says who holds it, and who held it last."""

_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # some network file systems


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a folder, which is made where there is none, until the block ends or the process does.

    Where nothing else has come into the folder meanwhile, it is removed again.

    Raises:
        LockedError: at once, where another process holds it; names that process and its machine.
    """
    descriptor = _open_locked(directory)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        _remove_if_empty(directory)
        unlock(descriptor)
        os.close(descriptor)


def _open_locked(directory: Path) -> int:
    path = directory / LOCK_FILE
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # Not passed on to programs that this one starts: they may outlive it.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, FileExistsError):  # whoever held the folder has just removed it
            if directory.exists() and not directory.is_dir():
                raise
            continue
        try:
            _acquire(descriptor, directory)
            # Or the file, between our two calls: then this is a lock on nothing.
            if _is_still_there(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):  # of no account, and on Windows not possible
        if [path.name for path in directory.iterdir()] == [LOCK_FILE]:
            (directory / LOCK_FILE).unlink()
            directory.rmdir()


def try_lock(descriptor: int) -> bool:
    """Whether an open file or folder is locked now by whoever has opened it so; others have it where not."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True


def unlock(descriptor: int) -> None:
    """Let go of it, also for a process that was forked from this one meanwhile and still has it open."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _acquire(descriptor: int, directory: Path) -> None:
    if try_lock(descriptor):
        return
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        who = f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):  # it has the lock and has not yet said who it is
        who = "another process"
    raise LockedError(directory, who, directory / LOCK_FILE)
