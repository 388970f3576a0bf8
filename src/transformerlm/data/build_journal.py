"""The journal of a build of token files, with which an interrupted build is continued.

The files grow in the hidden folder `.unfinished` inside their destination:

    train.memmap, val.memmap            bytes behind the recorded lengths are ignored
    progress.json                       origin of the files, and the progress of the build
    train.memmap.json, val.memmap.json  when everything is encoded

Progress is recorded once the bytes that it describes are on the disk. The next build continues from the last
record if text, settings and tokenizer are the same; otherwise it removes the folder and starts again. Once
the build is recorded as complete, the files only have to be moved to their places; a process that finds such
a record does that first.

Remains of an interrupted build:

- after a record: the folder, and the next build continues from there;
- before the first record, where an error or a signal's exception ends the build: nothing;
- before the first record, where the process is killed, or interrupted again while it removes the folder: the
folder without a record, which is ignored and which the next build removes;
- with the new files in place, where the process is killed while it removes the folder: the same.

The caller holds the lock of the folder (`build_lock.py`).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from transformerlm.data.documents import TRAIN, VAL, Place, Split
from transformerlm.data.encode import EncodedItem
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
"""Bytes of text after which progress is recorded; at most this and the workers' items are lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A record of a build's progress; the members are those of the JSON object."""

    format_version: int = FORMAT_VERSION
    recipe: dict[str, Any]
    """Everything that the files' content and the division into items of work depend on."""
    num_items: int = 0
    """Items of work done."""
    num_read: int = 0
    """Bytes of the corpus' files in those items."""
    place: list[int] = field(default_factory=list)
    """`Place` after those items; empty: not known, since an earlier version has written the record."""
    parts: dict[str, Written] = field(default_factory=dict)
    """Split -> state of its file."""
    is_complete: bool = False

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Read the record in `directory/.unfinished`; None if there is none, or it is damaged."""
        try:
            values = load((directory / UNFINISHED / PROGRESS_FILE).read_bytes(), PROGRESS_FORMAT)
            parts = {split: Written(**part) for split, part in values.pop("parts").items()}
            return cls(**values, parts=parts)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, directory: Path) -> None:
        """Write the record atomically."""
        with committed_file(directory / UNFINISHED / PROGRESS_FILE) as file:
            file.write(dump(asdict(self)))


PROGRESS_FORMAT = RecordFormat(
    version=FORMAT_VERSION, checksum_since=1, members=members_of(Progress), added={"place": []}
)


class BuildJournal:
    """A build of token files in progress; `BuildJournal.open` creates one."""

    def __init__(
        self, directory: Path, writers: dict[Split, TokenWriter], progress: Progress, commit_bytes: int
    ) -> None:
        self.directory, self.writers, self.commit_bytes = directory, writers, commit_bytes
        self.progress = progress
        """The last record."""
        self.num_items, self.num_read = progress.num_items, progress.num_read
        self.place = Place(*progress.place) if progress.place else None
        """Place after the items that are done; None: at the beginning, or not known (`num_items` is)."""
        self._num_unrecorded = 0

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
        """Continue the build in `directory/.unfinished` if it has the same recipe; else start again.

        Raises:
            OutputError: in the `with` block too: the disk is full.
        """
        with (
            full_disk_as_output_error(directory),
            _discard_without_record(directory),
            contextlib.ExitStack() as files,
        ):
            progress = Progress.read(directory)
            writers = None
            if progress and progress.recipe == recipe:
                writers = _resume_writers(files, directory, vocab_size, progress)
            if progress is None or writers is None:
                if (directory / UNFINISHED / PROGRESS_FILE).exists():
                    what = "is of other text, settings or tokenizer, or damaged"
                    reporter.say(f"{directory}: what was begun there {what}; beginning anew")
                progress = Progress(recipe=recipe)
                writers = _new_writers(files, directory, splits, vocab_size)
            yield cls(directory, writers, progress, commit_bytes)

    def write(self, encoded: EncodedItem) -> None:
        """Append the tokens of the next item; record progress after every `commit_bytes` of text."""
        for split, ids, num_documents, num_bytes in encoded.parts:
            self.writers[split].write(ids, num_documents=num_documents, num_bytes=num_bytes)
        self.num_items += 1
        self.num_read += encoded.num_read
        self.place = encoded.end
        self._num_unrecorded += encoded.num_text
        if self._num_unrecorded >= self.commit_bytes:
            self._record(is_complete=False)

    def finish(self, sidecars: Mapping[Split, Sidecar]) -> None:
        """Move all files to their places, replacing older ones.

        If the build is recorded as complete, the sidecars exist already and `sidecars` is ignored.
        """
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
            place=list(self.place or ()),
            parts={split: writer.written for split, writer in self.writers.items()},
            is_complete=is_complete,
        )
        self.progress.write(self.directory)
        self._num_unrecorded = 0


def is_unfinished(directory: Path) -> bool:
    """Return True if a build is in progress here, or was interrupted."""
    return (directory / UNFINISHED).exists()


def put_in_place(directory: Path) -> None:
    """Move the files of a complete build to their places; do nothing if there is no complete build.

    A redo log: an interruption after any step does no harm, since repeating all steps has the same result.
    No sidecar, old or new, is in place while ids are replaced.
    """
    progress = Progress.read(directory)
    if not progress or not progress.is_complete:
        return
    ids = [f"{split}.memmap" for split in (VAL, TRAIN) if split in progress.parts]
    sidecars = [f"{name}.json" for name in ids]
    made = directory / UNFINISHED
    for name in sidecars:
        if (made / name).exists():  # otherwise it has been moved already
            (directory / name).unlink(missing_ok=True)
    sync_directory(directory)
    for name in (*ids, *sidecars):
        with contextlib.suppress(FileNotFoundError):
            (made / name).replace(directory / name)
    sync_directory(directory)
    discard(directory)


def discard(directory: Path) -> None:
    """Remove an unfinished build, its record first: without it the other files are ignored."""
    if is_unfinished(directory):
        (directory / UNFINISHED / PROGRESS_FILE).unlink(missing_ok=True)
        shutil.rmtree(directory / UNFINISHED)


@contextlib.contextmanager
def _discard_without_record(directory: Path) -> Iterator[None]:
    """Context manager that removes the folder on an error if nothing has been recorded."""
    try:
        yield
    except BaseException:
        if not Progress.read(directory):
            discard(directory)
        raise


def _part_path(directory: Path, split: str) -> Path:
    return directory / UNFINISHED / f"{split}.memmap"


def _resume_writers(
    files: contextlib.ExitStack, directory: Path, vocab_size: int, progress: Progress
) -> dict[Split, TokenWriter] | None:
    """Open writers that continue the recorded parts; None if the files do not match the record."""
    writers: dict[Split, TokenWriter] = {}
    if progress.is_complete:
        return writers  # some files may have been moved already
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


def _new_writers(
    files: contextlib.ExitStack, directory: Path, splits: Sequence[Split], vocab_size: int
) -> dict[Split, TokenWriter]:
    """Remove an older build and open writers for new, empty files."""
    discard(directory)
    make_directory(directory / UNFINISHED)
    writers = {}
    for split in splits:
        path = _part_path(directory, split)
        writers[split] = TokenWriter(path, files.enter_context(path.open("xb")), vocab_size)
    return writers
