"""Out-of-memory errors of PyTorch, and their conversion to errors for the user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from transformerlm.errors import TransformerLMError

SMALLER_MICRO_BATCH = "take a smaller [training].micro_batch_size"
SMALLER_MODEL = "take a smaller model or [model].context_length, or [runtime].activation_checkpointing = true"
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "MPS backend out of memory",
    "could not create a primitive",
    "std::bad_alloc",
)
"""Messages of out-of-memory errors that are plain RuntimeErrors (CUDA's have a class). "could not create a
primitive" is oneDNN's when it cannot allocate its workspace; it has other causes too, which smaller
micro-batches do not remedy."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if PyTorch found no memory for a tensor."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


@contextlib.contextmanager
def memory_for(what: str, advice: str = SMALLER_MODEL) -> Iterator[None]:
    """Context manager that turns an out-of-memory error into a one-line error about the purpose `what`.

    Raises:
        TransformerLMError: in place of PyTorch's own error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or is_out_of_memory(error)):
            raise
        raise TransformerLMError(f"out of memory for {what}: {advice} ({first_line(error)})") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).partition("\n")[0]
