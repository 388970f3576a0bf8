"""Bytes of a file in order, block by block: as they are, unpacked from gzip, bzip2, xz or Zstandard, or a
member of an archive.

A compressed file may have several members (frames, streams) one after the other; they are one text, as for
the programs that unpack them. Whatever else is in the file is an error that names its place. Memory does not
grow with the file, nor with what a few bytes of it unpack to.
"""

from __future__ import annotations

import bz2
import functools
import importlib
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

from transformerlm.data.reading.archives import ARCHIVES, Member, Section, find_member
from transformerlm.errors import DataError

BLOCK_BYTES: Final = 2**18
"""Size of a block of text, at most."""
_INPUT_BYTES = 2**16
_XZ_MEMORY: Final = 2**28
"""Memory that unpacking xz may take; `xz -9` needs a quarter."""


class Readable(Protocol):
    """An open file, or a part of one."""

    def read(self, num_bytes: int, /) -> bytes:
        """Return the next bytes, so many at most; b"" at the end."""


class ByteStream(Protocol):
    """Bytes of a file in order."""

    path: str

    @property
    def file_position(self) -> int:
        """Bytes of the file that have been read."""

    def read(self) -> bytes:
        """Return the next block; b"" at the end."""


class Decompressor(Protocol):
    """Decompressor of one member, as the standard library's are."""

    @property
    def eof(self) -> bool:
        """True at the end of the member."""

    @property
    def needs_input(self) -> bool:
        """True if there is no more output without more input."""

    @property
    def unused_data(self) -> bytes:
        """Bytes that follow the member."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return some output."""


class _Zlib:
    """A member of a gzip file, or of a zip, with the interface of the other decompressors."""

    def __init__(self, wbits: int) -> None:
        self._zlib = zlib.decompressobj(wbits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        output = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        # Where the output is full, zlib may hold more of it that needs no input.
        self.needs_input = len(output) < max_length and not self._zlib.unconsumed_tail
        return output


class Codec(NamedTuple):
    """A compressed format."""

    name: str
    suffix: str
    magic: re.Pattern[bytes]
    """How a member begins."""
    decompressor: Callable[[], Decompressor]
    has_padding: bool
    """Zeros may follow a member."""


def _zstd() -> Decompressor:
    module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return importlib.import_module(module).ZstdDecompressor()  # type: ignore[no-any-return]


def _xz() -> Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


CODECS: Final[Mapping[str, Codec]] = {
    codec.suffix[1:]: codec
    for codec in (
        Codec("gzip", ".gz", re.compile(rb"\x1f\x8b\x08"), functools.partial(_Zlib, 31), True),
        Codec("bzip2", ".bz2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.BZ2Decompressor, False),
        Codec("xz", ".xz", re.compile(rb"\xfd7zXZ\0"), _xz, True),
        # A frame of text, or one to be skipped: pzstd begins with such a frame.
        Codec("Zstandard", ".zst", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _zstd, False),
    )
}
"""Suffix of a name, without the dot -> codec."""
_MAGIC_BYTES = 10  # the longest
_CODECS = {**CODECS, "deflate": Codec("deflate", "", re.compile(b""), functools.partial(_Zlib, -15), False)}
"""Codecs of members of archives, too."""


def codec_of(head: bytes) -> str | None:
    """Return the codec of a file, told by its first bytes; None if it is not compressed by one of CODECS."""
    return next((name for name, codec in CODECS.items() if codec.magic.match(head)), None)


def inner_name(name: str) -> str:
    """Return the name that a file has once it is unpacked: `a.txt` for `a.txt.gz`."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.lower() in CODECS else name


@contextmanager
def open_stream(path: str, codec: str, max_bytes: int) -> Iterator[ByteStream]:
    """Open a file to read its bytes in order.

    Args:
        codec: key of CODECS; one of ARCHIVES if the path is that of a member; "" for a plain file.
        max_bytes: number of bytes that a compressed file may unpack to.

    Raises:
        DataError: the file cannot be read, is damaged or ends too early, or unpacks to more than `max_bytes`.
            In the `with` block too.
    """
    with _opened(path, codec) as (file, member):
        inner = member.codec if member else codec
        stream = Unpacked(path, file, _CODECS[inner], max_bytes) if inner else Plain(path, file)
        yield _Checked(stream, member) if member else stream


@contextmanager
def open_raw(path: str, codec: str) -> Iterator[ByteStream]:
    """Open a file to read its bytes as they are, also those of a compressed file or member.

    Args:
        codec: as in `open_stream`.

    Raises:
        DataError: the file cannot be read. In the `with` block too.
    """
    with _opened(path, codec) as (file, _):
        yield Plain(path, file)


@contextmanager
def _opened(path: str, codec: str) -> Iterator[tuple[Readable, Member | None]]:
    """Open a file, or a member in its archive."""
    archive, member = find_member(path) if codec in ARCHIVES else (path, None)
    try:
        file = open(archive, "rb")  # noqa: PTH123, SIM115 - as in `read_bytes`; closed below
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        yield (Section(file, path, codec, member) if member else file), member


class Plain:
    """Bytes of a file as they are."""

    def __init__(self, path: str, file: Readable) -> None:
        self.path, self._file, self.file_position = path, file, 0

    def read(self) -> bytes:
        """Return the next block; b"" at the end."""
        block = _read(self._file, BLOCK_BYTES, self.path)
        self.file_position += len(block)
        return block


class Unpacked:
    """Bytes of a compressed file, unpacked."""

    def __init__(self, path: str, file: Readable, codec: Codec, max_bytes: int) -> None:
        self.path, self._file, self._codec, self._max_bytes = path, file, codec, max_bytes
        self._member: Decompressor | None = None
        self._input = b""
        """Bytes that have been read from the file and not been given to a decompressor."""
        self._given_at = 0
        """Position of the bytes that the decompressor was given last."""
        self.file_position, self.num_bytes, self._num_members = 0, 0, 0

    def read(self) -> bytes:
        """Return the next block; b"" at the end.

        Raises:
            DataError: the file is damaged or ends too early, or unpacks to more than it may.
        """
        while self._member or self._begin_member():
            block = self._decompress()
            if block:
                self.num_bytes += len(block)
                self._check_size()
                return block
        return b""

    def _begin_member(self) -> bool:
        """Begin the next member; return False if there is none."""
        while self._codec.has_padding and self._num_members:
            self._input = self._input.lstrip(b"\0")
            if self._input or not self._read_input():
                break
        while len(self._input) < _MAGIC_BYTES and self._read_input():
            pass
        if not self._input:
            return False
        if not self._codec.magic.match(self._input):
            place = self.file_position - len(self._input)
            what = f"no {self._codec.name} but something else ({self._so_far})"
            raise DataError(f"{self.path}: from byte {place} on it is {what}")
        self._member = self._codec.decompressor()
        return True

    def _decompress(self) -> bytes:
        assert self._member
        if self._member.needs_input:
            if not self._input and not self._read_input():
                what = f"ends at byte {self.file_position}, within its {self._codec.name} data"
                raise DataError(f"{self.path}: {what} ({self._so_far}); it was not copied or written whole")
            self._given_at = self.file_position - len(self._input)
        data, self._input = self._input, b""
        try:
            block = self._member.decompress(data, BLOCK_BYTES)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as error:
            raise self._damaged(error) from None
        except Exception as error:
            if type(error).__name__ != "ZstdError":  # of a module that is imported where it is needed
                raise
            raise self._damaged(error) from None
        if self._member.eof:
            self._input, self._member = self._member.unused_data, None
            self._num_members += 1
        return block

    def _read_input(self) -> bool:
        data = _read(self._file, _INPUT_BYTES, self.path)
        self.file_position += len(data)
        self._input += data
        return bool(data)

    def _damaged(self, error: Exception) -> DataError:
        places = f"between bytes {self._given_at} and {self.file_position}"
        what = f"is damaged {places} ({self._codec.name}: {error}; {self._so_far})"
        return DataError(f"{self.path}: {what}")

    @property
    def _so_far(self) -> str:
        return f"{self.num_bytes:,} bytes of text are before"

    def _check_size(self) -> None:
        if self.num_bytes > self._max_bytes:
            what = f"the first {self.file_position:,} bytes unpack to more than {self._max_bytes:,}"
            raise DataError(f"{self.path}: {what}; --data.max_unpacked_bytes=... allows more")


class _Checked:
    """Bytes of a member of an archive, which have to be those that the archive promises."""

    def __init__(self, stream: ByteStream, member: Member) -> None:
        self._stream, self._member = stream, member
        self.path, self._num_bytes, self._crc = stream.path, 0, 0

    @property
    def file_position(self) -> int:
        """Bytes of the member in the archive that have been read."""
        return self._stream.file_position

    def read(self) -> bytes:
        """Return the next block; b"" at the end.

        Raises:
            DataError: the member is not what the archive says.
        """
        block = self._stream.read()
        self._num_bytes += len(block)
        promised = self._member.text_bytes
        if self._num_bytes > promised or (not block and self._num_bytes < promised):
            got = "more" if self._num_bytes > promised else f"{self._num_bytes:,}"
            what = f"expected {promised:,} bytes, as its archive says, got {got}"
            raise DataError(f"{self.path}: is damaged: {what}")
        if self._member.crc is not None:
            self._crc = zlib.crc32(block, self._crc)
            if not block and self._crc != self._member.crc:
                what = f"its {promised:,} bytes have not the checksum that its archive has of them"
                raise DataError(f"{self.path}: is damaged: {what}")
        return block


def _read(file: Readable, num_bytes: int, path: str) -> bytes:
    try:
        return file.read(num_bytes)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def blocks(stream: ByteStream) -> Iterator[bytes]:
    """Yield the blocks of a stream."""
    while block := stream.read():
        yield block


def read_all(stream: ByteStream, max_bytes: int, what: str) -> bytes:
    """Read a stream to its end.

    Raises:
        DataError: it has more than `max_bytes`; `what` it is says why it is read at once.
    """
    content: list[bytes] = []
    size = 0
    for block in blocks(stream):
        content.append(block)
        size += len(block)
        if size > max_bytes:
            raise DataError(f"{stream.path}: expected {what} of at most {max_bytes:,} bytes, got more")
    return b"".join(content)
