"""Parity checks: another program must compute the same token ids and logits from a model as this package.

Both tokenizers encode some texts, as text and as prompts, and both models continue the prompts greedily. The
other program also computes the logits at every position of the prompts and of our continuations. If these are
within a tolerance of ours, the likeliest token is the same everywhere, except for ties within the tolerance.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformerlm.config import GenerationConfig
from transformerlm.errors import CheckpointError
from transformerlm.infer import generate
from transformerlm.infer.completion import encode_prompt
from transformerlm.infer.stopping import StopConditions
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


@dataclass(frozen=True)
class Expected:
    """A prompt with our model's greedy continuation, or random ids; and our logits for them."""

    text: str | None
    """The prompt; None for random ids."""
    prompt_ids: list[int]
    """Ids of the whole prompt, the token that begins a text included."""
    num_given: int
    """Number of `ids` that were given to the model; the others are its continuation."""
    max_new_tokens: int
    """Largest length of the continuation."""
    ids: list[int]
    logits: Tensor
    """[len(ids), vocab_size], float32."""

    @property
    def given_ids(self) -> list[int]:
        """The ids that were given to the model."""
        return self.ids[: self.num_given]

    @property
    def new_ids(self) -> list[int]:
        """The model's greedy continuation, without the token that ended it."""
        return self.ids[self.num_given :]


def expectations(
    model: TransformerLM,
    tokenizer: Tokenizer,
    generation: GenerationConfig,
    max_tokens: int = MAX_TOKENS,
) -> list[Expected]:
    """Return what our model makes of `TEXTS`, and of random ids.

    Args:
        generation: the model's; all but its sampling takes part.
        max_tokens: length of the longest text that the other program takes.
    """
    length, size = min(model.config.context_length, MAX_TOKENS, max_tokens), tokenizer.vocab_size
    random = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randint(size, (length,), generator=random, dtype=torch.long, device="cpu").tolist()
    found = [Expected(None, drawn, length, 0, drawn, _logits(model, drawn, size))]
    conditions = StopConditions.from_config(generation, tokenizer)
    bos = tokenizer.special_token_ids.get(generation.bos_token)
    for text in TEXTS:
        prompt_ids = encode_prompt(tokenizer, text, conditions.eos_token_id, bos)
        given = prompt_ids[: max(1, length - _NUM_NEW_TOKENS)]
        max_new_tokens = min(_NUM_NEW_TOKENS, length - len(given))
        new_ids = generate(
            model,
            given,
            max_new_tokens=max_new_tokens,
            temperature=0,
            repetition_penalty=generation.repetition_penalty,
            stop_token_ids=conditions.end_ids,
            vocab_size=size,
        )
        ids = [*given, *new_ids]
        found.append(Expected(text, prompt_ids, len(given), max_new_tokens, ids, _logits(model, ids, size)))
    return found


@torch.inference_mode()
def _logits(model: TransformerLM, ids: list[int], vocab_size: int) -> Tensor:
    given = torch.tensor([ids], dtype=torch.long, device="cpu")
    found: Tensor = model(given)[0, :, :vocab_size].float()
    return found


def check_ids(tokenizer: Tokenizer, encode: Encode, name: str) -> None:
    """Compare another program's token ids of `TEXTS` and all special tokens with our tokenizer's.

    Args:
        tokenizer: ours.
        encode: the other program's; adds no special tokens.
        name: name of the other program in error messages.

    Raises:
        CheckpointError: names the text and the first id that differs.
    """
    if what := find_other_ids(tokenizer, encode):
        raise CheckpointError(f"{name}: other ids than this package's: {what}")


def find_other_ids(tokenizer: Tokenizer, encode: Encode) -> str | None:
    """Return the first text and id in which `check_ids` finds a difference, or None."""
    texts = (*TEXTS, "".join((TEXTS[0], *tokenizer.special_token_ids, TEXTS[1])))
    found = (_first_other(tokenizer.encode(text), encode(text), f"{text!a:.80}") for text in texts)
    return next(filter(None, found), None)


def _first_other(ours: Sequence[int], theirs: Sequence[int], what: str) -> str | None:
    pairs = zip([*ours, None], [*theirs, None], strict=False)
    different = (
        f"id {i} of {what}: {own} here, {other} there" for i, (own, other) in enumerate(pairs) if own != other
    )
    return next(different, None)


def check_logits(
    expected: Sequence[Expected], logits: Logits, name: str, tolerance: float = FLOAT32_TOLERANCE
) -> float:
    """Compare another program's logits with our model's.

    Args:
        logits: the other program's.
        name: name of the other program in error messages.
        tolerance: largest allowed difference, relative to our largest logit.

    Returns:
        The largest difference of two logits.

    Raises:
        CheckpointError: names the largest difference and its place.
    """
    largest = 0.0
    for one in expected:
        theirs = logits(one.ids)[:, : one.logits.shape[-1]].float()
        difference = (one.logits - theirs).abs().amax(-1)
        allowed = tolerance * max(1.0, one.logits.abs().max().item())
        if not bool((difference <= allowed).all()):  # False for NaN too
            place = int(difference.nan_to_num(torch.inf).argmax())
            what = f"{difference[place].item():.3g} apart after token {place + 1} of {len(one.ids)}"
            raise CheckpointError(f"{name}: other logits: {what}; expected at most {allowed:.3g}")
        largest = max(largest, difference.max().item())
    return largest


def check_prompts(
    expected: Sequence[Expected], peer: TransformersPeer, name: str, tolerance: float = FLOAT32_TOLERANCE
) -> None:
    """Compare the ids of prompts, and their greedy continuations, with those that users of transformers get.

    Raises:
        CheckpointError: names the prompt and the first id that differs. A tie of two logits does not count.
    """
    for one in expected:
        if one.text is None:
            continue
        what = _first_other(one.prompt_ids, peer.prompt_ids(one.text), f"the prompt {one.text!a:.80}")
        what = what or _first_other_choice(one, peer, tolerance)
        if what:
            raise CheckpointError(f"{name}: other ids than this package's: {what}")


def _first_other_choice(one: Expected, peer: TransformersPeer, tolerance: float) -> str | None:
    """Return the first id of a greedy continuation that differs, or None; a tie of two logits is none."""
    ours = one.new_ids
    theirs = peer.continuation(one.given_ids, one.max_new_tokens) if one.max_new_tokens else []
    place = next((i for i, (own, other) in enumerate(zip(ours, theirs, strict=False)) if own != other), None)
    if place is not None:
        row = one.logits[one.num_given + place - 1]
        apart = (row[ours[place]] - row[theirs[place]]).abs().item()
        if apart <= 2 * tolerance * max(1.0, row.abs().max().item()):
            return None
    return _first_other(ours, theirs, f"the greedy continuation of {one.text!a:.80}")


class TransformersPeer:
    """A folder as users of transformers load it, weights in float32; no code from the folder is run."""

    def __init__(self, folder: Path) -> None:
        transformers = _transformers()
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        # Left to itself, transformers rounds the weights to the precision that config.json names.
        major = int(importlib.metadata.version("transformers").partition(".")[0])
        options |= {"dtype" if major >= 5 else "torch_dtype": torch.float32, "use_safetensors": True}
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()
        own = self.model.generation_config
        self.end_ids = {*(own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id])}
        # Settings that this package does not have are named to the user, and take no part here.
        self.model.generation_config = transformers.GenerationConfig(
            do_sample=False,
            eos_token_id=own.eos_token_id,
            pad_token_id=next((end for end in self.end_ids if end is not None), 0),
            repetition_penalty=own.repetition_penalty,
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text itself."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt_ids(self, text: str) -> list[int]:
        """Return the ids that a prompt has for the model."""
        return list(self.tokenizer(text)["input_ids"])

    def logits(self, ids: list[int]) -> Tensor:
        """Return the logits of each next token [T, vocab_size or more]."""
        with torch.inference_mode():
            found: Tensor = self.model(self._tensor(ids)).logits[0]
        return found

    def continuation(self, ids: list[int], max_new_tokens: int) -> list[int]:
        """Return the ids that `generate` adds greedily, without the one that ends the text."""
        rows, size = self.model.config.vocab_size, len(self.tokenizer)
        unused = {"suppress_tokens": [*range(size, rows)]} if rows > size else {}
        given = self._tensor(ids)
        found = self.model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=max_new_tokens, **unused
        )
        new_ids: list[int] = found[0, len(ids) :].tolist()
        return new_ids[:-1] if new_ids[-1:] and new_ids[-1] in self.end_ids else new_ids

    def _tensor(self, ids: list[int]) -> Tensor:
        return torch.tensor([ids], dtype=torch.long, device="cpu")


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


def tokenizers_tokenizer(path: Path) -> Encode:
    """Load a tokenizer.json with tokenizers and return its encoding function (no special tokens added).

    Fine-tuning often leaves a length in the file to which every text would be filled up or cut.
    """
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def version_of(package: str) -> str:
    """Return a package's name and version, such as `transformers 5.23.0`."""
    return f"{package} {importlib.import_module(package).__version__}"


def _transformers() -> Any:
    transformers = importlib.import_module("transformers")
    # Its messages while it loads would appear between our lines.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers
