"""Hostile checkpoint files: pickles, bombs, and safetensors headers that lie."""

import functools
import gzip
import io
import json
import pickle
import random
import tarfile
import zipfile

import numpy as np
import torch

MIB = 2**20


class Evil:
    """What a pickle of it calls when it is loaded."""

    def __reduce__(self):
        return (open, ("owned", "w"))


def file_of(header, data: bytes = b"") -> bytes:
    """A safetensors file with this header, JSON or what is to be in its place."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


def tensors(*entries, tree='{"tensor": "t0"}', **more) -> dict:
    """A header of tensors, each (dtype, shape, offsets)."""
    header = {"__metadata__": {"tree": tree}}
    for number, (dtype, shape, offsets) in enumerate(entries):
        header[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return header | more


def saved_by_torch(zipped: bool) -> bytes:
    out = io.BytesIO()
    torch.save({"model": Evil(), "w": torch.ones(3)}, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def tar_of_pickles() -> bytes:
    out, content = io.BytesIO(), pickle.dumps(Evil())
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def numpy_objects(save) -> bytes:
    out = io.BytesIO()
    save(out, np.array([Evil()], dtype=object))
    return out.getvalue()


def zip_bomb() -> bytes:
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("data.pkl", "w") as member,
    ):
        for _ in range(256):
            member.write(bytes(MIB))
    return out.getvalue()


def deep(left: str, right: str, depth: int = 100_000) -> str:
    return left * depth + "0" + right * depth


FOUR = bytes(4)
HOSTILE_FILES = {
    "a pickle in a zip": functools.partial(saved_by_torch, True),
    "a legacy pickle": functools.partial(saved_by_torch, False),
    "pickles in a tar": tar_of_pickles,
    "a bare pickle": lambda: pickle.dumps(Evil()),
    "numpy objects": functools.partial(numpy_objects, lambda out, a: np.save(out, a, allow_pickle=True)),
    "numpy objects in a zip": functools.partial(numpy_objects, np.savez),
    "a zip bomb": zip_bomb,
    "zeros in a gzip": lambda: gzip.compress(bytes(256 * MIB), compresslevel=1),
    "nothing": lambda: b"",
    "seven bytes": lambda: bytes(7),
    "zeros": lambda: bytes(1000),
    "noise": lambda: random.Random(0).randbytes(10_000),
    "a header of 2^63 bytes": lambda: (2**63).to_bytes(8, "little") + b"{}",
    "a header of 2^64 - 1 bytes": lambda: b"\xff" * 8 + b"{}",
    "a header longer than the file": lambda: (1000).to_bytes(8, "little") + b"{}",
    "a header of 50 MB": lambda: file_of(b'{"a":' + b" " * 50 * MIB + b"1}"),
    "a header of blanks": lambda: file_of(b" " * 4 * MIB),
    "a header in UTF-16": lambda: file_of(json.dumps(tensors(("F32", [1], [0, 4]))).encode("utf-16"), FOUR),
    "a header that is a list": lambda: file_of(b"[1]"),
    "overlapping tensors": lambda: file_of(tensors(("F32", [1], [0, 4]), ("F32", [1], [0, 4])), FOUR),
    "tensors with a hole between": lambda: file_of(tensors(("U8", [1], [0, 1]), ("U8", [1], [3, 4])), FOUR),
    "a tensor behind the end": lambda: file_of(tensors(("F32", [2], [0, 8])), FOUR),
    "bytes of no tensor": lambda: file_of(tensors(("U8", [1], [0, 1])), FOUR),
    "an end before the beginning": lambda: file_of(tensors(("F32", [1], [4, 0])), FOUR),
    "a tensor of 2^63 numbers": lambda: file_of(tensors(("F32", [2**63], [0, 4])), FOUR),
    "sizes that overflow to 4 bytes": lambda: file_of(tensors(("F32", [2**62, 4, 1], [0, 4])), FOUR),
    "2^62 times nothing": lambda: file_of(tensors(("F32", [0, 2**62, 2**62], [0, 0]))),
    "a negative size": lambda: file_of(tensors(("F32", [-1], [0, 4])), FOUR),
    "two negative sizes": lambda: file_of(tensors(("F32", [-1, -1], [0, 4])), FOUR),
    "a size of 1.0": lambda: file_of(tensors(("F32", [1.0], [0, 4])), FOUR),
    "a size that is true": lambda: file_of(tensors(("F32", [True], [0, 4])), FOUR),
    "a size that is not a number": lambda: file_of(tensors(("F32", [float("nan")], [0, 4])), FOUR),
    "thousands of sizes": lambda: file_of(tensors(("U8", [1] * 100_000, [0, 1])), b"\0"),
    "sizes whose product takes minutes": lambda: file_of(
        tensors(("U8", [int("9" * 4000)] * 900, [0, 1])), b"\0"
    ),
    "a number with a million digits": lambda: file_of(b'{"a":' + b"9" * MIB + b"}"),
    "an unknown dtype": lambda: file_of(tensors(("PY_OBJECT", [1], [0, 4])), FOUR),
    "a dtype that is a list": lambda: file_of(tensors((["F32"], [1], [0, 4])), FOUR),
    "a name that is there twice": lambda: file_of(
        json.dumps(tensors(("F32", [1], [0, 4]))).encode().replace(b"__metadata__", b"t0"), FOUR
    ),
    "a truth that is 7": lambda: file_of(tensors(("BOOL", [1], [0, 1])), b"\7"),
    "metadata that are no text": lambda: file_of({"__metadata__": {"tree": {"list": []}}}),
    "no metadata": lambda: file_of({"t0": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"\0"),
    "a deep header of lists": lambda: file_of(('{"a":' + deep("[", "]") + "}").encode()),
    "a deep header of objects": lambda: file_of(deep('{"a":', "}").encode()),
    "a deep tree": lambda: file_of(tensors(tree=deep('{"list": [', "]}", 1000))),
    "a tree of a million lists": lambda: file_of(tensors(tree="[" + "[]," * (MIB * 5 // 4) + "0]")),
    "a tree of a million objects": lambda: file_of(tensors(tree="[" + "{}," * (MIB * 5 // 4) + "0]")),
    "a tree of a million numbers": lambda: file_of(tensors(tree='{"list": [' + "1.5," * (MIB - 100) + "0]}")),
    "a tree of missing tensors": lambda: file_of(tensors(tree='{"tensor": "nowhere"}')),
    "a tree with a key twice": lambda: file_of(tensors(tree='{"dict": [["a", 1], ["a", 2]]}')),
    "a tree with a list as a key": lambda: file_of(tensors(tree='{"dict": [[[], 1]]}')),
    "a tree of another kind": lambda: file_of(tensors(tree='{"__reduce__": ["os.system", ["true"]]}')),
    "twenty thousand tensors": lambda: file_of(
        tensors(*(("U8", [], [n, n + 1]) for n in range(20_000))), bytes(20_000)
    ),
    "names of files elsewhere": lambda: file_of(
        {
            "__metadata__": {
                "tree": '{"dict": [["../owned", {"tensor": "../owned"}], ["x", {"tensor": "/o"}]]}'
            },
            "../owned": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "/o": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
        },
        b"\0\0",
    ),
    "a name with orders to a terminal": lambda: file_of(tensors(("U8", [1], [0, 9]), **{"\x1b[2J\n": 1})),
}


@functools.cache
def content_of(name: str) -> bytes:
    return HOSTILE_FILES[name]()
