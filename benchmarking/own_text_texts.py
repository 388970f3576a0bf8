"""Texts of bench_own_text: where they are, what identifies them, and the split that a run made of one."""

from __future__ import annotations

import hashlib
import os
import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarking.corpora import is_utf8, outside_path
from benchmarking.messages import PREFIX, write_messages
from transformerlm.config import STDLIB, CorpusConfig, TrainConfig
from transformerlm.data.corpus import Source, find_corpora, read_bytes
from transformerlm.errors import DataError
from transformerlm.storage.files import committed_file


@dataclass(frozen=True)
class Text:
    """A text as a user would have it."""

    path: str
    """Value of [data].corpus."""
    sha256: str
    """Checksum of the contents of its files, in the order of their names."""
    num_bytes: int


def find_text(corpus: str, name: str, first_bytes: int | None, folder: Path) -> Text:
    """Return a text; its beginning, where that is asked for, is written into `folder` under `name`.

    Args:
        corpus: as for [data].corpus; `{test_data}` stands for the folder that TRANSFORMERLM_TEST_DATA names,
            `{packages}` for that of this environment's packages, `messages:ru` for `write_messages`.
        first_bytes: the beginning of a file, less what would cut a character; of several files, in the order
            of their names, those that fit and are UTF-8. None: all.

    Raises:
        DataError: there is no such text.
    """
    corpus = outside_path(corpus).replace("{packages}", sysconfig.get_paths()["purelib"])
    if corpus.startswith(PREFIX):
        corpus = str(write_messages(corpus.removeprefix(PREFIX), folder / f"{_file_name(name)}.txt"))
    sources = find_corpora(CorpusConfig(corpus=corpus)).main.sources
    if first_bytes is not None:
        corpus = str(write_beginning(sources, first_bytes, folder / _file_name(name)))
        sources = find_corpora(CorpusConfig(corpus=corpus)).main.sources
    path = corpus if corpus == STDLIB else str(Path(corpus).expanduser().absolute())
    return Text(path, checksum(sources), sum(source.num_bytes for source in sources))


def _file_name(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name)


def write_beginning(sources: Sequence[Source], num_bytes: int, path: Path) -> Path:
    """Write the beginning of one file beside `path`, with its suffix, or the first of several into `path`."""
    if len(sources) == 1:
        (only,) = sources
        content = read_bytes(only.path, only.start, min(only.num_bytes, only.start + num_bytes))
        beginning = path.with_name(path.name + Path(only.path).suffix)
        beginning.write_bytes(content.decode(errors="ignore").encode())
        return beginning
    # Names of files that a glob matches begin with folders, whose names may be hidden ones.
    folder = os.path.commonpath([Path(source.path).parent for source in sources])
    for source in sources:
        if source.num_bytes > num_bytes:
            continue
        content = read_bytes(source.path, 0, source.num_bytes)
        if is_utf8(content):
            num_bytes -= len(content)
            copy = path / Path(source.path).relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
    return path


def checksum(sources: Sequence[Source]) -> str:
    """Return one checksum of all files."""
    whole = hashlib.sha256()
    for source in sources:
        whole.update(_sha256(read_bytes(source.path, 0, source.num_bytes)).encode())
    return whole.hexdigest()


@dataclass(frozen=True)
class Split:
    """The text that a run trained on and the text that it was judged by, without document separators."""

    train: bytes
    val: bytes

    @property
    def key(self) -> str:
        """Checksum of both."""
        return hashlib.sha256(f"{_sha256(self.train)} {_sha256(self.val)}".encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write both into a folder of this split's own below `folder`."""
        for name, content in (("train", self.train), ("val", self.val)):
            with committed_file(folder / self.key / f"{name}.txt") as file:
                file.write(content)

    @classmethod
    def load(cls, folder: Path, key: str) -> Split:
        """Read a split that `save` has written.

        Raises:
            DataError: it is not there, or not the one.
        """
        path = folder / key
        try:
            found = cls(*((path / f"{name}.txt").read_bytes() for name in ("train", "val")))
        except OSError:
            found = cls(b"", b"")
        if found.key != key:
            advice = "remove the folder of results, or the lines that name this split, to train again"
            raise DataError(f"{path}: expected the texts that a kept training was judged by; {advice}")
        return found


def split_of_run(config: TrainConfig, run_dir: Path, work_dir: Path) -> Split:
    """Return the split of a run's token files, decoded.

    Args:
        config: the resolved one.
        run_dir: folder of the run.
        work_dir: the folder that the command ran in.
    """
    from transformerlm.data import TokenFile, fill_placeholders
    from transformerlm.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_dir(run_dir / "tokenizer")
    separator = tokenizer.special_token_ids.get(config.data.document_separator, -1)
    token_dir = work_dir / fill_placeholders(config.data.token_dir, config.data)

    def text(name: str) -> bytes:
        tokens = TokenFile.open(token_dir / f"{name}.memmap").tokens
        return tokenizer.decode_bytes(tokens[tokens != separator])

    return Split(text("train"), text("val"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
