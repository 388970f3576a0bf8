"""Token files while they are made, so that whatever ends the process costs no more than a little work.

They grow in the hidden folder `.unfinished` of the folder that they are for:

    train.memmap, val.memmap            what is behind the recorded lengths counts for nothing
    progress.json                       what they are made from, and how far that has come
    train.memmap.json, val.memmap.json  when all is encoded

Progress is recorded when what it speaks of is on the disk. The next start goes on from there where text,
settings and tokenizer are the same; else it removes what is there. When progress says that all is
complete, the members only have to be moved to their places, and who finds it so does that first.

What ends with an error, one in the text included, is treated no differently from what is killed, but that
nothing stays behind where nothing was recorded yet.

Who calls this holds the folder (`turns.py`).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from transformerlm.data.documents import TRAIN, VAL, Split
from transformerlm.data.encoded import Encoded
from transformerlm.data.sidecar import UNFINISHED, Sidecar, sidecar_path
from transformerlm.data.token_file import TokenWriter, Written
from transformerlm.errors import DataError, OutputError
from transformerlm.progress import Reporter
from transformerlm.storage.checksummed_json import RecordFormat, dump, load, members_of
from transformerlm.storage.files import (
    committed_file,
    full_disk_as_output_error,
    make_directory,
    remove_dead_temporaries,
    sync_directory,
)

PROGRESS_FILE = "progress.json"
FORMAT_VERSION = 1
COMMIT_BYTES = 32 * 2**20
"""Bytes of the corpus after which progress is recorded: what is lost at most, with what workers hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far it has come; the members are those of the JSON object."""

    format_version: int = FORMAT_VERSION
    recipe: dict[str, Any]
    """All that decides the result and how it is divided into work."""
    num_items: int = 0
    """Items of work done."""
    num_read: int = 0
    """Bytes of the corpus that those are."""
    parts: dict[str, Written] = field(default_factory=dict)
    """Of each split."""
    is_complete: bool = False

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The progress in `directory/.unfinished`; None where none is recorded, or it is damaged."""
        try:
            values = load((directory / UNFINISHED / PROGRESS_FILE).read_bytes(), PROGRESS_FORMAT)
            parts = {split: Written(**part) for split, part in values.pop("parts").items()}
            return cls(**values, parts=parts)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, directory: Path) -> None:
        """Record it, whole or not at all."""
        with committed_file(directory / UNFINISHED / PROGRESS_FILE) as file:
            file.write(dump(asdict(self)))


PROGRESS_FORMAT = RecordFormat(version=FORMAT_VERSION, checksum_since=1, members=members_of(Progress))


class Unfinished:
    """Token files under way. `Unfinished.open` makes one."""

    def __init__(
        self, directory: Path, writers: dict[Split, TokenWriter], progress: Progress, commit_bytes: int
    ) -> None:
        self.directory, self.writers, self.commit_bytes = directory, writers, commit_bytes
        self.num_items, self.num_read = progress.num_items, progress.num_read
        self.progress = progress
        """What is recorded."""

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        directory: Path,
        splits: Sequence[Split],
        vocab_size: int,
        recipe: dict[str, Any],
        reporter: Reporter,
        commit_bytes: int = COMMIT_BYTES,
    ) -> Iterator[Self]:
        """Go on with what `directory/.unfinished` holds, where it is of the same recipe; else begin anew.

        Raises:
            OutputError: in the `with` block too: the disk is full.
        """
        progress = Progress.read(directory)
        with full_disk_as_output_error(directory), contextlib.ExitStack() as files:
            writers = None
            if progress and progress.recipe == recipe:
                writers = _resumed(files, directory, vocab_size, progress)
            if progress is None or writers is None:
                if (directory / UNFINISHED / PROGRESS_FILE).exists():
                    what = "is of other text, settings or tokenizer, or damaged"
                    reporter.say(f"{directory}: what was begun there {what}; beginning anew")
                progress = Progress(recipe=recipe)
                writers = _begun(files, directory, splits, vocab_size)
            try:
                yield cls(directory, writers, progress, commit_bytes)
            except BaseException:
                if not Progress.read(directory):
                    discard(directory)
                raise

    def write(self, encoded: Encoded) -> None:
        """Append what was made of the next items; after enough of them, record it."""
        for split, ids, num_documents, num_bytes in encoded.parts:
            self.writers[split].write(ids, num_documents=num_documents, num_bytes=num_bytes)
        self.num_items += encoded.num_items
        self.num_read += encoded.num_read
        if self.num_read - self.progress.num_read >= self.commit_bytes:
            self._record(is_complete=False)

    def finish(self, sidecars: Mapping[Split, Sidecar]) -> None:
        """Put all in place, where it replaces older ones. What is complete already needs no sidecars."""
        if not self.progress.is_complete:
            for split, sidecar in sidecars.items():
                sidecar.write(sidecar_path(self.writers[split].path))
            self._record(is_complete=True)
        put_in_place(self.directory)

    def _record(self, *, is_complete: bool) -> None:
        for writer in self.writers.values():
            writer.sync()
            if not writer.path.exists():
                raise OutputError(
                    f"{writer.path}: removed by somebody while it was being written; start again"
                )
        self.progress = Progress(
            recipe=self.progress.recipe,
            num_items=self.num_items,
            num_read=self.num_read,
            parts={split: writer.written for split, writer in self.writers.items()},
            is_complete=is_complete,
        )
        self.progress.write(self.directory)


def is_unfinished(directory: Path) -> bool:
    """Whether token files are being made here, or their making was interrupted."""
    return (directory / UNFINISHED).exists()


def put_in_place(directory: Path) -> None:
    """Move what is complete to its place, also where that was begun before; else do nothing.

    A redo log: each step may be the last, and doing all of them again comes to the same. No sidecar is
    there while ids are replaced, neither the old one nor the new.
    """
    progress = Progress.read(directory)
    if not progress or not progress.is_complete:
        return
    ids = [f"{split}.memmap" for split in (VAL, TRAIN) if split in progress.parts]
    sidecars = [f"{name}.json" for name in ids]
    made = directory / UNFINISHED
    for name in sidecars:
        if (made / name).exists():  # else it has its place already
            (directory / name).unlink(missing_ok=True)
    sync_directory(directory)
    for name in (*ids, *sidecars):
        with contextlib.suppress(FileNotFoundError):
            (made / name).replace(directory / name)
    sync_directory(directory)
    discard(directory)


def discard(directory: Path) -> None:
    """Remove what is unfinished, its record first: without that, nobody takes the rest for anything."""
    if is_unfinished(directory):
        (directory / UNFINISHED / PROGRESS_FILE).unlink(missing_ok=True)
        shutil.rmtree(directory / UNFINISHED)


def _part_path(directory: Path, split: str) -> Path:
    return directory / UNFINISHED / f"{split}.memmap"


def _resumed(
    files: contextlib.ExitStack, directory: Path, vocab_size: int, progress: Progress
) -> dict[Split, TokenWriter] | None:
    """Writers that go on with the parts; None where those are not what progress says."""
    writers: dict[Split, TokenWriter] = {}
    if progress.is_complete:
        return writers  # some may have been moved already
    remove_dead_temporaries(directory / UNFINISHED)
    try:
        for split in (TRAIN, VAL):
            if split in progress.parts:
                path = _part_path(directory, split)
                file = files.enter_context(path.open("r+b"))
                writers[split] = TokenWriter.resume(path, file, vocab_size, progress.parts[split])
    except (FileNotFoundError, DataError):
        return None
    return writers


def _begun(
    files: contextlib.ExitStack, directory: Path, splits: Sequence[Split], vocab_size: int
) -> dict[Split, TokenWriter]:
    discard(directory)
    make_directory(directory / UNFINISHED)
    writers = {}
    for split in splits:
        path = _part_path(directory, split)
        writers[split] = TokenWriter(path, files.enter_context(path.open("xb")), vocab_size)
    return writers
