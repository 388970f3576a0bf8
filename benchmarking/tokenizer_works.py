"""Works of the tokenizer benchmark: contestants, texts, and comparison of results."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarking.timing import Run, Task
from benchmarking.tokenizer_jobs import Job
from benchmarking.tokenizer_peers import CONTESTANTS

OURS = "transformerlm"
ONE_THREAD = "transformerlm (one thread)"


@dataclass(frozen=True)
class Work:
    """One kind of work."""

    contestants: tuple[str, ...]
    fingerprint: Callable[[Any], str]
    """Function that returns the fingerprint of a result."""
    method: str = ""
    """Name of the contestants' method; "": the work's own name."""
    texts: Literal["corpora", "words", "letters"] = "corpora"
    """Kind of text: the corpora, ten words, or one long word."""
    is_parallel: bool = False
    """True: it may use all cores; False: one."""
    is_fresh: bool = False
    """True: every contestant prepares again before each round, not only those named "(new)"."""
    is_alone: bool = False
    """True: each contestant works once, alone, in a fresh process."""
    is_long: bool = False
    """True: Hugging Face's would take too long for a whole corpus."""
    calls: int = 1
    """Calls in a round."""


def task(work_name: str, contestant: str, job: Job, time_limit: float) -> Task:
    """Return the task of a contestant's process."""
    work = WORKS[work_name]
    is_new = work.is_fresh or contestant.endswith(" (new)")
    make = functools.partial(prepare, contestant, work.method or work_name, job, is_new)
    return Task(make, work.fingerprint, time_limit, is_new=is_new, calls=work.calls)


def prepare(name: str, method: str, job: Job, is_new: bool) -> Run:
    """Prepare a contestant's work, in its process."""
    contestant = CONTESTANTS[name](job)
    if is_new:
        contestant.use_once()
    run: Run = getattr(contestant, method)()
    return run


def package_of(contestant: str) -> str:
    """The package that a contestant is: "gigatoken" for "gigatoken (new)"."""
    return contestant.partition(" ")[0]


def of_ids(ids: Any) -> str:
    """Fingerprint of a list of ids, or of an array of any width."""
    return hashlib.sha256(np.asarray(ids, np.uint32).tobytes()).hexdigest()


def of_batch(batch: Iterable[Any]) -> str:
    """Fingerprint of several lists or arrays."""
    return hashlib.sha256("".join(map(of_ids, batch)).encode()).hexdigest()


def of_text(decoded: str | bytes) -> str:
    """Fingerprint of a text, or of its bytes."""
    content = decoded.encode() if isinstance(decoded, str) else decoded
    return hashlib.sha256(content).hexdigest()


def of_texts(decoded: Iterable[str]) -> str:
    """Fingerprint of several texts."""
    return hashlib.sha256("".join(map(of_text, decoded)).encode()).hexdigest()


def of_file(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Of training, the number of merges is compared: which ones are learned depends on how ties are broken.
WORKS = {
    "train": Work((OURS, ONE_THREAD, "tokenizers", "rustbpe", "gigatoken"), str, is_parallel=True),
    "train_memory": Work(
        (OURS, "tokenizers", "rustbpe", "gigatoken"),
        str,
        method="train",
        is_parallel=True,
        is_alone=True,
    ),
    "encode_array": Work(
        (OURS, "transformerlm (new)", "tokenizers", "tiktoken", "gigatoken", "gigatoken (new)"),
        of_ids,
        is_long=True,
    ),
    "encode_list": Work((OURS, "tokenizers", "tiktoken", "gigatoken"), of_ids, is_long=True),
    "encode_batch": Work(
        (OURS, ONE_THREAD, "tokenizers", "tiktoken", "gigatoken", "gigatoken (bytes)"),
        of_batch,
        is_parallel=True,
        is_long=True,
    ),
    "decode_bytes": Work((OURS, "tiktoken", "gigatoken"), of_text),
    "decode_text": Work((OURS, "tokenizers", "tiktoken", "gigatoken"), of_text, is_long=True),
    "decode_batch": Work(
        (OURS, ONE_THREAD, "tokenizers", "tiktoken"), of_texts, is_parallel=True, is_long=True
    ),
    "make_data": Work((OURS, ONE_THREAD, "gigatoken"), of_file, is_parallel=True, is_fresh=True),
    "encode_short": Work(
        (OURS, "tokenizers", "tiktoken", "gigatoken"),
        of_ids,
        method="encode_list",
        texts="words",
        calls=2000,
    ),
    # Who remembers an endless word would copy its ids in the next round, not encode it.
    "encode_letters": Work(
        (OURS, "tokenizers", "tiktoken", "gigatoken"),
        of_ids,
        method="encode_array",
        texts="letters",
        is_fresh=True,
    ),
}
