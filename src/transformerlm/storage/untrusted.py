"""Access to files that may come from anybody: only regular files are opened, and their text is escaped."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from transformerlm.errors import CheckpointError, one_line

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""Beginning of the small text that git-lfs puts in a large file's place until the file itself is fetched."""
LFS_ADVICE = "a git-lfs pointer in the file's place; fetch the file itself: git lfs pull"


def open_regular(path: Path, *, follow_link: bool) -> BinaryIO:
    """Open a regular file for reading. Opening a FIFO would wait, and some devices never end.

    Raises:
        CheckpointError: for a folder, a FIFO, a socket or a device; for a link, unless `follow_link`.
        OSError: it cannot be opened.
    """
    flags = ["O_NONBLOCK", "O_BINARY", "O_CLOEXEC"] + ([] if follow_link else ["O_NOFOLLOW"])
    # Checked before, because opening a device can have effects, and after, because it may be another file by
    # then.
    _check_regular(path, path.stat(follow_symlinks=follow_link))
    descriptor = os.open(path, sum((getattr(os, flag, 0) for flag in flags), os.O_RDONLY))
    file = os.fdopen(descriptor, "rb")
    try:
        _check_regular(path, os.fstat(descriptor))
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: expected a file, got a {_kind_of(status)}")


def _kind_of(status: os.stat_result) -> str:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "FIFO"}
    kinds |= {stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(status.st_mode), "special file")


def printable(value: object, max_length: int = 200) -> str:
    """Return `value` as one printable line of at most `max_length` characters, control characters escaped."""
    text = one_line(str(value)[: max_length + 1])
    return text if len(text) <= max_length else f"{text[:max_length]}..."
