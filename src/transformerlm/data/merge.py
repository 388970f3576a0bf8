"""Token files of several texts written one after the other into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformerlm.data.origin import MERGED_KEY
from transformerlm.data.sidecar import sidecar_path
from transformerlm.data.token_file import TokenFile, TokenWriter
from transformerlm.errors import ConfigError, DataError, Key
from transformerlm.progress import Reporter, SilentReporter
from transformerlm.storage.files import make_directory

FILES = ("train.memmap", "val.memmap")
PART_TOKENS = 2**22
MAX_SOURCES = 1000
"""Files that the merged sidecar names."""

_PATHS, _OUTPUT = Key("merge", "paths"), Key("merge", "output")


def merge(paths: Sequence[Path], output: Path, reporter: Reporter | None = None) -> list[TokenFile]:
    """Merge token files into one, or folders with train.memmap and, in all or none, val.memmap into a folder.

    The inputs are verified while they are read, and stay as they are.

    Args:
        paths: token files, or folders with a train.memmap each.
        output: where there is nothing yet.

    Returns:
        The merged files.

    Raises:
        ConfigError: files and folders are mixed, or the output exists.
        DataError: a file is missing or damaged, or the files are not of one tokenizer.
        OutputError: the disk is full.
    """
    reporter = reporter or SilentReporter()
    are_folders = {path.is_dir() for path in paths}
    if len(are_folders) > 1:
        raise ConfigError("expected token files or folders, got both", key=_PATHS)
    groups = _groups(paths, output) if are_folders == {True} else {output: [TokenFile.open(p) for p in paths]}
    _check([file for files in groups.values() for file in files])
    for path in groups:
        if path.exists() or sidecar_path(path).exists():
            raise ConfigError(f"expected a path where there is nothing, got {path}", key=_OUTPUT)
    first = next(iter(groups.values()))
    made_from = _made_from(first)
    make_directory(next(iter(groups)).parent)
    return [_write(path, files, made_from, reporter) for path, files in groups.items()]


def _groups(folders: Sequence[Path], output: Path) -> dict[Path, list[TokenFile]]:
    """Return the merged paths and the files that each is made of."""
    counts = [sum((folder / name).exists() for folder in folders) for name in FILES]
    if 0 < counts[1] < len(folders):
        what = f"expected a {FILES[1]} in all {len(folders)} folders or in none, got {counts[1]}"
        raise DataError(what, key=_PATHS)
    names = FILES if counts[1] else FILES[:1]
    return {output / name: [TokenFile.open(folder / name) for folder in folders] for name in names}


def _check(files: Sequence[TokenFile]) -> None:
    """Refuse files whose ids do not mean the same."""
    first = files[0]
    for file in files[1:]:
        if (file.fingerprint, file.vocab_size) != (first.fingerprint, first.vocab_size):
            what = f"expected token files of one tokenizer, but {file.path} is of another than {first.path}"
            raise DataError(what, key=_PATHS)
        separators = [one.made_from.get("[data].document_separator") for one in (first, file)]
        if separators[0] != separators[1]:
            what = f"expected documents that end alike, but {file.path} has {separators[1]!r} between them"
            raise DataError(f"{what} and {first.path} has {separators[0]!r}", key=_PATHS)


def _made_from(files: Sequence[TokenFile]) -> dict[str, Any]:
    """Return what the files have in common, and which they are."""
    first = files[0].made_from
    common = {
        key: value for key, value in first.items() if all(file.made_from.get(key) == value for file in files)
    }
    return {**common, MERGED_KEY: [{"sha256": file.sha256, "num_tokens": file.num_tokens} for file in files]}


def _write(
    path: Path, files: Sequence[TokenFile], made_from: dict[str, Any], reporter: Reporter
) -> TokenFile:
    sources = [source for file in files for source in file.sidecar.sources][:MAX_SOURCES]
    first = files[0]
    total = 2 * sum(file.tokens.nbytes for file in files)
    with (
        reporter.bar(total, "B", f"merging into {path.name}") as bar,
        TokenWriter.create(path, first.vocab_size, first.fingerprint, made_from, sources) as writer,
    ):
        for file in files:
            file.verify(bar.update)
            for start in range(0, file.num_tokens, PART_TOKENS):
                part = file.tokens[start : start + PART_TOKENS]
                writer.write(part)
                bar.update(part.nbytes)
            writer.write(file.tokens[:0], num_documents=file.num_documents, num_bytes=file.num_bytes)
    return TokenFile.open(path)
