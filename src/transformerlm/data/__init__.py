"""From text to token files, and from token files to batches.

In the order of the pipeline: `listing.py` finds files, `kinds.py` and `recognition.py` tell what they are,
`corpus.py` combines both, `reading/` opens compressed files, tables, pages and books, `documents.py` reads
documents, `chunks.py` divides files into work, `split.py` and `last_record.py` choose validation text,
`division.py` puts both together, `encode.py` and `build.py` turn text into tokens. `token_file.py` and
`sidecar.py` are the token file, `build_journal.py` is a build in progress, `build_lock.py` lets one process
build while others wait, `file_record.py` and `origin.py` find out whether token files are still those of the
text, `sampler.py` draws batches, `prefetch.py` prepares them ahead. `mixture.py`, `token_group.py`,
`interleave.py` and `mixture_sampler.py` are for several corpora. `prepare.py` is called by the commands,
`verify.py` checks tokenizers and token files, `merge.py` writes several token files in one.

Copies: `scan.py` reads every document once, `shingles.py` and `copies.py` find copies, `selection.py` decides
what becomes of them. Leakage: `matches.py`. `inspection/` shows all of that, and what else is in a text.

Names are imported when they are first used: making token files needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformerlm.data.build import TokenData, make_data
    from transformerlm.data.mixture_sampler import MixtureSampler, make_sampler
    from transformerlm.data.prefetch import Prefetcher
    from transformerlm.data.prepare import fill_placeholders, prepare_data, prepare_tokenizer
    from transformerlm.data.sampler import BatchSampler, get_batch, validation_windows
    from transformerlm.data.token_file import TokenFile, TokenWriter
    from transformerlm.data.token_group import TokenGroup, Tokens, files_of

__all__ = [
    "BatchSampler",
    "MixtureSampler",
    "Prefetcher",
    "TokenData",
    "TokenFile",
    "TokenGroup",
    "TokenWriter",
    "Tokens",
    "files_of",
    "fill_placeholders",
    "get_batch",
    "make_data",
    "make_sampler",
    "prepare_data",
    "prepare_tokenizer",
    "validation_windows",
]

_HOMES = {
    "build": {"TokenData", "make_data"},
    "token_file": {"TokenFile", "TokenWriter"},
    "prepare": {"fill_placeholders", "prepare_data", "prepare_tokenizer"},
    "token_group": {"TokenGroup", "Tokens", "files_of"},
    "mixture_sampler": {"MixtureSampler", "make_sampler"},
    "prefetch": {"Prefetcher"},
    "sampler": {"BatchSampler", "get_batch", "validation_windows"},
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"transformerlm.data.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
