"""From text to token files, and from token files to batches.

Read `corpus.py` (which files), `documents.py` and `pieces.py` (what is in them), `split.py` (what
validates) and `build.py` (text to tokens, which are an `encoded.py` until they are written); `format.py`
and `sidecar.py` are the token file, `unfinished.py` is one that is being made, `sampler.py` what training
draws from it, `prepare.py` what the commands call, `verify.py` what checks what they have made, `share.py`
how ranks share the work, and `turns.py` how processes that want the same do it once. `reading.py` is for who
wants the documents themselves.

Names are imported when they are first used: making token files needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformerlm.data.build import TokenData, make_data
    from transformerlm.data.prepare import fill_placeholders, prepare_data, prepare_tokenizer
    from transformerlm.data.sampler import BatchSampler, get_batch, validation_windows
    from transformerlm.data.token_file import TokenFile, TokenWriter

__all__ = [
    "BatchSampler",
    "TokenData",
    "TokenFile",
    "TokenWriter",
    "fill_placeholders",
    "get_batch",
    "make_data",
    "prepare_data",
    "prepare_tokenizer",
    "validation_windows",
]

_HOMES = {
    "build": {"TokenData", "make_data"},
    "token_file": {"TokenFile", "TokenWriter"},
    "prepare": {"fill_placeholders", "prepare_data", "prepare_tokenizer"},
    "sampler": {"BatchSampler", "get_batch", "validation_windows"},
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"transformerlm.data.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
