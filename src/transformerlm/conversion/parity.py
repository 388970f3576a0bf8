"""Whether two programs make the same of one model: each conversion is held against another before it is done.

Texts are encoded by both tokenizers, and continued greedily by our model; the other one is then asked for its
logits at every position of what came of it. Where these are as close as `tolerance` says, the likeliest token
is the same everywhere, but for ties within it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformerlm.errors import CheckpointError
from transformerlm.nn import TransformerLM
from transformerlm.storage.safetensors import printable
from transformerlm.tokenizer import Tokenizer

TEXTS = (
    "Once upon a time, there was a little girl who couldn't sleep.",
    "def main(argv: list[str]) -> int:\n    return len(argv)  # 12345\n",
    "  Two spaces, a\ttab,\r\n\n and naïve Ünïcode: 中文, здравствуй, 👍🏽.",
    "It's 1999; they've paid $3,000.50 -- haven't they?",
    "x",
)
FLOAT32_TOLERANCE = 1e-4
"""Of the largest logit: what the order of sums in float32 may change, and a mistake would exceed by far."""
NUM_SEQUENCES = len(TEXTS) + 1
MAX_TOKENS = 256
"""Of a sequence: a longer one would say no more, and another program may take memory for all of a context."""
_NUM_NEW_TOKENS = 16
_LOADING_ERRORS = (AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)

Encode = Callable[[str], list[int]]
Logits = Callable[[list[int]], Tensor]
"""Ids of a text -> [T, rows of the vocabulary or more], the logits of the token after each."""


def check_ids(tokenizer: Tokenizer, encode: Encode, name: str) -> None:
    """Refuse another program's tokenizer that gives one of `TEXTS`, or a special token, other ids.

    Raises:
        CheckpointError: with the text, and the first id that differs.
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
    """Refuse another program's model that makes something else of `TEXTS` and their continuations.

    Args:
        tolerance: of the largest logit of ours.

    Returns:
        The largest difference of two logits.

    Raises:
        CheckpointError: with the largest difference and where it is.
    """
    largest = 0.0
    with torch.inference_mode():
        for ids in _sequences(model, tokenizer):
            ours = model(torch.tensor([ids]))[0, :, : tokenizer.vocab_size].float()
            theirs = logits(ids)[:, : tokenizer.vocab_size].float()
            difference = (ours - theirs).abs().amax(-1)
            allowed = tolerance * max(1.0, ours.abs().max().item())
            # A NaN is within nothing.
            if not bool((difference <= allowed).all()):
                place = int(difference.nan_to_num(torch.inf).argmax())
                what = f"{difference[place].item():.3g} apart after token {place + 1} of {len(ids)}"
                raise CheckpointError(f"{name}: other logits: {what}; expected at most {allowed:.3g}")
            largest = max(largest, difference.max().item())
    return largest


def _sequences(model: TransformerLM, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The ids of `TEXTS`, each with its greedy continuation; and ids from all over the vocabulary."""
    length, size = min(model.config.context_length, MAX_TOKENS), tokenizer.vocab_size
    for text in TEXTS:
        ids = tokenizer.encode(text)[: max(1, length - _NUM_NEW_TOKENS)]
        for _ in range(min(_NUM_NEW_TOKENS, length - len(ids))):
            ids.append(int(model(torch.tensor([ids]))[0, -1, :size].argmax()))
        yield ids
    yield torch.randint(size, (length,), generator=torch.Generator().manual_seed(0)).tolist()


@contextlib.contextmanager
def loading(name: str) -> Iterator[None]:
    """Around the loading of a model by another program; CheckpointError where it does not take it."""
    try:
        yield
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{name} cannot load it: {type(error).__name__}: {printable(error)}") from error


def is_installed(package: str) -> bool:
    """Whether a package that is optional here can be imported."""
    return importlib.util.find_spec(package) is not None


def transformers_tokenizer(folder: Path) -> Encode:
    """How transformers encodes with the tokenizer in `folder`."""
    tokenizer = _transformers().AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return lambda text: list(tokenizer(text)["input_ids"])


def tokenizers_tokenizer(path: Path) -> Encode:
    """How Hugging Face's tokenizers encodes with a tokenizer.json, without what it puts around a text."""
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(path))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def transformers_logits(folder: Path) -> Logits:
    """What transformers computes with the model in `folder`, in float32. No code of the folder's is run."""
    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    model = _transformers().AutoModelForCausalLM.from_pretrained(folder, **options).float().eval()

    def logits(ids: list[int]) -> Tensor:
        found: Tensor = model(torch.tensor([ids])).logits[0]
        return found

    return logits


def version_of(package: str) -> str:
    """`transformers 5.23.0`."""
    return f"{package} {importlib.import_module(package).__version__}"


def _transformers() -> Any:
    transformers = importlib.import_module("transformers")
    # What it says while it loads would stand between our lines.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def differing_tensor(one: dict[str, Tensor], other: dict[str, Tensor]) -> str | None:
    """The first name under which the two do not have the same bits; None where there is none."""
    names: Sequence[str] = [*one, *(name for name in other if name not in one)]
    for name in names:
        if name not in one or name not in other or not torch.equal(one[name], other[name]):
            return name
    return None
