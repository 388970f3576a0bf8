"""Compressed files, made by the programs that people have."""

import shutil
import subprocess

import pytest

COMMANDS = {
    "gz": ["gzip", "-c"],
    "bz2": ["bzip2", "-c"],
    "xz": ["xz", "-c"],
    "zst": ["zstd", "-q", "-c"],
}
"""Suffix -> command that compresses its standard input."""

EACH = [
    pytest.param(codec, marks=pytest.mark.skipif(not shutil.which(command[0]), reason=f"no {command[0]}"))
    for codec, command in COMMANDS.items()
]


def packed(content: bytes, codec: str, *options: str) -> bytes:
    """Compress some bytes."""
    command = [*COMMANDS[codec], *options]
    return subprocess.run(command, input=content, stdout=subprocess.PIPE, check=True).stdout
