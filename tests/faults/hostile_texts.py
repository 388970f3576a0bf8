"""Hostile texts: archives and tables that are damaged, lie or stand for more than they are."""

import bz2
import gzip
import io
import lzma
import random
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

MIB = 2**20
TEXT = "The cat sat on the mat, isn't it? Äsop, 漢字.\n" * 200
NUM_DAMAGED = 60


def gzipped(content: bytes, level: int = 1) -> bytes:
    return gzip.compress(content, level, mtime=0)


def zipped(content: bytes, flag: int = 0, method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of one text; with the flag of encryption it asks for a password."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("a.txt", content)
    found = bytearray(out.getvalue())
    found[6] |= flag
    found[found.index(b"PK\1\2") + 8] |= flag
    return bytes(found)


def overlapping(number: int, num_bytes: int) -> bytes:
    """A zip whose directory names one member many times and says that each unpacks to so much."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", bytes(2**20))
        (whole,) = archive.filelist
        for index in range(number):
            again = zipfile.ZipInfo(f"{index}.txt")
            again.compress_type, again.CRC = whole.compress_type, whole.CRC
            again.header_offset, again.compress_size = whole.header_offset, whole.compress_size
            again.file_size = num_bytes
            archive.filelist.append(again)
    return out.getvalue()


def tarred(content: bytes) -> bytes:
    """A tar of two texts."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("a.txt", "b.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def table(name: str) -> bytes:
    import pyarrow as pa
    from pyarrow import feather, parquet

    rows = pa.table({"text": TEXT.splitlines(), "id": range(200)})
    out = io.BytesIO()
    if name == "parquet":
        parquet.write_table(rows, out, row_group_size=70)
    elif name == "feather":
        feather.write_feather(rows, out, "lz4", chunksize=70)
    else:
        with pa.ipc.new_stream(out, rows.schema) as file:
            file.write_table(rows, max_chunksize=70)
    return out.getvalue()


def damaged(content: bytes, seed: int) -> bytes:
    """A file cut off, with some bits turned, or with a number that lies."""
    generator = random.Random(seed)
    found = bytearray(content)
    how, place = seed % 4, generator.randrange(len(content))
    if how == 0:
        return bytes(found[:place])
    if how == 1:
        found[place] ^= 1 << generator.randrange(8)
    elif how == 2:
        found[place : place + 4] = generator.choice([b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80"])
    else:
        found[-1 - generator.randrange(min(len(content), 900))] ^= 1 << generator.randrange(8)
    return bytes(found)


def zstd_frame_that_lies() -> bytes:
    """A frame whose header promises 2**60 bytes in a window of 2 GB."""
    return b"\x28\xb5\x2f\xfd\xc0\xa8" + (2**60).to_bytes(8, "little") + b"\x01\0\0"


def bomb(command: list[str], num_bytes: int) -> bytes:
    """Letters without a line break."""
    letters = f"head -c {num_bytes} /dev/zero | tr '\\0' a | {' '.join(command)}"
    return subprocess.run(["sh", "-c", letters], stdout=subprocess.PIPE, check=True).stdout


REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "lines without an end": ("a.jsonl.bz2", partial(bomb, ["bzip2"], 100 * MIB)),
    "a gzip in a gzip": ("a.gz", lambda: gzipped(gzipped(TEXT.encode()))),
    "a gzip of a zip": ("a.gz", lambda: gzipped(zipped(TEXT.encode()))),
    "half a gzip": ("a.txt.gz", lambda: gzipped(random.Random(0).randbytes(9).hex().encode() * 999)[:-9]),
    "a gzip and something else": ("a.txt.gz", lambda: gzipped(TEXT.encode()) + b"-----"),
    "garbage between": ("a.txt.xz", lambda: lzma.compress(b"one") + b"\1\2\3\4" + lzma.compress(b"two")),
    "only the magic": ("a.txt.gz", lambda: b"\x1f\x8b\x08"),
    "nothing in a gzip's name": ("a.txt.gz", lambda: b""),
    "text in a gzip's name": ("a.txt.gz", TEXT.encode),
    "a bzip2 with a wrong checksum": ("a.bz2", lambda: bz2.compress(b"x")[:-6] + b"\xff" * 6),
    "a frame that lies": ("a.zst", zstd_frame_that_lies),
    "a zip under a password": ("a.zip", lambda: zipped(TEXT.encode(), flag=1)),
    "a zip that is no zip": ("a.zip", lambda: b"PK\x03\x04" + bytes(100)),
    "a zip of what unpacks to too much": ("a.zip", lambda: overlapping(40, 2**36)),
    "half a tar": ("a.tar", lambda: tarred(TEXT.encode())[:4000]),
    "a book under a password": ("a.epub", lambda: zipped(TEXT.encode(), flag=1)),
    "a Parquet of nothing": ("a.parquet", lambda: b"PAR1"),
    "a Parquet whose footer lies": ("a.parquet", lambda: b"PAR1" + b"\xff\xff\xff\x7fPAR1"),
    "an Arrow of nothing": ("a.arrow", lambda: b"ARROW1\0\0"),
    "an Arrow stream that lies": ("a.arrow", lambda: b"\xff\xff\xff\xff\xf8\xff\x7f\0" + bytes(100)),
    "a CSV of one field": ("a.csv", lambda: b'text\n"' + b"x,\n" * (30 * MIB)),
    "a CSV of one line": ("a.csv", lambda: b"text\n" + b"x" * (70 * MIB)),
}
"""What it is -> name of the file and its content."""

DAMAGED: dict[str, Callable[[], bytes]] = {
    **{f"a.{name}": partial(table, name) for name in ("parquet", "feather", "arrow")},
    "a.txt.gz": lambda: gzipped(TEXT.encode()),
    "a.txt.xz": lambda: lzma.compress(TEXT.encode()),
    "a.zip": lambda: zipped(TEXT.encode(), method=zipfile.ZIP_DEFLATED),
    "a.tar": lambda: tarred(TEXT.encode()[:2000]),
}
"""Name of a file -> its content while it is whole."""


def write(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    return folder / name
