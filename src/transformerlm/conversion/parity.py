"""Parity checks: another program must compute the same token ids and logits from a model as this package.

Both tokenizers encode some texts, and our model continues them greedily. The other program then computes the
logits at every position of the texts and their continuations. If these are within a tolerance of ours, the
likeliest token is the same everywhere, except for ties within the tolerance.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformerlm.errors import CheckpointError
from transformerlm.nn import TransformerLM
from transformerlm.storage.untrusted import printable
from transformerlm.tokenizer import Tokenizer

TEXTS = (
    "Once upon a time, there was a little girl who couldn't sleep.",
    "def main(argv: list[str]) -> int:\n    return len(argv)  # 12345\n",
    "  Two spaces, a\ttab,\r\n\n and naïve Ünïcode: 中文, здравствуй, 👍🏽.",
    "It's 1999; they've paid $3,000.50 -- haven't they?",
    "x",
)
FLOAT32_TOLERANCE = 1e-4
"""Tolerance relative to the largest logit: above the rounding of float32 sums, far below the effect of a
mistake."""
NUM_SEQUENCES = len(TEXTS) + 1
MAX_TOKENS = 256
"""Length of a checked sequence. Longer ones reveal no more, and take other programs more memory."""
_NUM_NEW_TOKENS = 16
_LOADING_ERRORS = (AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)

Encode = Callable[[str], list[int]]
Logits = Callable[[list[int]], Tensor]
"""Token ids [T] -> logits of each next token [T, vocab_size or more]."""


def check_ids(tokenizer: Tokenizer, encode: Encode, name: str) -> None:
    """Compare another program's token ids of `TEXTS` and all special tokens with our tokenizer's.

    Args:
        tokenizer: ours.
        encode: the other program's.
        name: name of the other program in error messages.

    Raises:
        CheckpointError: names the text and the first id that differs.
    """
    for text in (*TEXTS, "".join((TEXTS[0], *tokenizer.special_token_ids, TEXTS[1]))):
        ours, theirs = tokenizer.encode(text), encode(text)
        if ours != theirs:
            pairs = list(zip([*ours, None], [*theirs, None], strict=False))
            place = next(index for index, (own, other) in enumerate(pairs) if own != other)
            what = f"id {place} of {text!a:.80}: {pairs[place][0]} here, {pairs[place][1]} there"
            raise CheckpointError(f"{name}: other ids than this package's: {what}")


def check_logits(
    model: TransformerLM,
    tokenizer: Tokenizer,
    logits: Logits,
    name: str,
    tolerance: float = FLOAT32_TOLERANCE,
) -> float:
    """Compare another program's logits for `TEXTS` and their greedy continuations with our model's.

    Args:
        model: ours.
        tokenizer: ours.
        logits: the other program's.
        name: name of the other program in error messages.
        tolerance: largest allowed difference, relative to our largest logit.

    Returns:
        The largest difference of two logits.

    Raises:
        CheckpointError: names the largest difference and its place.
    """
    largest = 0.0
    with torch.inference_mode():
        for ids in _sequences(model, tokenizer):
            ours = model(torch.tensor([ids], dtype=torch.long, device="cpu"))[
                0, :, : tokenizer.vocab_size
            ].float()
            theirs = logits(ids)[:, : tokenizer.vocab_size].float()
            difference = (ours - theirs).abs().amax(-1)
            allowed = tolerance * max(1.0, ours.abs().max().item())
            if not bool((difference <= allowed).all()):  # False for NaN too
                place = int(difference.nan_to_num(torch.inf).argmax())
                what = f"{difference[place].item():.3g} apart after token {place + 1} of {len(ids)}"
                raise CheckpointError(f"{name}: other logits: {what}; expected at most {allowed:.3g}")
            largest = max(largest, difference.max().item())
    return largest


def _sequences(model: TransformerLM, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yield the token ids of each of `TEXTS` with its greedy continuation, then random ids."""
    length, size = min(model.config.context_length, MAX_TOKENS), tokenizer.vocab_size
    for text in TEXTS:
        ids = tokenizer.encode(text)[: max(1, length - _NUM_NEW_TOKENS)]
        for _ in range(min(_NUM_NEW_TOKENS, length - len(ids))):
            ids.append(int(model(torch.tensor([ids], dtype=torch.long, device="cpu"))[0, -1, :size].argmax()))
        yield ids
    generator = torch.Generator("cpu").manual_seed(0)
    yield torch.randint(size, (length,), generator=generator, dtype=torch.long, device="cpu").tolist()


@contextlib.contextmanager
def loading(name: str) -> Iterator[None]:
    """Context manager for loading a model in another program: turns its errors into a CheckpointError."""
    try:
        yield
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{name} cannot load it: {type(error).__name__}: {printable(error)}") from error


def is_installed(package: str) -> bool:
    """Return True if an optional package can be imported."""
    return importlib.util.find_spec(package) is not None


def transformers_tokenizer(folder: Path) -> Encode:
    """Load the tokenizer in `folder` with transformers and return its encoding function."""
    tokenizer = _transformers().AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return lambda text: list(tokenizer(text)["input_ids"])


def tokenizers_tokenizer(path: Path) -> Encode:
    """Load a tokenizer.json with tokenizers and return its encoding function (no special tokens added)."""
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(path))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def transformers_logits(folder: Path) -> Logits:
    """Load the model in `folder` in float32 with transformers, without running code from the folder.

    Returns:
        A function from token ids to logits.
    """
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    # Left to itself, transformers rounds the weights to the precision that config.json names.
    major = int(importlib.metadata.version("transformers").partition(".")[0])
    options |= {"dtype" if major >= 5 else "torch_dtype": torch.float32}
    model = _transformers().AutoModelForCausalLM.from_pretrained(folder, **options).eval()

    def logits(ids: list[int]) -> Tensor:
        found: Tensor = model(torch.tensor([ids], dtype=torch.long, device="cpu")).logits[0]
        return found

    return logits


def version_of(package: str) -> str:
    """Return a package's name and version, such as `transformers 5.23.0`."""
    return f"{package} {importlib.import_module(package).__version__}"


def _transformers() -> Any:
    transformers = importlib.import_module("transformers")
    # Its messages while it loads would appear between our lines.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def differing_tensor(one: dict[str, Tensor], other: dict[str, Tensor]) -> str | None:
    """Return the first name whose tensors differ or are in one of the two only, or None."""
    names: Sequence[str] = [*one, *(name for name in other if name not in one)]
    for name in names:
        if name not in one or name not in other or not torch.equal(one[name], other[name]):
            return name
    return None
