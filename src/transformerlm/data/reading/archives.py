"""Members of archives, .zip and .tar: where each lies in the archive's file.

A member has a path like that of a file in a folder, `books.zip/old/a.txt`. The bytes of each can be read
without those of the others, so a member is read as a compressed file is. That is not so in a tar which is
compressed as a whole: such a file is not read.
"""

from __future__ import annotations

import functools
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from transformerlm.errors import DataError, one_line

ARCHIVES: Final = ("zip", "tar")
"""Formats, each the suffix of a name without its dot."""
_ZIP_BEGINNINGS = (b"PK\x03\x04", b"PK\x05\x06")
_ZIP_HEADER = struct.Struct("<4s22xHH")
"""Header before a member: its magic, and the lengths of name and extra fields that follow."""
_METHODS = {zipfile.ZIP_STORED: "", zipfile.ZIP_DEFLATED: "deflate", zipfile.ZIP_BZIP2: "bz2", 93: "zst"}
_NO_ARCHIVE = (
    *(zipfile.BadZipFile, tarfile.TarError, struct.error, EOFError, OSError),
    *(ValueError, LookupError, NotImplementedError, OverflowError),
)
"""What the standard library's readers raise for archives that are damaged, in whatever way."""


class Member(NamedTuple):
    """A member of an archive."""

    name: str
    start: int
    """Position of its header (.zip), or of its bytes (.tar), in the archive."""
    num_bytes: int
    """Size in the archive."""
    text_bytes: int
    """Size when it is unpacked."""
    codec: str = ""
    """How it is compressed: "deflate", or a key of `streams.CODECS`."""
    crc: int | None = None
    """CRC-32 of what is unpacked, if the archive has it."""
    obstacle: str = ""
    """Key of `kinds.REASONS` if it is no file whose bytes can be read."""


def archive_format(path: str) -> str:
    """Return the format of an archive, told by its name and beginning; "" for other files.

    Raises:
        DataError: the file cannot be read.
    """
    suffix = path[-4:].lower()
    if suffix not in (".zip", ".tar"):
        return ""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as in `read_bytes`
            head = file.read(tarfile.BLOCKSIZE)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if suffix == ".zip":
        return "zip" if head.startswith(_ZIP_BEGINNINGS) else ""
    return "tar" if _is_tar(head) else ""


def members(path: str) -> Mapping[str, Member]:
    """Return {name: member} of an archive; of several with one name the last, as when they are unpacked.

    Raises:
        DataError: the archive is damaged or cannot be read.
    """
    status = _status(path)
    return _members(path, status.st_size, status.st_mtime_ns)


def archive_of(path: str) -> str:
    """Return the path of the archive in which the member of this path lies.

    Raises:
        DataError: there is no such archive.
    """
    # Nothing but a file can stand in the middle of the path, for a folder would have no member.
    found = next((str(parent) for parent in Path(path).parents if parent.is_file()), None)
    if not found:
        raise DataError(f"{path}: cannot be read: the archive is gone")
    return found


def find_member(path: str) -> tuple[str, Member]:
    """Return the archive in which the member of this path lies, and the member.

    Raises:
        DataError: there is none.
    """
    archive = archive_of(path)
    member = members(archive).get(path[len(archive) + 1 :])
    if member is None:
        raise DataError(f"{path}: has been removed from its archive while it was being read; start again")
    return archive, member


class Section:
    """Bytes of a member as they lie in an open archive, read in order.

    Raises:
        DataError: no member begins there.
    """

    def __init__(self, file: BinaryIO, path: str, codec: str, member: Member) -> None:
        file.seek(max(0, member.start))
        if codec == "zip":
            header = file.read(_ZIP_HEADER.size) if member.start >= 0 else b""
            if len(header) < _ZIP_HEADER.size or not header.startswith(_ZIP_BEGINNINGS[0]):
                what = f"no member begins at byte {member.start} of its archive, where one should"
                raise DataError(f"{path}: is damaged: {what}")
            _, name_length, extra_length = _ZIP_HEADER.unpack(header)
            file.seek(name_length + extra_length, os.SEEK_CUR)
        self._file, self._left = file, member.num_bytes

    def read(self, num_bytes: int) -> bytes:
        """Return the next bytes, so many at most; b"" at the end."""
        data = self._file.read(min(num_bytes, self._left))
        self._left -= len(data)
        return data


@functools.lru_cache(maxsize=4)
def _members(path: str, num_bytes: int, modified: int) -> Mapping[str, Member]:
    """Return the members of an archive; read once while its size and time are the same."""
    found = _zip_members if path.lower().endswith(".zip") else _tar_members
    try:
        return {member.name: member for member in found(path)}
    except _NO_ARCHIVE as error:
        if isinstance(error, DataError):
            raise
        what = f"{one_line(str(error))[:200]}; it was not copied or written whole"
        raise DataError(f"{path}: is damaged within its {num_bytes:,} bytes: {what}") from None


def _zip_members(path: str) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            mode = info.external_attr >> 16
            is_readable = info.compress_type in _METHODS and not info.flag_bits & 1  # 1: a password is needed
            yield Member(
                name=info.filename,
                start=info.header_offset,
                num_bytes=info.compress_size,
                text_bytes=info.file_size,
                codec=_METHODS.get(info.compress_type, ""),
                crc=info.CRC,
                obstacle="link" if stat.S_ISLNK(mode) else "" if is_readable else "member",
            )


def _tar_members(path: str) -> Iterator[Member]:
    with tarfile.open(path, "r:") as archive:
        before = -1
        while (info := archive.next()) is not None:
            if info.offset <= before:
                raise tarfile.ReadError(f"the header at byte {info.offset} lies about its member's size")
            before = info.offset
            archive.members = []  # type: ignore[attr-defined]  # of many; tarfile would keep them
            if not info.isdir():
                yield _tar_member(info)
        _check_end(path, archive.offset)


def _tar_member(info: tarfile.TarInfo) -> Member:
    special = "link" if info.issym() or info.islnk() else "special"
    obstacle = "member" if info.issparse() else "" if info.isreg() else special
    return Member(info.name, info.offset_data, info.size, info.size, obstacle=obstacle)


def _check_end(path: str, position: int) -> None:
    """Check that a tar ends where no more member was found: tarfile ends at what is no header, too."""
    with open(path, "rb") as file:  # noqa: PTH123 - as in `read_bytes`
        file.seek(position)
        end = file.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        what = f"no member and no end of the archive at byte {position}"
        raise DataError(f"{path}: is damaged: {what}; it was not copied or written whole")


def _is_tar(head: bytes) -> bool:
    """Return True if a file begins with the header of a member, or with the end of an empty tar."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return True
    except tarfile.HeaderError:
        return False
    return True


def _status(path: str) -> os.stat_result:
    try:
        return Path(path).stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
